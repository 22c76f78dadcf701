-- Coins by how much their price swings: annualised volatility of the last 30 days.
--
-- The standard deviation of daily log returns over 30 days, times the square root of 365. Only coins
-- with a price in the week up to the newest day take part, so that the ranks compare like with like.
--
-- order: volatility_rank
-- plot: bar x=coin_id y=volatility_30d limit=25
WITH newest AS (
    SELECT max(day) AS day
    FROM warehouse.coin_metrics_daily
    WHERE volatility_30d IS NOT NULL
),

ranked AS (
    SELECT
        m.coin_id,
        m.day,
        m.price_usd,
        m.volatility_30d,
        m.return_30d,
        m.drawdown,
        row_number() OVER (PARTITION BY m.coin_id ORDER BY m.day DESC NULLS LAST) AS recency
    FROM warehouse.coin_metrics_daily AS m
    CROSS JOIN newest AS n
    WHERE m.volatility_30d IS NOT NULL AND date_diff('day', m.day, n.day) < 7
)

SELECT
    row_number() OVER (ORDER BY r.volatility_30d DESC NULLS LAST, r.coin_id ASC) AS volatility_rank, -- 1: swings most
    r.coin_id, -- CoinGecko's id of the coin
    c.symbol, -- ticker symbol; not unique
    c.name, -- the coin's name
    r.day AS as_of, -- the day the figures refer to, UTC
    r.volatility_30d, -- annualised, as a fraction: 0.6 is 60 % a year
    r.volatility_30d / sqrt(3.65e2) AS daily_volatility, -- the same for one day
    r.return_30d, -- return over the same 30 days, as a fraction
    r.drawdown, -- distance from the coin's peak, 0 or negative, as a fraction
    r.price_usd -- US dollars for one coin
FROM ranked AS r
LEFT JOIN warehouse.coins AS c ON r.coin_id = c.coin_id AND c.is_current
WHERE r.recency = 1
