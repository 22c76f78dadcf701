"""CoinGecko's `/coins/list`."""

from dataplatform.lake.api.endpoint import Endpoint, Field

endpoint = Endpoint(
    name="coins_list",
    description="Every coin that CoinGecko lists, with the contract address on each platform.",
    path="/coins/list",
    every="day",
    params={"include_platform": "true"},
    fields=(
        Field("id", required=True),
        Field("symbol"),
        Field("name", required=True),
        Field("platforms", "map<string,string>"),
    ),
)
