"""CoinGecko's `/exchanges`."""

from dataplatform.lake.api.endpoint import Endpoint, Field

endpoint = Endpoint(
    name="exchanges",
    description="Exchanges with their trust score and traded volume.",
    path="/exchanges",
    every="day",
    page_size=250,
    fields=(
        Field("id", required=True),
        Field("name", required=True),
        Field("year_established", "int"),
        Field("country"),
        Field("url"),
        Field("trust_score", "int"),
        Field("trust_score_rank", "int", minimum=1),
        Field("trade_volume_24h_btc", "double", minimum=0.0),
        Field("trade_volume_24h_btc_normalized", "double", minimum=0.0),
    ),
    ignored=frozenset({"description", "image", "has_trading_incentive"}),
)
