"""The lineage's tables as one plain PySpark script: what `lineage` compares the platform with.

`python -m benchmarks.plain_pyspark DATALAKE OUT JAR:JAR`: reads the raw files below DATALAKE and
writes the same tables, `quarantine` aside, to an Iceberg catalog in OUT. By hand and from nothing: no engine, no
state, no increments, no branches, no checks, no views; it imports nothing of the platform. The SQL is
that of the tables without what only increments need, so that both do the same arithmetic.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

MARKET_CHART: Final = """
flatten(transform(
  array(from_json(body, 'struct<prices: array<array<string>>, market_caps: array<array<string>>, total_volumes: array<array<string>>>')),
  chart -> transform(chart.prices, (point, i) -> to_json(named_struct(
    'at', CAST(point[0] AS DOUBLE),
    'price', CAST(point[1] AS DOUBLE),
    'market_cap', CAST(IF(get(chart.market_caps, i)[0] = point[0], get(chart.market_caps, i)[1], NULL) AS DOUBLE),
    'volume', CAST(IF(get(chart.total_volumes, i)[0] = point[0], get(chart.total_volumes, i)[1], NULL) AS DOUBLE),
    'is_last', i = size(chart.prices) - 1
  )))
))
"""

OHLC: Final = """
transform(from_json(body, 'array<array<double>>'), c -> to_json(named_struct(
  'closed_at', c[0], 'open', c[1], 'high', c[2], 'low', c[3], 'close', c[4])))
"""

ARRAY: Final = "from_json(body, 'array<string>')"

# Endpoint: view, how a body splits into records, fields, the field that no record may lack.
JSON_ENDPOINTS: Final[Mapping[str, tuple[str, str, str, str]]] = {
    "coins_markets": (
        "coins_markets",
        ARRAY,
        """
        id string, symbol string, name string, current_price double, market_cap double,
        market_cap_rank int, fully_diluted_valuation double, total_volume double,
        high_24h double, low_24h double, price_change_percentage_1h_in_currency double,
        price_change_percentage_24h_in_currency double,
        price_change_percentage_7d_in_currency double,
        price_change_percentage_30d_in_currency double, price_change_percentage_24h
        double, circulating_supply double, total_supply double, max_supply double, ath
        double, ath_date timestamp, atl double, atl_date timestamp, last_updated
        timestamp
        """,
        "id",
    ),
    "coins_list": (
        "coins_list",
        ARRAY,
        "id string, symbol string, name string, platforms map<string,string>",
        "id",
    ),
    "coins_categories": (
        "coins_categories",
        ARRAY,
        """
        id string, name string, market_cap double, market_cap_change_24h double,
        volume_24h double, top_3_coins_id array<string>, updated_at timestamp
        """,
        "id",
    ),
    "global": (
        "raw_global",
        "array(get_json_object(body, '$.data'))",
        """
        active_cryptocurrencies int, markets int, total_market_cap map<string,double>,
        total_volume map<string,double>, market_cap_percentage map<string,double>,
        market_cap_change_percentage_24h_usd double, updated_at bigint
        """,
        "updated_at",
    ),
    "exchanges": (
        "raw_exchanges",
        ARRAY,
        """
        id string, name string, year_established int, country string, url string,
        trust_score int, trust_score_rank int, trade_volume_24h_btc double,
        trade_volume_24h_btc_normalized double
        """,
        "id",
    ),
    "market_chart": (
        "market_chart",
        MARKET_CHART,
        "at double, price double, market_cap double, volume double, is_last boolean",
        "price",
    ),
    "ohlc": (
        "raw_ohlc",
        OHLC,
        "closed_at double, open double, high double, low double, close double",
        "close",
    ),
}

MARKET_SNAPSHOTS: Final = """
SELECT
  id AS coin_id,
  vs_currency,
  slot_at AS snapshot_at,
  symbol,
  name,
  current_price AS price,
  market_cap,
  market_cap_rank,
  fully_diluted_valuation,
  total_volume,
  high_24h,
  low_24h,
  price_change_percentage_1h_in_currency AS change_1h_pct,
  coalesce(
    price_change_percentage_24h_in_currency, price_change_percentage_24h
  ) AS change_24h_pct,
  price_change_percentage_7d_in_currency AS change_7d_pct,
  price_change_percentage_30d_in_currency AS change_30d_pct,
  circulating_supply,
  total_supply,
  max_supply,
  ath,
  ath_date AS ath_at,
  atl,
  atl_date AS atl_at,
  last_updated AS last_updated_at,
  origin,
  fetched_at,
  raw_key
FROM (
  SELECT *, row_number() OVER (
    PARTITION BY id, vs_currency, slot_at
    ORDER BY
      last_updated DESC NULLS LAST, page DESC NULLS LAST, fetched_at DESC,
      raw_key DESC, record_hash DESC
  ) AS position
  FROM (
    SELECT
      *,
      lower(coalesce(params['vs_currency'], 'usd')) AS vs_currency,
      CAST(params['page'] AS INT) AS page
    FROM coins_markets
  )
)
WHERE position = 1
"""

PRICE_POINTS: Final = """
WITH points AS (
  SELECT
    params['id'] AS coin_id,
    lower(coalesce(params['vs_currency'], 'usd')) AS vs_currency,
    CAST(at AS BIGINT) AS ms,
    price, market_cap, volume,
    coalesce(is_last, false) AS is_last,
    origin, fetched_at, raw_key, record_hash
  FROM market_chart
),
spans AS (
  SELECT
    *,
    min(ms) OVER response AS first_ms,
    max(ms) OVER response AS last_ms,
    max(IF(is_last, NULL, ms)) OVER response AS before_last_ms,
    count(*) OVER response AS points,
    count_if(NOT is_last) OVER response AS points_before
  FROM points
  WINDOW response AS (PARTITION BY raw_key)
),
steps AS (
  SELECT
    *,
    CASE
      WHEN points_before >= 2 THEN (before_last_ms - first_ms) / (points_before - 1)
      WHEN points >= 2 THEN (last_ms - first_ms) / (points - 1)
    END AS step_ms
  FROM spans
),
measured AS (
  SELECT
    *,
    CASE
      WHEN step_ms IS NULL AND ms % 86400000 = 0 THEN 'daily'
      WHEN step_ms IS NULL THEN 'hourly'
      WHEN step_ms < 15 * 60000 THEN '5m'
      WHEN step_ms < 6 * 3600000 THEN 'hourly'
      ELSE 'daily'
    END AS granularity
  FROM steps
),
marked AS (
  SELECT
    *,
    is_last AND CASE
      WHEN granularity = 'daily' THEN ms % 86400000 <> 0
      WHEN ms > unix_millis(fetched_at) - 600000 THEN true
      ELSE coalesce(
        ms > unix_millis(fetched_at) - step_ms AND ms - before_last_ms < 0.9 * step_ms,
        false
      )
    END AS is_partial
  FROM measured
)
SELECT
  coin_id,
  vs_currency,
  timestamp_millis(ms) AS observed_at,
  price,
  market_cap,
  volume AS volume_24h,
  granularity,
  is_partial,
  origin,
  fetched_at,
  raw_key
FROM (
  SELECT *, row_number() OVER (
    PARTITION BY coin_id, vs_currency, ms
    ORDER BY is_partial, fetched_at DESC, raw_key DESC, record_hash DESC
  ) AS position
  FROM marked
)
WHERE position = 1
"""

OHLC_CANDLES: Final = """
WITH candles AS (
  SELECT
    *,
    params['id'] AS coin_id,
    lower(coalesce(params['vs_currency'], 'usd')) AS vs_currency,
    CAST(closed_at AS BIGINT) AS closed_ms,
    CASE
      WHEN params['interval'] = 'hourly' THEN 60
      WHEN params['interval'] = 'daily' THEN 1440
      WHEN params['days'] = '1' THEN 30
      WHEN CAST(params['days'] AS INT) <= 30 THEN 240
      ELSE 5760
    END AS candle_minutes
  FROM raw_ohlc
)
SELECT
  coin_id,
  vs_currency,
  timestamp_millis(closed_ms) AS closed_at,
  candle_minutes,
  `open`, high, low, `close`,
  origin,
  fetched_at,
  raw_key
FROM (
  SELECT *, row_number() OVER (
    PARTITION BY coin_id, vs_currency, candle_minutes, closed_ms
    ORDER BY fetched_at DESC, raw_key DESC, record_hash DESC
  ) AS position
  FROM candles
)
WHERE position = 1
"""

CATEGORIES: Final = """
SELECT
  id AS category_id,
  slot_at AS snapshot_at,
  name,
  market_cap AS market_cap_usd,
  market_cap_change_24h AS market_cap_change_24h_pct,
  volume_24h AS volume_24h_usd,
  top_3_coins_id AS top_coins,
  updated_at,
  origin,
  fetched_at,
  raw_key
FROM (
  SELECT *, row_number() OVER (
    PARTITION BY id, slot_at
    ORDER BY updated_at DESC NULLS LAST, fetched_at DESC, raw_key DESC, record_hash DESC
  ) AS position
  FROM coins_categories
)
WHERE position = 1
"""

GLOBAL_MARKET: Final = """
SELECT
  slot_at AS snapshot_at,
  timestamp_seconds(updated_at) AS updated_at,
  active_cryptocurrencies,
  markets,
  total_market_cap['usd'] AS total_market_cap_usd,
  total_volume['usd'] AS total_volume_usd,
  market_cap_percentage['btc'] AS btc_dominance_pct,
  market_cap_percentage['eth'] AS eth_dominance_pct,
  market_cap_change_percentage_24h_usd AS market_cap_change_24h_pct,
  origin,
  fetched_at,
  raw_key
FROM (
  SELECT *, row_number() OVER (
    PARTITION BY slot_at
    ORDER BY updated_at DESC, fetched_at DESC, raw_key DESC, record_hash DESC
  ) AS position
  FROM raw_global
)
WHERE position = 1
"""

EXCHANGES: Final = """
SELECT
  id AS exchange_id,
  slot_at AS snapshot_at,
  name,
  nullif(country, '') AS country,
  year_established,
  nullif(url, '') AS url,
  trust_score,
  trust_score_rank,
  trade_volume_24h_btc AS volume_24h_btc,
  trade_volume_24h_btc_normalized AS volume_24h_btc_normalized,
  origin,
  fetched_at,
  raw_key
FROM (
  SELECT *, row_number() OVER (
    PARTITION BY id, slot_at
    ORDER BY
      CAST(params['page'] AS INT) DESC NULLS LAST, fetched_at DESC, raw_key DESC,
      record_hash DESC
  ) AS position
  FROM raw_exchanges
)
WHERE position = 1
"""

COINS: Final = """
WITH complete_listings AS (
  SELECT sort_array(collect_list(listing)) AS listings
  FROM (
    SELECT struct(slot_at AS at, min(raw_key) AS raw_key, min(origin) AS origin) AS listing
    FROM coins_list
    WHERE complete
    GROUP BY slot_at
  )
),
sightings AS (
  SELECT
    id AS coin_id, symbol, name, slot_at AS valid_from, origin, fetched_at, raw_key,
    CAST(NULL AS STRING) AS status, CAST(NULL AS STRING) AS change, complete, record_hash
  FROM coins_list
),
distinct_sightings AS (
  SELECT
    *,
    get(
      filter((SELECT listings FROM complete_listings), one -> one.at > valid_from), 0
    ) AS next_complete
  FROM (
    SELECT *, row_number() OVER (
      PARTITION BY coin_id, valid_from
      ORDER BY complete DESC, fetched_at DESC, raw_key DESC, record_hash DESC
    ) AS position
    FROM sightings
  )
  WHERE position = 1
),
compared AS (
  SELECT
    *,
    lag(symbol) OVER coin AS symbol_before,
    lag(name) OVER coin AS name_before,
    lag(coin_id) OVER coin IS NOT NULL AS is_known,
    coalesce(lag(status) OVER coin = 'delisted', false)
      OR coalesce(lag(next_complete.at) OVER coin < valid_from, false) AS was_delisted,
    lead(valid_from) OVER coin AS seen_next
  FROM distinct_sightings
  WINDOW coin AS (PARTITION BY coin_id ORDER BY valid_from)
),
versions AS (
  SELECT coin_id, symbol, name, inline(array(
    named_struct(
      'valid_from', valid_from,
      'status', coalesce(status, 'listed'),
      'change', CASE
        WHEN change IS NOT NULL THEN change
        WHEN NOT is_known THEN 'new'
        WHEN was_delisted THEN 'relisted'
        WHEN NOT (symbol <=> symbol_before AND name <=> name_before) THEN 'renamed'
      END,
      'is_published', status IS NOT NULL,
      'origin', origin, 'fetched_at', fetched_at, 'raw_key', raw_key
    ),
    named_struct(
      'valid_from', next_complete.at,
      'status', 'delisted',
      'change', IF(
        coalesce(status, 'listed') = 'listed'
          AND next_complete IS NOT NULL
          AND coalesce(next_complete.at < seen_next, true),
        'delisted', NULL
      ),
      'is_published', false,
      'origin', next_complete.origin,
      'fetched_at', next_complete.at,
      'raw_key', next_complete.raw_key
    )
  ))
  FROM compared
),
dated AS (
  SELECT
    *,
    lead(valid_from) OVER (PARTITION BY coin_id ORDER BY valid_from) AS valid_to
  FROM versions
  WHERE change IS NOT NULL
)
SELECT
  coin_id, valid_from, valid_to, valid_to IS NULL AS is_current,
  symbol, name, status, change, origin, fetched_at, raw_key
FROM dated
"""

COIN_PLATFORMS: Final = """
WITH listed AS (
  SELECT
    id AS coin_id, platform, contract_address, origin, fetched_at, raw_key, record_hash
  FROM coins_list
  LATERAL VIEW explode(platforms) exploded AS platform, contract_address
  WHERE trim(platform) <> '' AND trim(contract_address) <> ''
),
sightings AS (
  SELECT
    coin_id, platform, contract_address, fetched_at AS first_seen_at, origin, fetched_at,
    raw_key, false AS is_base
  FROM (
    SELECT *, row_number() OVER (
      PARTITION BY coin_id, platform, fetched_at ORDER BY raw_key DESC, record_hash DESC
    ) AS position
    FROM listed
  )
  WHERE position = 1
),
compared AS (
  SELECT
    *,
    min(first_seen_at) OVER contract AS seen_first_at,
    NOT (contract_address <=> lag(contract_address) OVER in_time) AS is_change
  FROM sightings
  WINDOW
    contract AS (PARTITION BY coin_id, platform),
    in_time AS (PARTITION BY coin_id, platform ORDER BY fetched_at, is_base DESC)
)
SELECT
  coin_id, platform, contract_address, seen_first_at AS first_seen_at, origin, fetched_at,
  raw_key
FROM (
  SELECT *, row_number() OVER (
    PARTITION BY coin_id, platform ORDER BY fetched_at DESC, is_base
  ) AS position
  FROM compared
  WHERE is_change
)
WHERE position = 1 AND NOT is_base
"""

DATED: Final = """
SELECT
  *,
  IF(
    substr(date, 3, 1) = '-',
    make_date(
      CAST(substr(date, 7, 4) AS INT),
      CAST(substr(date, 4, 2) AS INT),
      CAST(substr(date, 1, 2) AS INT)
    ),
    try_cast(date AS DATE)
  ) AS day
FROM raw_inbox
"""

CANDIDATES: Final = """
SELECT
  coin_id, vs_currency, CAST(observed_at AS DATE) AS day,
  price, nullif(market_cap, 0) AS market_cap, volume_24h,
  'market_chart' AS source,
  IF(
    granularity = 'daily' AND observed_at = date_trunc('DAY', observed_at),
    1, 3
  ) AS source_rank,
  observed_at, origin, fetched_at, raw_key
FROM price_points
WHERE NOT is_partial
  AND price >= 1e-30
UNION ALL
SELECT
  coin_id, vs_currency, CAST(snapshot_at AS DATE),
  price, nullif(market_cap, 0), total_volume,
  'market_snapshots', 3, snapshot_at, origin, fetched_at, raw_key
FROM market_snapshots
WHERE coalesce(last_updated_at >= snapshot_at - INTERVAL 1 DAY, true)
  AND price >= 1e-30
UNION ALL
SELECT
  coingecko_coin_id, vs_currency, day, price, nullif(market_cap, 0), volume_24h,
  'inbox', 2, CAST(day AS TIMESTAMP), origin, fetched_at, raw_key
FROM dated
LATERAL VIEW stack(
  3,
  'usd', price_usd, market_cap_usd, volume_24h_usd,
  'eur', price_eur, CAST(NULL AS DOUBLE), CAST(NULL AS DOUBLE),
  'chf', price_chf, CAST(NULL AS DOUBLE), CAST(NULL AS DOUBLE)
) amounts AS vs_currency, price, market_cap, volume_24h
WHERE day IS NOT NULL AND price >= 1e-30
"""

DAILY_PRICES: Final = """
WITH best AS (
  SELECT *
  FROM (
    SELECT *, row_number() OVER (
      PARTITION BY coin_id, vs_currency, day
      ORDER BY
        source_rank, observed_at, fetched_at DESC, source, raw_key DESC, price, market_cap,
        volume_24h
    ) AS position
    FROM candidates
  )
  WHERE position = 1
),
stepped AS (
  SELECT
    *,
    lag(day) OVER in_time AS day_before,
    max(origin) OVER coin AS lake_origin
  FROM best
  WINDOW
    coin AS (PARTITION BY coin_id, vs_currency),
    in_time AS (PARTITION BY coin_id, vs_currency ORDER BY day)
)
SELECT
  coin_id,
  vs_currency,
  grid_day AS day,
  IF(grid_day = day, price, NULL) AS price,
  IF(grid_day = day, market_cap, NULL) AS market_cap,
  IF(grid_day = day, volume_24h, NULL) AS volume_24h,
  IF(grid_day = day, source, 'missing') AS source,
  IF(grid_day = day, source_rank, 9) AS source_rank,
  IF(grid_day = day, observed_at, NULL) AS observed_at,
  lake_origin AS origin,
  IF(grid_day = day, fetched_at, NULL) AS fetched_at,
  IF(grid_day = day, raw_key, NULL) AS raw_key
FROM stepped
LATERAL VIEW explode(sequence(coalesce(date_add(day_before, 1), day), day)) days AS grid_day
"""

COIN_METRICS_DAILY: Final = """
WITH grids AS (
  SELECT coin_id, sort_array(collect_list(struct(day, price, origin))) AS grid
  FROM daily_prices
  WHERE vs_currency = 'usd'
  GROUP BY coin_id
),
series AS (
  SELECT
    coin_id, grid, grid.price AS prices,
    transform(grid, (one, i) -> ln(one.price / get(grid, i - 1).price)) AS log_returns
  FROM grids
),
windows AS (
  SELECT coin_id, inline(transform(
    sequence(1, size(grid)),
    i -> named_struct(
      'day', grid[i - 1].day,
      'price', prices[i - 1],
      'origin', grid[i - 1].origin,
      'price_1d', get(prices, i - 2),
      'price_7d', get(prices, i - 8),
      'price_30d', get(prices, i - 31),
      'price_365d', get(prices, i - 366),
      'returns', slice(log_returns, greatest(i - 29, 1), least(i, 30)),
      'days_7', IF(i >= 7, slice(prices, i - 6, 7), NULL),
      'days_30', IF(i >= 30, slice(prices, i - 29, 30), NULL),
      'days_200', IF(i >= 200, slice(prices, i - 199, 200), NULL)
    )
  ))
  FROM series
),
known AS (
  SELECT
    *,
    filter(returns, one -> one IS NOT NULL) AS returns_30,
    filter(days_7, one -> one IS NOT NULL) AS known_7,
    filter(days_30, one -> one IS NOT NULL) AS known_30,
    filter(days_200, one -> one IS NOT NULL) AS known_200
  FROM windows
),
summed AS (
  SELECT
    *,
    aggregate(returns_30, 0D, (total, one) -> total + one) / size(returns_30)
      AS mean_return,
    aggregate(known_7, 0D, (total, one) -> total + one) / size(known_7) AS ma_7d,
    aggregate(known_30, 0D, (total, one) -> total + one) / size(known_30) AS ma_30d,
    aggregate(known_200, 0D, (total, one) -> total + one) / size(known_200) AS ma_200d,
    max(price) OVER (
      PARTITION BY coin_id ORDER BY day ROWS UNBOUNDED PRECEDING
    ) AS peak_since
  FROM known
),
peaked AS (
  SELECT
    summed.*,
    peak_since AS peak,
    sqrt(
      aggregate(
        returns_30, 0D, (total, one) -> total + (one - mean_return) * (one - mean_return)
      ) / (size(returns_30) - 1)
    ) AS deviation
  FROM summed
)
SELECT
  coin_id,
  day,
  price AS price_usd,
  price / price_1d - 1 AS return_1d,
  price / price_7d - 1 AS return_7d,
  price / price_30d - 1 AS return_30d,
  price / price_365d - 1 AS return_365d,
  IF(size(returns_30) >= 20, deviation * sqrt(365), NULL) AS volatility_30d,
  peak AS peak_price_usd,
  price / peak - 1 AS drawdown,
  ma_7d,
  ma_30d,
  ma_200d,
  origin
FROM peaked
"""

MARKET_DAILY: Final = """
WITH priced AS (
  SELECT prices.*, metrics.return_1d
  FROM daily_prices prices
  LEFT JOIN coin_metrics_daily metrics
    ON metrics.coin_id = prices.coin_id
    AND metrics.day = prices.day
  WHERE prices.vs_currency = 'usd'
    AND prices.price IS NOT NULL
),
gathered AS (
  SELECT
    day,
    CAST(count(*) AS INT) AS coins,
    sort_array(collect_list(market_cap)) AS caps,
    sort_array(collect_list(volume_24h)) AS volumes,
    max(IF(coin_id = 'bitcoin', market_cap, NULL)) AS btc_cap,
    max(IF(coin_id = 'ethereum', market_cap, NULL)) AS eth_cap,
    CAST(count_if(return_1d > 0) AS INT) AS advancers,
    CAST(count_if(return_1d < 0) AS INT) AS decliners,
    count(return_1d) AS moved,
    max(origin) AS origin
  FROM priced
  GROUP BY day
),
added AS (
  SELECT
    *,
    IF(size(caps) > 0, aggregate(caps, 0D, (total, cap) -> total + cap), NULL)
      AS total_market_cap_usd,
    IF(size(volumes) > 0, aggregate(volumes, 0D, (total, one) -> total + one), NULL)
      AS volume_24h_usd
  FROM gathered
)
SELECT
  day,
  coins,
  total_market_cap_usd,
  volume_24h_usd,
  IF(size(caps) >= 20, btc_cap / total_market_cap_usd, NULL) AS btc_dominance,
  IF(size(caps) >= 20, eth_cap / total_market_cap_usd, NULL) AS eth_dominance,
  advancers,
  decliners,
  advancers / moved AS breadth,
  origin
FROM added
"""

CORRELATIONS: Final = """
WITH prices AS (
  SELECT
    coin_id, day, price, market_cap, origin,
    IF(
      lag(day) OVER in_time = date_sub(day, 1), ln(price / lag(price) OVER in_time), NULL
    ) AS log_return
  FROM daily_prices
  WHERE vs_currency = 'usd'
  WINDOW in_time AS (PARTITION BY coin_id ORDER BY day)
),
counted AS (
  SELECT
    *,
    count(log_return) OVER (
      PARTITION BY coin_id ORDER BY day ROWS UNBOUNDED PRECEDING
    ) AS returns_so_far
  FROM prices
),
eligible AS (
  SELECT
    *,
    price IS NOT NULL
      AND returns >= 30 AS is_eligible
  FROM (
    SELECT
      *,
      returns_so_far - coalesce(
        lag(returns_so_far, 90) OVER (PARTITION BY coin_id ORDER BY day), 0
      ) AS returns
    FROM counted
  )
),
ranked AS (
  SELECT
    coin_id, day, log_return, origin,
    is_eligible AND row_number() OVER (
      PARTITION BY day, is_eligible
      ORDER BY market_cap DESC NULLS LAST, returns DESC, coin_id
    ) <= 15 AS is_top
  FROM eligible
),
largest AS (
  SELECT *
  FROM (SELECT *, max(is_top) OVER (PARTITION BY coin_id) AS is_ever_top FROM ranked)
  WHERE is_ever_top
),
days AS (
  SELECT
    day,
    max(origin) AS origin,
    sort_array(collect_list(struct(coin_id, log_return, is_top))) AS coins
  FROM largest
  GROUP BY day
),
pairs AS (
  SELECT
    day, origin,
    one.coin_id AS coin_a, other.coin_id AS coin_b,
    one.log_return AS return_a, other.log_return AS return_b,
    one.is_top AND other.is_top AS is_wanted
  FROM days
  LATERAL VIEW posexplode(coins) ones AS position, one
  LATERAL VIEW explode(slice(coins, position + 2, size(coins))) others AS other
),
correlated AS (
  SELECT
    *,
    corr(return_a, return_b) OVER recent AS correlation,
    CAST(count(return_a + return_b) OVER recent AS INT) AS observations
  FROM pairs
  WINDOW recent AS (
    PARTITION BY coin_a, coin_b ORDER BY day
    RANGE BETWEEN 89 PRECEDING AND CURRENT ROW
  )
)
SELECT day, coin_a, coin_b, correlation, observations, origin
FROM correlated
WHERE is_wanted
  AND observations >= 30
  AND correlation IS NOT NULL
  AND NOT isnan(correlation)
"""

# Table: its SQL and its partitioning, in the order of building.
TABLES: Final[Mapping[str, tuple[str, str]]] = {
    "market_snapshots": (MARKET_SNAPSHOTS, "days(snapshot_at)"),
    "price_points": (PRICE_POINTS, "months(observed_at)"),
    "ohlc": (OHLC_CANDLES, "years(closed_at)"),
    "categories": (CATEGORIES, "months(snapshot_at)"),
    "global_market": (GLOBAL_MARKET, "months(snapshot_at)"),
    "exchanges": (EXCHANGES, "months(snapshot_at)"),
    "coins": (COINS, ""),
    "coin_platforms": (COIN_PLATFORMS, ""),
    "daily_prices": (DAILY_PRICES, "years(day)"),
    "coin_metrics_daily": (COIN_METRICS_DAILY, "years(day)"),
    "market_daily": (MARKET_DAILY, "years(day)"),
    "correlations": (CORRELATIONS, "years(day)"),
}


def session(out: Path, jars: str) -> "SparkSession":
    """Start Spark as the platform starts it: the same heap, flags and catalog."""
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    from pyspark.sql import SparkSession

    conf = {
        "spark.master": "local[*]",
        "spark.driver.memory": "1g",
        "spark.driver.extraClassPath": jars,
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.catalog.lake": "org.apache.iceberg.spark.SparkCatalog",
        "spark.sql.catalog.lake.type": "jdbc",
        "spark.sql.catalog.lake.uri": f"jdbc:sqlite:{out}/catalog.db",
        "spark.sql.catalog.lake.jdbc.schema-version": "V1",
        "spark.sql.catalog.lake.warehouse": f"file://{out}/warehouse",
        "spark.sql.defaultCatalog": "lake",
    }
    builder = SparkSession.builder
    for name, value in conf.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def files(datalake: Path) -> list[dict[str, Any]]:
    """Return every raw file with the lineage that its rows carry."""
    manifests = (json.loads(path.read_bytes()) for path in datalake.rglob("manifest.json"))
    return [
        {
            "endpoint": manifest["slot"]["endpoint"],
            "raw_key": file["key"],
            "slot_at": manifest["fetched_at"],
            "fetched_at": file["fetched_at"],
            "origin": manifest["origin"],
            "complete": manifest["complete"],
            "params": file["params"],
        }
        for manifest in manifests
        for file in manifest["files"]
    ]


def register(spark: "SparkSession", datalake: Path, listed: list[dict[str, Any]]) -> None:
    """Make a view of each endpoint's records, and one of those without their main field."""
    from pyspark.sql import functions as F

    lineage = (
        "endpoint string, raw_key string, slot_at string, fetched_at string, origin string,"
        " complete boolean, params map<string,string>"
    )
    known = spark.createDataFrame(listed, lineage)
    for moment in ("slot_at", "fetched_at"):
        known = known.withColumn(moment, F.to_timestamp(moment))
    known = F.broadcast(known.drop("endpoint"))
    key = F.substring_index("_metadata.file_path", f"/{datalake.name}/", -1)
    for endpoint, (view, split, fields, main) in JSON_ENDPOINTS.items():
        paths = [f"{datalake}/{f['raw_key']}" for f in listed if f["endpoint"] == endpoint]
        bodies = spark.read.text(paths, wholetext=True)
        records = bodies.select(key.alias("raw_key"), F.col("value").alias("body")).select(
            "raw_key", F.explode(F.expr(split)).alias("record")
        )
        _view(records, fields, main, known).createOrReplaceTempView(view)
    paths = [f"{datalake}/{f['raw_key']}" for f in listed if f["endpoint"] == "inbox"]
    _inbox(spark, paths, key).join(known, "raw_key").createOrReplaceTempView("raw_inbox")


def _view(records: "DataFrame", fields: str, main: str, known: "DataFrame") -> "DataFrame":
    from pyspark.sql import functions as F

    typed = records.withColumn("r", F.from_json("record", fields))
    hashed = typed.select("raw_key", F.sha2("record", 256).alias("record_hash"), "r.*")
    return hashed.where(f"{main} IS NOT NULL").join(known, "raw_key")


def _inbox(spark: "SparkSession", paths: list[str], key: Any) -> "DataFrame":
    """Read the CSV files; whoever writes this by hand knows their columns."""
    header = spark.read.option("header", "true").csv(paths[0]).columns
    rows = spark.read.csv(paths, header=True, schema=", ".join(f"`{c}` string" for c in header))
    numbers = ("price_usd", "price_eur", "price_chf", "market_cap_usd", "volume_24h_usd")
    typed = [
        f"CAST(`{name}` AS DOUBLE) AS {name}"
        if name in header
        else f"CAST(NULL AS DOUBLE) AS {name}"
        for name in numbers
    ]
    return rows.withColumn("raw_key", key).selectExpr(
        "raw_key", "`date`", "coingecko_coin_id", *typed
    )


def build(spark: "SparkSession") -> None:
    """Write the tables one after another; later ones read what earlier ones wrote."""
    spark.sql("CREATE NAMESPACE IF NOT EXISTS lake.warehouse")
    for name, (query, partitioning) in TABLES.items():
        if name == "daily_prices":
            spark.sql(DATED).createOrReplaceTempView("dated")
            spark.sql(CANDIDATES).createOrReplaceTempView("candidates")
        layout = f"PARTITIONED BY ({partitioning})" if partitioning else ""
        spark.sql(
            f"CREATE TABLE lake.warehouse.{name} USING iceberg {layout}"
            f" TBLPROPERTIES ('write.distribution-mode' = 'none', 'write.spark.fanout.enabled' = 'true')"
            f" AS {query}"
        )
        spark.table(f"lake.warehouse.{name}").createOrReplaceTempView(name)


def main() -> None:
    """Read, build, end."""
    datalake, out = Path(sys.argv[1]), Path(sys.argv[2])
    spark = session(out, sys.argv[3])
    spark.sparkContext.setLogLevel("ERROR")
    register(spark, datalake, files(datalake))
    build(spark)
    spark.stop()


if __name__ == "__main__":
    main()
