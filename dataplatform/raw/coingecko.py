"""CoinGecko's endpoints, one declaration each.

Field types and bounds follow the official OpenAPI; the oddities were measured in real answers:
numbers come as ints and floats mixed, `roi` is null or an object, ranks and supplies may be null.
"""

from typing import Final

from dataplatform.lake.endpoint import Endpoint, Field, money, price

coins_markets = Endpoint(
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

coins_list = Endpoint(
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

coins_categories = Endpoint(
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

global_ = Endpoint(
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

exchanges = Endpoint(
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

# A neighbour array that is shorter, or shifted, gives null rather than another point's figure.
_MARKET_CHART_RECORDS: Final = """
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

market_chart = Endpoint(
    name="market_chart",
    description="Price, market capitalisation and rolling 24 h volume over time, coin by coin.",
    path="/coins/{id}/market_chart/range",
    every="partition",
    params={"vs_currency": "usd", "precision": "full"},
    records_sql=_MARKET_CHART_RECORDS,
    envelope=frozenset({"prices", "market_caps", "total_volumes"}),
    fields=(
        Field("at", "double", required=True, minimum=0.0),
        price("price", required=True),
        money("market_cap"),
        money("volume"),
        Field("is_last", "boolean"),
    ),
)

ohlc = Endpoint(
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
        Field("closed_at", "double", required=True, minimum=0.0),
        price("open", required=True),
        price("high", required=True),
        price("low", required=True),
        price("close", required=True),
    ),
)

ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    coins_markets,
    coins_list,
    coins_categories,
    global_,
    exchanges,
    market_chart,
    ohlc,
)
