"""CoinGecko's `/global`."""

from dataplatform.lake.api.endpoint import Endpoint, Field

endpoint = Endpoint(
    name="global",
    description="The whole market in one record: capitalisation, volume, dominance, counts.",
    path="/global",
    every="hour",
    records_sql="array(get_json_object(body, '$.data'))",
    envelope=frozenset({"data"}),
    fields=(
        Field("active_cryptocurrencies", "int", required=True, minimum=0),
        Field("markets", "int", minimum=0),
        Field("total_market_cap", "map<string,double>", required=True),
        Field("total_volume", "map<string,double>"),
        Field("market_cap_percentage", "map<string,double>"),
        Field("market_cap_change_percentage_24h_usd", "double"),
        Field("updated_at", "bigint", required=True, minimum=0),
    ),
    ignored=frozenset(
        {
            "upcoming_icos",
            "ongoing_icos",
            "ended_icos",
            "volume_change_percentage_24h_usd",
        }
    ),
)
