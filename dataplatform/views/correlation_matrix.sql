-- How the daily returns of the largest coins move together: the newest 90-day correlations.
--
-- Both directions of each pair and the diagonal, so that a heat map needs no reshaping.
--
-- order: coin_a, coin_b
-- plot: heatmap x=coin_a y=coin_b value=correlation
WITH newest AS (
    SELECT max(day) AS day
    FROM warehouse.correlations
),

pairs AS (
    SELECT
        c.day,
        c.coin_a,
        c.coin_b,
        c.correlation,
        c.observations
    FROM warehouse.correlations AS c
    INNER JOIN newest AS n ON c.day = n.day
),

both_ways AS (
    SELECT
        p.day,
        p.coin_a,
        p.coin_b,
        p.correlation,
        p.observations
    FROM pairs AS p
    UNION ALL
    SELECT
        p.day,
        p.coin_b AS coin_a,
        p.coin_a AS coin_b,
        p.correlation,
        p.observations
    FROM pairs AS p
)

SELECT
    b.day AS as_of, -- last day of the 90, UTC
    b.coin_a, -- CoinGecko's id of one coin
    b.coin_b, -- CoinGecko's id of the other
    b.correlation, -- Pearson's coefficient of daily log returns, -1 to 1
    CAST(b.observations AS bigint) AS observations -- days on which both coins have a return
FROM both_ways AS b
UNION ALL
SELECT
    b.day AS as_of,
    b.coin_a,
    b.coin_a AS coin_b,
    1e0 AS correlation,
    CAST(max(b.observations) AS bigint) AS observations
FROM both_ways AS b
GROUP BY b.day, b.coin_a
