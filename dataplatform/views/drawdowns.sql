-- How far each coin stands below its peak, since when, and how deep it has been.
--
-- A drawdown is price / highest price so far - 1, from the first day this lake knows; a peak before
-- that day is unknown here.
--
-- order: drawdown nulls last, coin_id
-- plot: bar x=coin_id y=drawdown,worst_drawdown limit=25
WITH days AS (
    SELECT
        m.coin_id,
        m.day,
        m.price_usd,
        m.peak_price_usd,
        m.drawdown,
        row_number() OVER (PARTITION BY m.coin_id ORDER BY m.day DESC NULLS LAST) AS recency,
        row_number() OVER (
            PARTITION BY m.coin_id ORDER BY m.drawdown ASC NULLS LAST, m.day ASC
        ) AS depth
    FROM warehouse.coin_metrics_daily AS m
    WHERE m.price_usd IS NOT NULL AND m.drawdown IS NOT NULL
),

peaks AS (
    SELECT
        d.coin_id,
        max(d.day) AS peak_on
    FROM days AS d
    WHERE d.drawdown >= 0e0
    GROUP BY d.coin_id
)

SELECT
    d.coin_id, -- CoinGecko's id of the coin
    c.symbol, -- ticker symbol; not unique
    c.name, -- the coin's name
    d.day AS as_of, -- the coin's latest day with a price, UTC
    d.price_usd, -- US dollars for one coin on that day
    d.drawdown, -- 0 at the peak, else negative, as a fraction
    d.peak_price_usd, -- highest price so far
    p.peak_on, -- last day at that price
    date_diff('day', p.peak_on, d.day) AS days_since_peak, -- days under water
    w.drawdown AS worst_drawdown, -- the deepest so far
    w.day AS worst_on -- the day of the deepest
FROM days AS d
INNER JOIN days AS w ON d.coin_id = w.coin_id AND w.depth = 1
LEFT JOIN peaks AS p ON d.coin_id = p.coin_id
LEFT JOIN warehouse.coins AS c ON d.coin_id = c.coin_id AND c.is_current
WHERE d.recency = 1
