"""CoinGecko's `/coins/{id}/market_chart/range`."""

from typing import Final

from dataplatform.lake.api.endpoint import Endpoint, Field, epoch_ms, money, price

# A neighbour array that is shorter, or shifted, gives null rather than another point's figure.
_RECORDS: Final = """
  flatten(transform(
    array(from_json(body, 'struct<prices: array<array<string>>, market_caps: array<array<string>>, total_volumes: array<array<string>>>')),
    chart -> transform(chart.prices, (point, i) -> to_json(named_struct(
      'at', point[0],
      'price', point[1],
      'market_cap', if(get(chart.market_caps, i)[0] = point[0], get(chart.market_caps, i)[1], null),
      'volume', if(get(chart.total_volumes, i)[0] = point[0], get(chart.total_volumes, i)[1], null),
      'is_last', i = size(chart.prices) - 1
    )))
  ))
"""

endpoint = Endpoint(
    name="market_chart",
    description="Price, market capitalisation and rolling 24 h volume over time, coin by coin.",
    path="/coins/{id}/market_chart/range",
    every="partition",
    params={"vs_currency": "usd", "precision": "full"},
    records_sql=_RECORDS,
    envelope=frozenset({"prices", "market_caps", "total_volumes"}),
    fields=(
        epoch_ms("at"),
        price("price", required=True),
        money("market_cap"),
        money("volume"),
        Field("is_last", "boolean"),
    ),
)
