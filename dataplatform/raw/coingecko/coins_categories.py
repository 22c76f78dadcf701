"""CoinGecko's `/coins/categories`."""

from dataplatform.lake.api.endpoint import Endpoint, Field, money

endpoint = Endpoint(
    name="coins_categories",
    description="Market capitalisation and volume of each category of coins.",
    path="/coins/categories",
    every="hour",
    fields=(
        Field("id", required=True),
        Field("name", required=True),
        money("market_cap"),
        Field("market_cap_change_24h", "double"),
        money("volume_24h"),
        Field("top_3_coins_id", "array<string>"),
        Field("updated_at", "timestamp"),
    ),
    ignored=frozenset({"content", "top_3_coins"}),
)
