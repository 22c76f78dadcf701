"""Returns, volatility, drawdown and moving averages in US dollars: one row a coin and day.

Traps handled here: a base exactly n calendar days before may be missing (then the return is null,
never the return since some other day); a new price changes every later drawdown, so all days from
the first changed one on are computed anew; sliding aggregates are summed in the order of days, so
an incremental build gives the same bits as one of the whole history.
"""

from typing import TYPE_CHECKING, Final

from dataplatform.lake.spec import Check, Column, Inputs, TableSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

LOOKBACK_DAYS: Final = 366
"""The longest return reaches 365 days back."""

MIN_RETURNS: Final = 20
"""Fewer daily returns than this in 30 days give no volatility."""


def transform(inputs: Inputs) -> "DataFrame":
    """Compute every day from the first changed one on; earlier days only serve as base.

    A return is price / price n days before - 1. Volatility is the sample standard deviation of the
    daily log returns of 30 days, times the square root of 365 (coins trade every day). A moving
    average is the mean of the prices that were observed in its N days, and null while the coin's
    history is shorter than that. The drawdown is price / highest daily price so far - 1; the peak
    of the days before comes from the published row of the day before.
    """
    first, _ = inputs.changed("daily_prices")
    return inputs.sql(
        """
        WITH prices AS (
          SELECT coin_id, day, price, origin
          FROM {daily_prices}
          WHERE vs_currency = 'usd' AND day >= date_sub(DATE {first}, {lookback})
        ),
        based AS (
          SELECT
            *,
            first_value(price) OVER (
              PARTITION BY coin_id ORDER BY day
              RANGE BETWEEN 1 PRECEDING AND 1 PRECEDING
            ) AS price_1d,
            first_value(price) OVER (
              PARTITION BY coin_id ORDER BY day
              RANGE BETWEEN 7 PRECEDING AND 7 PRECEDING
            ) AS price_7d,
            first_value(price) OVER (
              PARTITION BY coin_id ORDER BY day
              RANGE BETWEEN 30 PRECEDING AND 30 PRECEDING
            ) AS price_30d,
            first_value(price) OVER (
              PARTITION BY coin_id ORDER BY day
              RANGE BETWEEN 365 PRECEDING AND 365 PRECEDING
            ) AS price_365d,
            max(IF(day >= DATE {first}, price, NULL)) OVER (
              PARTITION BY coin_id ORDER BY day ROWS UNBOUNDED PRECEDING
            ) AS peak_since
          FROM prices
        ),
        windowed AS (
          SELECT
            *,
            count(ln(price / price_1d)) OVER days_30 AS returns_30d,
            stddev_samp(ln(price / price_1d)) OVER days_30 AS deviation_30d,
            avg(price) OVER days_7 AS mean_7d,
            count(*) OVER days_7 AS length_7d,
            avg(price) OVER days_30 AS mean_30d,
            count(*) OVER days_30 AS length_30d,
            avg(price) OVER days_200 AS mean_200d,
            count(*) OVER days_200 AS length_200d
          FROM based
          WINDOW
            days_7 AS (
              PARTITION BY coin_id ORDER BY day
              RANGE BETWEEN 6 PRECEDING AND CURRENT ROW
            ),
            days_30 AS (
              PARTITION BY coin_id ORDER BY day
              RANGE BETWEEN 29 PRECEDING AND CURRENT ROW
            ),
            days_200 AS (
              PARTITION BY coin_id ORDER BY day
              RANGE BETWEEN 199 PRECEDING AND CURRENT ROW
            )
        ),
        peaked AS (
          SELECT windowed.*, greatest(peak_since, peak_before) AS peak
          FROM windowed
          LEFT JOIN (
            SELECT coin_id, peak_price_usd AS peak_before
            FROM {self}
            WHERE day = date_sub(DATE {first}, 1)
          ) USING (coin_id)
          WHERE day >= DATE {first}
        )
        SELECT
          coin_id,
          day,
          price AS price_usd,
          price / price_1d - 1 AS return_1d,
          price / price_7d - 1 AS return_7d,
          price / price_30d - 1 AS return_30d,
          price / price_365d - 1 AS return_365d,
          IF(returns_30d >= {min_returns}, deviation_30d * sqrt(365), NULL) AS volatility_30d,
          peak AS peak_price_usd,
          price / peak - 1 AS drawdown,
          IF(length_7d = 7, mean_7d, NULL) AS ma_7d,
          IF(length_30d = 30, mean_30d, NULL) AS ma_30d,
          IF(length_200d = 200, mean_200d, NULL) AS ma_200d,
          origin
        FROM peaked
        """,
        first=first,
        lookback=LOOKBACK_DAYS,
        min_returns=MIN_RETURNS,
    )


spec = TableSpec(
    name="coin_metrics_daily",
    description=(
        "Returns, annualised volatility, drawdown and moving averages of each coin in US dollars."
        " One row a coin and calendar day (UTC), days without a price included."
    ),
    columns=(
        Column("coin_id", "string", "CoinGecko's id of the coin."),
        Column("day", "date", "Calendar day.", "UTC"),
        Column("price_usd", "double", "The day's price; null where none was observed.", "USD"),
        Column("return_1d", "double", "Price change since 1 day before.", "fraction"),
        Column("return_7d", "double", "Price change since 7 days before.", "fraction"),
        Column("return_30d", "double", "Price change since 30 days before.", "fraction"),
        Column("return_365d", "double", "Price change since 365 days before.", "fraction"),
        Column(
            "volatility_30d",
            "double",
            "Standard deviation of daily log returns of 30 days, at least 20, × √365.",
            "fraction a year",
        ),
        Column("peak_price_usd", "double", "Highest daily price up to this day.", "USD"),
        Column("drawdown", "double", "Price below that peak; 0 at a peak.", "fraction"),
        Column("ma_7d", "double", "Mean of the prices of 7 days.", "USD"),
        Column("ma_30d", "double", "Mean of the prices of 30 days.", "USD"),
        Column("ma_200d", "double", "Mean of the prices of 200 days.", "USD"),
        Column("origin", "string", "live, or recorded: the bundled recordings.", required=True),
    ),
    keys=("coin_id", "day"),
    partitioning=("month(day)",),
    sort_order=("coin_id", "day"),
    upstream=("daily_prices",),
    day_column="day",
    checks=(
        Check("prices_positive", "price_usd <= 0 OR ma_7d <= 0", "Prices and means are above 0."),
        Check(
            "drawdown_not_positive",
            "drawdown > 0 OR drawdown < -1",
            "A drawdown lies between -1 and 0.",
        ),
        Check("returns_possible", "return_1d <= -1", "No price falls by 100 % or more."),
        Check("volatility_not_negative", "volatility_30d < 0", "A volatility is 0 or greater."),
        Check(
            "daily_moves_believable",
            "return_1d > 10 OR return_1d < -0.99",
            "No price rose more than elevenfold or lost more than 99 % within a day.",
            blocking=False,
        ),
    ),
    transform=transform,
)
