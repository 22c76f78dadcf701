-- How the daily returns of the largest coins move together: the newest 90-day correlations.
--
-- Both directions of each pair and the diagonal, so that a heat map needs no reshaping. All pairs are
-- of one day: of the newest 3, the one with the most pairs, so that a day on which only some coins
-- have their price yet does not shrink the matrix.
--
-- order: coin_a, coin_b
-- plot: heatmap x=coin_a y=coin_b value=correlation
WITH days AS (
    SELECT
        c.day,
        count(*) AS pairs
    FROM warehouse.correlations AS c
    GROUP BY c.day
),

recent AS (
    SELECT
        d.day,
        row_number() OVER (ORDER BY d.pairs DESC NULLS LAST, d.day DESC NULLS LAST) AS preference
    FROM days AS d
    CROSS JOIN (SELECT max(day) AS day FROM warehouse.correlations) AS n
    WHERE date_diff('day', d.day, n.day) < 3
),

pairs AS (
    SELECT
        c.day,
        c.coin_a,
        c.coin_b,
        c.correlation,
        c.observations
    FROM warehouse.correlations AS c
    INNER JOIN recent AS r ON c.day = r.day AND r.preference = 1
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
