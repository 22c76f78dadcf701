-- The latest price of each coin in US dollars, from whichever source saw it last.
--
-- Hourly market snapshots, price history and daily prices compete by the time of the observation, so
-- a coin that has left the market listing keeps its last known price, and `observed_at` tells its
-- age. Of the market snapshots only the last two days are looked at: older ones are in
-- `daily_prices`.
--
-- order: market_cap_usd desc nulls last, coin_id
WITH newest_snapshot AS (
    SELECT max(snapshot_at) AS snapshot_at
    FROM warehouse.market_snapshots
),

observations AS (
    SELECT
        s.coin_id,
        s.price,
        s.market_cap,
        s.total_volume AS volume_24h,
        coalesce(s.last_updated_at, s.snapshot_at) AS observed_at,
        s.fetched_at,
        'market_snapshots' AS source,
        1 AS source_rank
    FROM warehouse.market_snapshots AS s
    CROSS JOIN newest_snapshot AS n
    WHERE
        s.vs_currency = 'usd'
        AND s.price > 0e0
        AND s.snapshot_at >= n.snapshot_at - INTERVAL '2' DAY
    UNION ALL
    SELECT
        p.coin_id,
        p.price,
        p.market_cap,
        p.volume_24h,
        p.observed_at,
        p.fetched_at,
        'price_points' AS source,
        2 AS source_rank
    FROM warehouse.price_points AS p
    WHERE p.vs_currency = 'usd' AND p.price > 0e0
    UNION ALL
    SELECT
        d.coin_id,
        d.price,
        d.market_cap,
        d.volume_24h,
        d.observed_at,
        d.fetched_at,
        'daily_prices' AS source,
        3 AS source_rank
    FROM warehouse.daily_prices AS d
    WHERE d.vs_currency = 'usd' AND d.price IS NOT NULL
),

ranked AS (
    SELECT
        o.coin_id,
        o.price,
        o.market_cap,
        o.volume_24h,
        o.observed_at,
        o.source,
        row_number() OVER (
            PARTITION BY o.coin_id
            ORDER BY o.observed_at DESC NULLS LAST, o.source_rank ASC, o.fetched_at DESC NULLS LAST
        ) AS recency
    FROM observations AS o
),

listed AS (
    SELECT
        c.coin_id,
        c.symbol,
        c.name
    FROM warehouse.coins AS c
    WHERE c.is_current
),

snapshot_names AS (
    SELECT
        s.coin_id,
        s.symbol,
        s.name,
        row_number() OVER (
            PARTITION BY s.coin_id
            ORDER BY s.snapshot_at DESC NULLS LAST, s.vs_currency ASC
        ) AS recency
    FROM warehouse.market_snapshots AS s
)

SELECT
    r.coin_id, -- CoinGecko's id of the coin
    coalesce(l.symbol, s.symbol) AS symbol, -- ticker symbol; not unique
    coalesce(l.name, s.name) AS name, -- the coin's name, null while no listing has named it
    r.price AS price_usd, -- US dollars for one coin
    r.market_cap AS market_cap_usd, -- as the same observation gave it
    r.volume_24h AS rolling_volume_24h_usd, -- traded in the 24 hours before the observation
    r.observed_at, -- when the price was seen, UTC
    r.source -- the table that holds the observation
FROM ranked AS r
LEFT JOIN listed AS l ON r.coin_id = l.coin_id
LEFT JOIN snapshot_names AS s ON r.coin_id = s.coin_id AND s.recency = 1
WHERE r.recency = 1
