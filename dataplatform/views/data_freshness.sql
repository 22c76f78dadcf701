-- How much each table holds and how fresh it is: rows, newest data, newest fetch.
--
-- Ages count from the newest fetch of the whole lake rather than from now, so the view gives the same
-- answer until something is fetched; a table that falls behind the others shows at once. Tables
-- computed from others have no fetch of their own.
--
-- order: table_name
-- plot: bar x=table_name y=row_count
WITH tables AS ( -- written by `make docs`, one SELECT a declared table
    SELECT
        'categories' AS table_name,
        count(*) AS row_count,
        CAST(max(snapshot_at) AS date) AS newest_day,
        max(fetched_at) AS fetched_at
    FROM warehouse.categories
    UNION ALL
    SELECT
        'coin_metrics_daily' AS table_name,
        count(*) AS row_count,
        CAST(max(day) AS date) AS newest_day,
        CAST(NULL AS timestamp(6) with time zone) AS fetched_at
    FROM warehouse.coin_metrics_daily
    UNION ALL
    SELECT
        'coin_platforms' AS table_name,
        count(*) AS row_count,
        CAST(max(fetched_at) AS date) AS newest_day,
        max(fetched_at) AS fetched_at
    FROM warehouse.coin_platforms
    UNION ALL
    SELECT
        'coins' AS table_name,
        count(*) AS row_count,
        CAST(max(fetched_at) AS date) AS newest_day,
        max(fetched_at) AS fetched_at
    FROM warehouse.coins
    UNION ALL
    SELECT
        'correlations' AS table_name,
        count(*) AS row_count,
        CAST(max(day) AS date) AS newest_day,
        CAST(NULL AS timestamp(6) with time zone) AS fetched_at
    FROM warehouse.correlations
    UNION ALL
    SELECT
        'daily_prices' AS table_name,
        count(*) AS row_count,
        CAST(max(day) AS date) AS newest_day,
        max(fetched_at) AS fetched_at
    FROM warehouse.daily_prices
    UNION ALL
    SELECT
        'exchanges' AS table_name,
        count(*) AS row_count,
        CAST(max(snapshot_at) AS date) AS newest_day,
        max(fetched_at) AS fetched_at
    FROM warehouse.exchanges
    UNION ALL
    SELECT
        'global_market' AS table_name,
        count(*) AS row_count,
        CAST(max(snapshot_at) AS date) AS newest_day,
        max(fetched_at) AS fetched_at
    FROM warehouse.global_market
    UNION ALL
    SELECT
        'market_daily' AS table_name,
        count(*) AS row_count,
        CAST(max(day) AS date) AS newest_day,
        CAST(NULL AS timestamp(6) with time zone) AS fetched_at
    FROM warehouse.market_daily
    UNION ALL
    SELECT
        'market_snapshots' AS table_name,
        count(*) AS row_count,
        CAST(max(snapshot_at) AS date) AS newest_day,
        max(fetched_at) AS fetched_at
    FROM warehouse.market_snapshots
    UNION ALL
    SELECT
        'ohlc' AS table_name,
        count(*) AS row_count,
        CAST(max(closed_at) AS date) AS newest_day,
        max(fetched_at) AS fetched_at
    FROM warehouse.ohlc
    UNION ALL
    SELECT
        'price_points' AS table_name,
        count(*) AS row_count,
        CAST(max(observed_at) AS date) AS newest_day,
        max(fetched_at) AS fetched_at
    FROM warehouse.price_points
    UNION ALL
    SELECT
        'quarantine' AS table_name,
        count(*) AS row_count,
        CAST(max(fetched_at) AS date) AS newest_day,
        max(fetched_at) AS fetched_at
    FROM warehouse.quarantine
),

lake AS (
    SELECT max(t.fetched_at) AS fetched_at
    FROM tables AS t
)

SELECT
    t.table_name, -- table in the schema warehouse
    t.row_count, -- rows as published
    t.newest_day, -- day of the newest data, UTC
    date_diff('day', t.newest_day, CAST(l.fetched_at AS date)) AS days_behind, -- from the newest data to the lake's newest fetch
    t.fetched_at AS newest_fetched_at, -- when the newest raw file in it was received, UTC
    (to_unixtime(l.fetched_at) - to_unixtime(t.fetched_at)) / 3.6e3 AS hours_behind -- from its newest fetch to the lake's newest
FROM tables AS t
CROSS JOIN lake AS l
