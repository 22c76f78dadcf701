"""CoinGecko's `/coins/markets`."""

from dataplatform.lake.api.endpoint import Endpoint, Field, money, price

endpoint = Endpoint(
    name="coins_markets",
    description="Price, market capitalisation, volume and changes of every coin, page by page.",
    path="/coins/markets",
    every="hour",
    page_size=250,
    params={
        "vs_currency": "usd",
        "order": "market_cap_desc",
        "price_change_percentage": "1h,24h,7d,30d",
        "precision": "full",
    },
    fields=(
        Field("id", required=True),
        Field("symbol", required=True),
        Field("name", required=True),
        price("current_price"),
        money("market_cap"),
        Field("market_cap_rank", "int", minimum=1),
        money("fully_diluted_valuation"),
        money("total_volume"),
        price("high_24h"),
        price("low_24h"),
        Field("price_change_percentage_1h_in_currency", "double"),
        Field("price_change_percentage_24h_in_currency", "double"),
        Field("price_change_percentage_7d_in_currency", "double"),
        Field("price_change_percentage_30d_in_currency", "double"),
        Field("price_change_percentage_24h", "double"),
        Field("circulating_supply", "double", minimum=0.0),
        Field("total_supply", "double", minimum=0.0),
        Field("max_supply", "double", minimum=0.0),
        price("ath"),
        Field("ath_date", "timestamp"),
        price("atl"),
        Field("atl_date", "timestamp"),
        Field("last_updated", "timestamp"),
    ),
    ignored=frozenset(
        {
            "image",
            "price_change_24h",
            "market_cap_change_24h",
            "market_cap_change_percentage_24h",
            "ath_change_percentage",
            "atl_change_percentage",
            "roi",
            "market_cap_rank_with_rehypothecated",
        }
    ),
)
