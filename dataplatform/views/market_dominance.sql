-- How the market's capitalisation divides between bitcoin, ether and all others, day by day.
--
-- Where CoinGecko's global figures were fetched, they count, the last of the day: they cover the whole
-- market. For other days the shares are those among the coins of this lake, and `source` says so:
-- the two kinds are not comparable. Days on which fewer than 20 coins have a capitalisation are left
-- out, as shares among so few say nothing.
--
-- order: day desc
-- plot: line x=day y=btc_dominance,eth_dominance
WITH global_days AS (
    SELECT
        CAST(g.snapshot_at AS date) AS day,
        g.total_market_cap_usd,
        g.total_volume_usd,
        g.btc_dominance_pct,
        g.eth_dominance_pct,
        row_number() OVER (
            PARTITION BY CAST(g.snapshot_at AS date) ORDER BY g.snapshot_at DESC NULLS LAST
        ) AS recency
    FROM warehouse.global_market AS g
),

shares AS (
    SELECT
        g.day,
        g.total_market_cap_usd,
        g.total_volume_usd AS volume_24h_usd,
        g.btc_dominance_pct / 1e2 AS btc_dominance,
        g.eth_dominance_pct / 1e2 AS eth_dominance,
        'global_market' AS source,
        1 AS source_rank
    FROM global_days AS g
    WHERE g.recency = 1
    UNION ALL
    SELECT
        m.day,
        m.total_market_cap_usd,
        m.volume_24h_usd,
        m.btc_dominance,
        m.eth_dominance,
        'market_daily' AS source,
        2 AS source_rank
    FROM warehouse.market_daily AS m
    WHERE m.btc_dominance IS NOT NULL
),

ranked AS (
    SELECT
        s.day,
        s.total_market_cap_usd,
        s.volume_24h_usd,
        s.btc_dominance,
        s.eth_dominance,
        s.source,
        row_number() OVER (PARTITION BY s.day ORDER BY s.source_rank ASC) AS preference
    FROM shares AS s
)

SELECT
    r.day, -- calendar day, UTC
    r.btc_dominance, -- bitcoin's share of the capitalisation, 0 to 1
    r.eth_dominance, -- ether's share, 0 to 1
    1e0 - r.btc_dominance - coalesce(r.eth_dominance, 0e0) AS other_dominance, -- all other coins' share, 0 to 1
    r.total_market_cap_usd, -- capitalisation that the shares refer to
    r.volume_24h_usd AS rolling_volume_24h_usd, -- traded in the 24 hours before
    r.source -- global_market: the whole market; market_daily: the coins of this lake
FROM ranked AS r
WHERE r.preference = 1
