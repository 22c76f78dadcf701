-- The coins that moved most within a day, winners and losers ranked.
--
-- A coin of the newest market snapshot has the change that CoinGecko gives there; a coin that is only
-- known from daily prices has the return of its newest day, if that is at most 3 days before the
-- newest day of all, and `as_of` says of when. Coins that traded less than 50,000 USD within the day
-- are left out, as their price is an accident; where the volume is unknown, the coin stays.
--
-- order: gainer_rank
-- plot: bar x=coin_id y=change_24h limit=20
WITH newest_snapshot AS (
    SELECT max(snapshot_at) AS snapshot_at
    FROM warehouse.market_snapshots
    WHERE vs_currency = 'usd'
),

newest_day AS (
    SELECT max(day) AS day
    FROM warehouse.coin_metrics_daily
    WHERE return_1d IS NOT NULL
),

changes AS (
    SELECT
        s.coin_id,
        s.symbol,
        s.name,
        s.price AS price_usd,
        s.change_24h_pct / 1e2 AS change_24h,
        s.total_volume AS volume_24h,
        CAST(s.snapshot_at AS date) AS as_of,
        'market_snapshots' AS source,
        1 AS source_rank
    FROM warehouse.market_snapshots AS s
    INNER JOIN newest_snapshot AS n ON s.snapshot_at = n.snapshot_at
    WHERE s.vs_currency = 'usd' AND s.change_24h_pct IS NOT NULL
    UNION ALL
    SELECT
        m.coin_id,
        c.symbol,
        c.name,
        m.price_usd,
        m.return_1d AS change_24h,
        d.volume_24h,
        m.day AS as_of,
        'coin_metrics_daily' AS source,
        2 AS source_rank
    FROM warehouse.coin_metrics_daily AS m
    CROSS JOIN newest_day AS n
    LEFT JOIN warehouse.daily_prices AS d
        ON m.coin_id = d.coin_id AND m.day = d.day AND d.vs_currency = 'usd'
    LEFT JOIN warehouse.coins AS c ON m.coin_id = c.coin_id AND c.is_current
    WHERE m.return_1d IS NOT NULL AND date_diff('day', m.day, n.day) <= 3
),

latest AS (
    SELECT
        h.coin_id,
        h.symbol,
        h.name,
        h.price_usd,
        h.change_24h,
        h.volume_24h,
        h.as_of,
        h.source,
        row_number() OVER (
            PARTITION BY h.coin_id
            ORDER BY h.as_of DESC NULLS LAST, h.source_rank ASC
        ) AS recency
    FROM changes AS h
)

SELECT
    row_number() OVER (ORDER BY t.change_24h DESC NULLS LAST, t.coin_id ASC) AS gainer_rank, -- 1: rose most
    row_number() OVER (ORDER BY t.change_24h ASC NULLS LAST, t.coin_id ASC) AS loser_rank, -- 1: fell most
    t.coin_id, -- CoinGecko's id of the coin
    t.symbol, -- ticker symbol; not unique
    t.name, -- the coin's name
    t.price_usd, -- US dollars for one coin
    t.change_24h, -- fraction: 0.05 is 5 % up
    t.volume_24h AS rolling_volume_24h_usd, -- traded in the 24 hours before
    t.as_of, -- day of the observation, UTC
    t.source -- the table that holds the observation
FROM latest AS t
WHERE t.recency = 1 AND (t.volume_24h IS NULL OR t.volume_24h >= 5e4)
