-- What holding each coin has returned over a day, a week, a month and a year, as of its latest day.
--
-- Returns are fractions of the price before (0.05 is 5 % up), from daily prices at 00:00 UTC. A return
-- is null where either day has no price. `as_of` differs between coins: a coin that is no longer
-- followed keeps its last day.
--
-- order: return_30d desc nulls last, coin_id
-- plot: bar x=coin_id y=return_30d limit=25
WITH ranked AS (
    SELECT
        m.coin_id,
        m.day,
        m.price_usd,
        m.return_1d,
        m.return_7d,
        m.return_30d,
        m.return_365d,
        m.ma_30d,
        m.ma_200d,
        row_number() OVER (PARTITION BY m.coin_id ORDER BY m.day DESC NULLS LAST) AS recency
    FROM warehouse.coin_metrics_daily AS m
    WHERE m.price_usd IS NOT NULL
)

SELECT
    r.coin_id, -- CoinGecko's id of the coin
    c.symbol, -- ticker symbol; not unique
    c.name, -- the coin's name
    r.day AS as_of, -- the coin's latest day with a price, UTC
    r.price_usd, -- US dollars for one coin at 00:00 of that day
    r.return_1d, -- against the day before
    r.return_7d, -- against 7 days before
    r.return_30d, -- against 30 days before
    r.return_365d, -- against 365 days before
    r.price_usd / nullif(r.ma_30d, 0e0) - 1e0 AS above_ma_30d, -- distance from the 30-day average, as a fraction
    r.price_usd / nullif(r.ma_200d, 0e0) - 1e0 AS above_ma_200d -- distance from the 200-day average, as a fraction
FROM ranked AS r
LEFT JOIN warehouse.coins AS c ON r.coin_id = c.coin_id AND c.is_current
WHERE r.recency = 1
