"""The market of this lake's coins day by day: one row a day.

Traps handled here: market caps are unknown for many coins and sources, so dominance is a share of
the known ones, and null where too few are known: bitcoin alone would be 100 %; volume is rolling
and taken once a day; a sum of floating point numbers depends on their order, so amounts are added
in the order of their size and every build gives the same bits. Totals cover the coins of this
lake; CoinGecko's own totals are in `global_market`.
"""

from typing import TYPE_CHECKING, Final

from dataplatform.lake.plot import TablePlot
from dataplatform.lake.spec import Check, Column, Inputs, TableSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

MIN_CAPS: Final = 20


def transform(inputs: Inputs) -> "DataFrame":
    """Aggregate each changed day that has a price."""
    ranges = [inputs.changed("daily_prices"), inputs.changed("coin_metrics_daily")]
    return inputs.sql(
        """
        WITH priced AS (
          SELECT prices.*, metrics.return_1d
          FROM {daily_prices} prices
          LEFT JOIN {coin_metrics_daily} metrics
            ON metrics.coin_id = prices.coin_id
            AND metrics.day = prices.day
            AND metrics.day BETWEEN DATE {first} AND DATE {last}
          WHERE prices.vs_currency = 'usd'
            AND prices.price IS NOT NULL
            AND prices.day BETWEEN DATE {first} AND DATE {last}
        ),
        gathered AS (
          SELECT
            day,
            CAST(count(*) AS INT) AS coins,
            sort_array(collect_list(market_cap)) AS caps,
            sort_array(collect_list(volume_24h)) AS volumes,
            max(IF(coin_id = 'bitcoin', market_cap, NULL)) AS btc_cap,
            max(IF(coin_id = 'ethereum', market_cap, NULL)) AS eth_cap,
            CAST(count_if(return_1d > 0) AS INT) AS advancers,
            CAST(count_if(return_1d < 0) AS INT) AS decliners,
            count(return_1d) AS moved,
            max(origin) AS origin
          FROM priced
          GROUP BY day
        ),
        added AS (
          SELECT
            *,
            IF(size(caps) > 0, aggregate(caps, 0D, (total, cap) -> total + cap), NULL)
              AS total_market_cap_usd,
            IF(size(volumes) > 0, aggregate(volumes, 0D, (total, one) -> total + one), NULL)
              AS volume_24h_usd
          FROM gathered
        )
        SELECT
          day,
          coins,
          total_market_cap_usd,
          volume_24h_usd,
          IF(size(caps) >= {min_caps}, btc_cap / total_market_cap_usd, NULL) AS btc_dominance,
          IF(size(caps) >= {min_caps}, eth_cap / total_market_cap_usd, NULL) AS eth_dominance,
          advancers,
          decliners,
          advancers / moved AS breadth,
          origin
        FROM added
        """,
        first=min(first for first, _ in ranges),
        last=max(last for _, last in ranges),
        min_caps=MIN_CAPS,
    )


spec = TableSpec(
    name="market_daily",
    description=(
        "Total capitalisation, volume, dominance and breadth of the coins in this lake. One row a"
        " calendar day (UTC) on which any of them has a price."
    ),
    columns=(
        Column("day", "date", "Calendar day.", "UTC"),
        Column("coins", "int", "Coins with a price that day.", "coins", required=True),
        Column(
            "total_market_cap_usd",
            "double",
            "Sum of the known market caps; null: none known.",
            "USD",
        ),
        Column("volume_24h_usd", "double", "Sum of the known rolling 24 h volumes.", "USD"),
        Column(
            "btc_dominance",
            "double",
            f"Bitcoin's share of the known caps; null: fewer than {MIN_CAPS} are known.",
            "fraction",
        ),
        Column(
            "eth_dominance",
            "double",
            f"Ether's share of the known caps; null: fewer than {MIN_CAPS} are known.",
            "fraction",
        ),
        Column("advancers", "int", "Coins above their price of the day before.", "coins"),
        Column("decliners", "int", "Coins below their price of the day before.", "coins"),
        Column(
            "breadth", "double", "Advancers among the coins with a price on both days.", "fraction"
        ),
        Column("origin", "string", "live, or recorded: the bundled recordings.", required=True),
    ),
    keys=("day",),
    partitioning=("year(day)",),
    sort_order=("day",),
    upstream=("daily_prices", "coin_metrics_daily"),
    day_column="day",
    checks=(
        Check(
            "fractions_in_range",
            "btc_dominance NOT BETWEEN 0 AND 1 OR eth_dominance NOT BETWEEN 0 AND 1"
            " OR breadth NOT BETWEEN 0 AND 1",
            "Dominance and breadth lie between 0 and 1.",
        ),
        Check(
            "counts_consistent",
            "coins < 1 OR advancers + decliners > coins",
            "No more coins move than have a price.",
        ),
        Check("totals_positive", "total_market_cap_usd <= 0", "A total is above 0."),
    ),
    plot=TablePlot(
        "line",
        "day",
        ("total_market_cap_usd",),
        title="capitalisation of this lake's coins in US dollars",
        days=1825,
    ),
    transform=transform,
)
