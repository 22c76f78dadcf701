"""CoinGecko's `/coins/{id}/ohlc`."""

from dataplatform.lake.api.endpoint import Endpoint, epoch_ms, price

endpoint = Endpoint(
    name="ohlc",
    description="Open, high, low and close of each candle, coin by coin.",
    path="/coins/{id}/ohlc",
    every="day",
    params={"vs_currency": "usd", "days": "30", "precision": "full"},
    records_sql="""
      transform(from_json(body, 'array<array<string>>'), c -> to_json(named_struct(
        'closed_at', c[0], 'open', c[1], 'high', c[2], 'low', c[3], 'close', c[4])))
    """,
    fields=(
        epoch_ms("closed_at"),
        price("open", required=True),
        price("high", required=True),
        price("low", required=True),
        price("close", required=True),
    ),
)
