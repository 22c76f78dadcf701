-- Coin categories as of the newest snapshot: size, volume, and how they moved.
--
-- The change over a day is CoinGecko's own; the change over a week compares with the newest snapshot
-- that is at least 7 days older, and is null until there is one. A coin may be in several categories:
-- their capitalisations do not add up to the market.
--
-- order: market_cap_rank
-- plot: bar x=name y=change_24h limit=20
WITH newest AS (
    SELECT max(snapshot_at) AS snapshot_at
    FROM warehouse.categories
),

week_before AS (
    SELECT max(c.snapshot_at) AS snapshot_at
    FROM warehouse.categories AS c
    CROSS JOIN newest AS n
    WHERE c.snapshot_at <= n.snapshot_at - INTERVAL '7' DAY
),

earlier AS (
    SELECT
        c.category_id,
        c.market_cap_usd
    FROM warehouse.categories AS c
    INNER JOIN week_before AS w ON c.snapshot_at = w.snapshot_at
)

SELECT
    row_number() OVER (ORDER BY c.market_cap_usd DESC NULLS LAST, c.category_id ASC) AS market_cap_rank, -- 1: largest
    c.category_id, -- CoinGecko's id of the category
    c.name, -- the category's name
    c.market_cap_usd, -- capitalisation of its coins
    c.market_cap_change_24h_pct / 1e2 AS change_24h, -- change of the capitalisation within a day, as a fraction
    c.market_cap_usd / nullif(e.market_cap_usd, 0e0) - 1e0 AS change_7d, -- within a week, as a fraction
    c.volume_24h_usd AS rolling_volume_24h_usd, -- traded in the 24 hours before
    c.volume_24h_usd / nullif(c.market_cap_usd, 0e0) AS turnover, -- volume as a fraction of the capitalisation
    array_join(c.top_coins, ', ') AS top_coins, -- its largest coins
    c.snapshot_at AS as_of -- when the category was read, UTC
FROM warehouse.categories AS c
INNER JOIN newest AS n ON c.snapshot_at = n.snapshot_at
LEFT JOIN earlier AS e ON c.category_id = e.category_id
