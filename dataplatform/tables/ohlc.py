"""Candles: one row a coin, currency, length and close.

Traps handled here: the time stamp is the candle's close, not its open; the length follows from the
requested number of days and is not in the answer; the same candle comes again on each later day
(the newest response wins, since the youngest candle may still have been open); whole prices come
as integers.
"""

from typing import TYPE_CHECKING

from dataplatform.lake.plot import TablePlot
from dataplatform.lake.spec import LINEAGE, Check, Column, Inputs, TableSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def transform(inputs: Inputs) -> "DataFrame":
    """Derive each candle's length from the request and keep the newest of equal candles.

    The lengths are CoinGecko's: 30 minutes for 1 day, 4 hours for up to 30 days, 4 days beyond;
    a paid plan's `interval` says it outright.
    """
    return inputs.sql("""
        WITH candles AS (
          SELECT
            *,
            params['id'] AS coin_id,
            lower(coalesce(params['vs_currency'], 'usd')) AS vs_currency,
            CAST(closed_at AS BIGINT) AS closed_ms,
            CASE
              WHEN params['interval'] = 'hourly' THEN 60
              WHEN params['interval'] = 'daily' THEN 1440
              WHEN params['days'] = '1' THEN 30
              WHEN CAST(params['days'] AS INT) <= 30 THEN 240
              ELSE 5760
            END AS candle_minutes
          FROM {ohlc}
        )
        SELECT
          coin_id,
          vs_currency,
          timestamp_millis(closed_ms) AS closed_at,
          candle_minutes,
          `open`, high, low, `close`,
          origin,
          fetched_at,
          raw_key
        FROM (
          SELECT *, row_number() OVER (
            PARTITION BY coin_id, vs_currency, candle_minutes, closed_ms
            ORDER BY fetched_at DESC, raw_key DESC, record_hash DESC
          ) AS position
          FROM candles
        )
        WHERE position = 1
    """)


spec = TableSpec(
    name="ohlc",
    description=(
        "Open, high, low and close of candles of 30 minutes, 4 hours or 4 days. One row a coin,"
        " currency, candle length and close."
    ),
    columns=(
        Column("coin_id", "string", "CoinGecko's id of the coin."),
        Column("vs_currency", "string", "Currency of all prices, lower case, such as usd."),
        Column("closed_at", "timestamp", "When the candle closes: its end, not its start.", "UTC"),
        Column("candle_minutes", "int", "Length of the candle.", "minutes"),
        Column("open", "double", "First price.", "vs_currency", required=True),
        Column("high", "double", "Highest price.", "vs_currency", required=True),
        Column("low", "double", "Lowest price.", "vs_currency", required=True),
        Column("close", "double", "Last price.", "vs_currency", required=True),
        *LINEAGE,
    ),
    keys=("coin_id", "vs_currency", "candle_minutes", "closed_at"),
    partitioning=("year(closed_at)",),
    sort_order=("coin_id", "closed_at"),
    endpoints=("ohlc",),
    day_column="closed_at",
    replaces="struct(s.fetched_at, s.raw_key) >= struct(t.fetched_at, t.raw_key)",
    checks=(
        Check("prices_not_negative", "low < 0", "No price is below 0."),
        Check(
            "candle_ordered",
            "low > least(`open`, `close`) OR high < greatest(`open`, `close`)",
            "Open and close lie between low and high.",
        ),
        Check(
            "range_believable",
            "high > 10 * low",
            "No price moved more than tenfold within a candle.",
            blocking=False,
        ),
    ),
    plot=TablePlot(
        "line",
        "closed_at",
        ("high", "close", "low"),
        title="bitcoin in US dollars, candles of 4 hours",
        where="coin_id = 'bitcoin' and vs_currency = 'usd' and candle_minutes = 240",
        days=30,
    ),
    transform=transform,
)
