-- One price bar per coin, currency and calendar day UTC: open, high, low, close.
--
-- A bar comes from the OHLC candles that lie within the day, or from intraday price points, whichever
-- cover more of its hours; on a tie the candles win, and of several candle widths the finest. A
-- candle's time stamp is its close, so the one that closes at 00:00 belongs to the day before.
-- Candles wider than a day make no bar. CoinGecko's volume is a rolling 24-hour figure, no calendar
-- bar: `rolling_volume_24h` is the last one seen on the day, else the one of the next midnight.
--
-- order: coin_id, vs_currency, day desc
WITH candles AS (
    SELECT
        o.coin_id,
        o.vs_currency,
        o.candle_minutes,
        o.closed_at,
        o.open,
        o.high,
        o.low,
        o.close,
        CAST(date_add('minute', -o.candle_minutes, o.closed_at) AS date) AS day,
        CAST(date_add('second', -1, o.closed_at) AS date) AS last_day
    FROM warehouse.ohlc AS o
    WHERE o.open IS NOT NULL AND o.close IS NOT NULL
),

candle_bars AS (
    SELECT
        c.coin_id,
        c.vs_currency,
        c.day,
        min_by(c.open, c.closed_at) AS open,
        max(c.high) AS high,
        min(c.low) AS low,
        max_by(c.close, c.closed_at) AS close,
        CAST(sum(c.candle_minutes) AS double) / 6e1 AS hours_covered,
        CAST(NULL AS double) AS volume_24h,
        'ohlc' AS source,
        c.candle_minutes AS step
    FROM candles AS c
    WHERE c.day = c.last_day
    GROUP BY c.coin_id, c.vs_currency, c.day, c.candle_minutes
),

points AS (
    SELECT
        p.coin_id,
        p.vs_currency,
        p.observed_at,
        p.price,
        p.volume_24h,
        CAST(p.observed_at AS date) AS day,
        date_trunc('hour', p.observed_at) AS hour
    FROM warehouse.price_points AS p
    WHERE p.price > 0e0 AND p.granularity <> 'daily'
),

point_bars AS (
    SELECT
        p.coin_id,
        p.vs_currency,
        p.day,
        min_by(p.price, p.observed_at) AS open,
        max(p.price) AS high,
        min(p.price) AS low,
        max_by(p.price, p.observed_at) AS close,
        CAST(count(DISTINCT p.hour) AS double) AS hours_covered,
        max_by(p.volume_24h, p.observed_at) FILTER (WHERE p.volume_24h IS NOT NULL) AS volume_24h,
        'price_points' AS source,
        9999 AS step
    FROM points AS p
    GROUP BY p.coin_id, p.vs_currency, p.day
),

bars AS (
    SELECT
        b.coin_id,
        b.vs_currency,
        b.day,
        b.open,
        b.high,
        b.low,
        b.close,
        b.hours_covered,
        b.source,
        max(b.volume_24h) OVER (PARTITION BY b.coin_id, b.vs_currency, b.day) AS volume_24h,
        row_number() OVER (
            PARTITION BY b.coin_id, b.vs_currency, b.day
            ORDER BY b.hours_covered DESC NULLS LAST, b.step ASC
        ) AS preference
    FROM (
        SELECT
            k.coin_id,
            k.vs_currency,
            k.day,
            k.open,
            k.high,
            k.low,
            k.close,
            k.hours_covered,
            k.volume_24h,
            k.source,
            k.step
        FROM candle_bars AS k
        UNION ALL
        SELECT
            p.coin_id,
            p.vs_currency,
            p.day,
            p.open,
            p.high,
            p.low,
            p.close,
            p.hours_covered,
            p.volume_24h,
            p.source,
            p.step
        FROM point_bars AS p
    ) AS b
)

SELECT
    b.coin_id, -- CoinGecko's id of the coin
    b.vs_currency, -- currency of the prices
    b.day, -- calendar day, UTC
    b.open, -- first price of the day
    b.high, -- highest price of the day
    b.low, -- lowest price of the day
    b.close, -- last price of the day
    coalesce(b.volume_24h, n.volume_24h) AS rolling_volume_24h, -- rolling 24-hour figure nearest to the day's end
    b.hours_covered, -- hours of the day that the source covers: 24 is a full bar
    b.source -- ohlc or price_points
FROM bars AS b
LEFT JOIN warehouse.daily_prices AS n
    ON
        b.coin_id = n.coin_id
        AND b.vs_currency = n.vs_currency
        AND CAST(date_add('day', 1, b.day) AS date) = n.day
WHERE b.preference = 1
