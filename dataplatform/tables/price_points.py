"""Prices over time, as market_chart gives them: one row a coin, currency and moment.

Traps handled here: the last point of a response that ends now is "now", off the grid of the
others, and no closed observation (`is_partial`); steps are irregular (2 to 9 minutes in a 5 minute
response, 1 to 111 minutes in an hourly one), so the granularity is told by the response's mean
step; points repeat and step backwards; overlapping responses give one moment twice; the volume is
a rolling 24 hour figure, not the volume of a bar.
"""

from typing import TYPE_CHECKING

from dataplatform.lake.plot import TablePlot
from dataplatform.lake.spec import LINEAGE, Check, Column, Inputs, TableSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def transform(inputs: Inputs) -> "DataFrame":
    """Measure each response, mark its partial point, keep the best row of each moment.

    The mean step leaves the last point out where there are others, since that may be "now". The
    last point is partial in a daily response when it is off midnight, in a finer one when it lies
    within ten minutes of the fetch, or within one step of it and closer to its predecessor than a
    step. Of two rows of one moment, the one that is not partial wins, then the newer response.
    """
    return inputs.sql("""
        WITH points AS (
          SELECT
            params['id'] AS coin_id,
            lower(coalesce(params['vs_currency'], 'usd')) AS vs_currency,
            CAST(at AS BIGINT) AS ms,
            price, market_cap, volume,
            coalesce(is_last, false) AS is_last,
            origin, fetched_at, raw_key, record_hash
          FROM {market_chart}
        ),
        spans AS (
          SELECT
            *,
            min(ms) OVER response AS first_ms,
            max(ms) OVER response AS last_ms,
            max(IF(is_last, NULL, ms)) OVER response AS before_last_ms,
            count(*) OVER response AS points,
            count_if(NOT is_last) OVER response AS points_before
          FROM points
          WINDOW response AS (PARTITION BY raw_key)
        ),
        steps AS (
          SELECT
            *,
            CASE
              WHEN points_before >= 2 THEN (before_last_ms - first_ms) / (points_before - 1)
              WHEN points >= 2 THEN (last_ms - first_ms) / (points - 1)
            END AS step_ms
          FROM spans
        ),
        measured AS (
          SELECT
            *,
            CASE
              WHEN step_ms IS NULL AND ms % 86400000 = 0 THEN 'daily'
              WHEN step_ms IS NULL THEN 'hourly'
              WHEN step_ms < 15 * 60000 THEN '5m'
              WHEN step_ms < 6 * 3600000 THEN 'hourly'
              ELSE 'daily'
            END AS granularity
          FROM steps
        ),
        marked AS (
          SELECT
            *,
            is_last AND CASE
              WHEN granularity = 'daily' THEN ms % 86400000 <> 0
              WHEN ms > unix_millis(fetched_at) - 600000 THEN true
              ELSE coalesce(
                ms > unix_millis(fetched_at) - step_ms AND ms - before_last_ms < 0.9 * step_ms,
                false
              )
            END AS is_partial
          FROM measured
        )
        SELECT
          coin_id,
          vs_currency,
          timestamp_millis(ms) AS observed_at,
          price,
          market_cap,
          volume AS volume_24h,
          granularity,
          is_partial,
          origin,
          fetched_at,
          raw_key
        FROM (
          SELECT *, row_number() OVER (
            PARTITION BY coin_id, vs_currency, ms
            ORDER BY is_partial, fetched_at DESC, raw_key DESC, record_hash DESC
          ) AS position
          FROM marked
        )
        WHERE position = 1
    """)


spec = TableSpec(
    name="price_points",
    description=(
        "Price, market capitalisation and rolling 24 h volume over time, in the steps that the"
        " source gives: about 5 minutes, an hour or a day. One row a coin, currency and moment."
    ),
    columns=(
        Column("coin_id", "string", "CoinGecko's id of the coin."),
        Column("vs_currency", "string", "Currency of all amounts, lower case, such as usd."),
        Column("observed_at", "timestamp", "The moment of the observation, to the ms.", "UTC"),
        Column("price", "double", "Price of one coin.", "vs_currency", required=True),
        Column("market_cap", "double", "Market capitalisation; 0: unknown.", "vs_currency"),
        Column(
            "volume_24h",
            "double",
            "Traded in the 24 hours before the moment: rolling, never to be summed over points.",
            "vs_currency",
        ),
        Column(
            "granularity",
            "string",
            "5m, hourly or daily, by the mean step of the response.",
            required=True,
        ),
        Column(
            "is_partial",
            "boolean",
            "The trailing point of a response that ended at its fetch: not a closed observation.",
            required=True,
        ),
        *LINEAGE,
    ),
    keys=("coin_id", "vs_currency", "observed_at"),
    partitioning=("month(observed_at)",),
    sort_order=("coin_id", "observed_at"),
    endpoints=("market_chart",),
    day_column="observed_at",
    replaces=(
        "struct(NOT s.is_partial, s.fetched_at, s.raw_key)"
        " >= struct(NOT t.is_partial, t.fetched_at, t.raw_key)"
    ),
    checks=(
        Check("prices_not_negative", "price < 0", "No price is below 0."),
        Check(
            "granularity_known",
            "granularity NOT IN ('5m', 'hourly', 'daily')",
            "The granularity is 5m, hourly or daily.",
        ),
        Check(
            "observed_before_fetched",
            "observed_at > fetched_at + INTERVAL 1 DAY",
            "No point lies more than a day after its fetch.",
        ),
        Check("prices_positive", "price = 0", "A price of 0 is no price.", blocking=False),
    ),
    plot=TablePlot(
        "line",
        "observed_at",
        ("price",),
        title="bitcoin in US dollars",
        where="coin_id = 'bitcoin' and vs_currency = 'usd'",
        days=90,
    ),
    transform=transform,
)
