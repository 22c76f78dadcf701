"""How alike the largest coins move: one row a day and pair of coins.

Traps handled here: days without a price give no return and are left out of the pair's observations;
a coin whose price never moves has no correlation (the row is left out); returns are fed in the
order of days, so every build gives the same bits.
"""

from typing import TYPE_CHECKING, Final

from dataplatform.lake.plot import TablePlot
from dataplatform.lake.spec import Check, Column, Inputs, TableSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

COINS: Final = 15
WINDOW_DAYS: Final = 90
MIN_OBSERVATIONS: Final = 30


def transform(inputs: Inputs) -> "DataFrame":
    """Correlate the daily log returns of 90 days for each pair of a day's 15 largest coins.

    A coin takes part in a day's ranking with a price on that day and 30 returns in its window; it
    is ranked by market cap (unknown ones last), returns, then id. A changed price touches the
    windows of the following 90 days, and needs the 90 days before.

    The pairs are made by exploding one sorted array a day, which needs no self-join: at most a few
    dozen coins a day are left by then. That `daily_prices` has a row for every day makes a shift of
    90 rows a shift of 90 days; counting returns by difference is exact, since they are integers.
    """
    first, last = inputs.changed("daily_prices")
    return inputs.sql(
        """
        WITH prices AS (
          SELECT
            coin_id, day, price, market_cap, origin,
            IF(
              lag(day) OVER in_time = date_sub(day, 1), ln(price / lag(price) OVER in_time), NULL
            ) AS log_return
          FROM {daily_prices}
          WHERE vs_currency = 'usd'
            AND day BETWEEN date_sub(DATE {first}, {window}) AND date_add(DATE {last}, {window})
          WINDOW in_time AS (PARTITION BY coin_id ORDER BY day)
        ),
        counted AS (
          SELECT
            *,
            count(log_return) OVER (
              PARTITION BY coin_id ORDER BY day ROWS UNBOUNDED PRECEDING
            ) AS returns_so_far
          FROM prices
        ),
        eligible AS (
          SELECT
            *,
            day >= DATE {first} AND price IS NOT NULL
              AND returns >= {min_observations} AS is_eligible
          FROM (
            SELECT
              *,
              returns_so_far - coalesce(
                lag(returns_so_far, {window}) OVER (PARTITION BY coin_id ORDER BY day), 0
              ) AS returns
            FROM counted
          )
        ),
        ranked AS (
          SELECT
            coin_id, day, log_return, origin,
            is_eligible AND row_number() OVER (
              PARTITION BY day, is_eligible
              ORDER BY market_cap DESC NULLS LAST, returns DESC, coin_id
            ) <= {coins} AS is_top
          FROM eligible
        ),
        largest AS (
          SELECT *
          FROM (SELECT *, max(is_top) OVER (PARTITION BY coin_id) AS is_ever_top FROM ranked)
          WHERE is_ever_top
        ),
        days AS (
          SELECT
            day,
            max(origin) AS origin,
            sort_array(collect_list(struct(coin_id, log_return, is_top))) AS coins
          FROM largest
          GROUP BY day
        ),
        pairs AS (
          SELECT
            day, origin,
            one.coin_id AS coin_a, other.coin_id AS coin_b,
            one.log_return AS return_a, other.log_return AS return_b,
            one.is_top AND other.is_top AS is_wanted
          FROM days
          LATERAL VIEW posexplode(coins) ones AS position, one
          LATERAL VIEW explode(slice(coins, position + 2, size(coins))) others AS other
        ),
        correlated AS (
          SELECT
            *,
            corr(return_a, return_b) OVER recent AS correlation,
            CAST(count(return_a + return_b) OVER recent AS INT) AS observations
          FROM pairs
          WINDOW recent AS (
            PARTITION BY coin_a, coin_b ORDER BY day
            RANGE BETWEEN {before} PRECEDING AND CURRENT ROW
          )
        )
        SELECT day, coin_a, coin_b, correlation, observations, origin
        FROM correlated
        WHERE is_wanted
          AND observations >= {min_observations}
          AND correlation IS NOT NULL
          AND NOT isnan(correlation)
        """,
        first=first,
        last=last,
        window=WINDOW_DAYS,
        before=WINDOW_DAYS - 1,
        min_observations=MIN_OBSERVATIONS,
        coins=COINS,
    )


spec = TableSpec(
    name="correlations",
    description=(
        "Correlation of the daily log returns of 90 days between the 15 largest coins of each day."
        " One row a day and pair, the coin that sorts first as `coin_a`."
    ),
    columns=(
        Column("day", "date", "Last day of the 90.", "UTC"),
        Column("coin_a", "string", "One coin, which sorts before the other."),
        Column("coin_b", "string", "The other coin."),
        Column(
            "correlation", "double", "Pearson's correlation, -1 to 1.", "coefficient", required=True
        ),
        Column(
            "observations",
            "int",
            "Days on which both coins have a return, at least 30.",
            "days",
            required=True,
        ),
        Column("origin", "string", "live, or recorded: the bundled recordings.", required=True),
    ),
    keys=("day", "coin_a", "coin_b"),
    partitioning=("year(day)",),
    sort_order=("day", "coin_a"),
    upstream=("daily_prices",),
    day_column="day",
    replace_days=WINDOW_DAYS,
    checks=(
        Check(
            "correlation_in_range",
            "abs(correlation) > 1.0000001",
            "A correlation lies between -1 and 1, but for rounding.",
        ),
        Check("pairs_ordered", "coin_a >= coin_b", "Each pair stands once, in order."),
        Check(
            "observations_in_window",
            "observations NOT BETWEEN 30 AND 90",
            "A correlation rests on 30 to 90 days.",
        ),
    ),
    plot=TablePlot(
        "heatmap",
        "coin_a",
        ("coin_b",),
        "correlation",
        title="daily log returns of 90 days",
    ),
    transform=transform,
)
