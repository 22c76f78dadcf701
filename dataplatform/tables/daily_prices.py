"""The price of every coin on every calendar day: one row a coin, currency and day (UTC).

The price of day D is, by CoinGecko's own convention, the one at D 00:00 UTC. Where no source has
that, the earliest observation of the day stands for it. Days between a coin's first and last known
day on which nothing was observed have a row too, with a null price: so a shift of n rows is a shift
of n days.

Traps handled here: several sources know one day (declared precedence, below); the partial last
point of a market_chart is no observation; figures that were updated days before their snapshot are
no observation of that day; 0 stands for an unknown price or market cap; dates come as dd-mm-yyyy
and as ISO; volume is a rolling 24 hour figure.

The order of arrival does not matter: of two candidates the better one wins, whichever came first,
and a published row is a candidate like any other.
"""

from typing import TYPE_CHECKING, Final

from dataplatform.lake.plot import TablePlot
from dataplatform.lake.spec import Check, Column, Inputs, TableSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

PRECEDENCE: Final[dict[str, int]] = {"exact": 1, "inbox": 2, "observed": 3, "missing": 9}
"""Ranks, best first: a daily market_chart point at 00:00, a file's row of that date, any other
observation (of which the earliest wins, whether from market_chart or a snapshot), none."""

SMALLEST_PRICE: Final = 1e-30
"""Smaller prices are no prices; ratios of what remains (up to 1e12) stay finite."""


def transform(inputs: Inputs) -> "DataFrame":
    """Give the rows that are better than what is published, and the gaps they leave.

    Read are the changed days of the upstream tables, the new files and, of the published rows, those
    days and their neighbours. Only a coin without any row there has its nearest older or newer
    day looked up, so a snapshot of known coins costs nothing in proportion to the history.
    """
    candidates = _candidates(inputs)
    first, last = _touched_days(inputs)
    near = inputs.sql(
        """
        SELECT
          coin_id, vs_currency, day, price, market_cap, volume_24h, source, source_rank,
          observed_at, origin, fetched_at, raw_key
        FROM {self}
        WHERE day BETWEEN date_sub(DATE {first}, 1) AND date_add(DATE {last}, 1)
        """,
        first=first,
        last=last,
    )
    far = _nearest_outside(inputs, candidates, near, first, last)
    return _merged(inputs, candidates, near, far)


def _candidates(inputs: Inputs) -> "DataFrame":
    """Return every usable observation of the changed days and the new files."""
    first_point, last_point = inputs.changed("price_points")
    first_snapshot, last_snapshot = inputs.changed("market_snapshots")
    return inputs.sql(
        """
        SELECT
          coin_id, vs_currency, CAST(observed_at AS DATE) AS day,
          price, nullif(market_cap, 0) AS market_cap, volume_24h,
          'market_chart' AS source,
          IF(
            granularity = 'daily' AND observed_at = date_trunc('DAY', observed_at),
            {exact}, {observed}
          ) AS source_rank,
          observed_at, origin, fetched_at, raw_key
        FROM {price_points}
        WHERE observed_at >= TIMESTAMP {first_point}
          AND observed_at < CAST(date_add(DATE {last_point}, 1) AS TIMESTAMP)
          AND NOT is_partial
          AND price >= {smallest}
        UNION ALL
        SELECT
          coin_id, vs_currency, CAST(snapshot_at AS DATE),
          price, nullif(market_cap, 0), total_volume,
          'market_snapshots', {observed}, snapshot_at, origin, fetched_at, raw_key
        FROM {market_snapshots}
        WHERE snapshot_at >= TIMESTAMP {first_snapshot}
          AND snapshot_at < CAST(date_add(DATE {last_snapshot}, 1) AS TIMESTAMP)
          AND coalesce(last_updated_at >= snapshot_at - INTERVAL 1 DAY, true)
          AND price >= {smallest}
        UNION ALL
        SELECT
          coingecko_coin_id, vs_currency, day, price, nullif(market_cap, 0), volume_24h,
          'inbox', {inbox_rank}, CAST(day AS TIMESTAMP), origin, fetched_at, raw_key
        FROM {dated}
        LATERAL VIEW stack(
          3,
          'usd', price_usd, market_cap_usd, volume_24h_usd,
          'eur', price_eur, CAST(NULL AS DOUBLE), CAST(NULL AS DOUBLE),
          'chf', price_chf, CAST(NULL AS DOUBLE), CAST(NULL AS DOUBLE)
        ) amounts AS vs_currency, price, market_cap, volume_24h
        WHERE day IS NOT NULL AND price >= {smallest}
        """,
        dated=_dated_inbox(inputs),
        first_point=first_point,
        last_point=last_point,
        first_snapshot=first_snapshot,
        last_snapshot=last_snapshot,
        exact=PRECEDENCE["exact"],
        inbox_rank=PRECEDENCE["inbox"],
        observed=PRECEDENCE["observed"],
        smallest=SMALLEST_PRICE,
    )


def _dated_inbox(inputs: Inputs) -> "DataFrame":
    """Return the new inbox records with `day`: both spellings of a date, told by the third sign."""
    return inputs.sql("""
        SELECT
          *,
          IF(
            substr(date, 3, 1) = '-',
            make_date(
              CAST(substr(date, 7, 4) AS INT),
              CAST(substr(date, 4, 2) AS INT),
              CAST(substr(date, 1, 2) AS INT)
            ),
            try_cast(date AS DATE)
          ) AS day
        FROM {inbox}
    """)


def _touched_days(inputs: Inputs) -> tuple[str, str]:
    """Return the first and last day that a candidate can have, as literals that prune files."""
    found = inputs.sql(
        "SELECT CAST(min(day) AS STRING) AS first, CAST(max(day) AS STRING) AS last FROM {dated}",
        dated=_dated_inbox(inputs),
    ).first()
    days = [inputs.changed("price_points"), inputs.changed("market_snapshots")]
    if found is not None and found["first"] is not None:
        days.append((found["first"], found["last"]))
    return min(first for first, _ in days), max(last for _, last in days)


def _nearest_outside(
    inputs: Inputs, candidates: "DataFrame", near: "DataFrame", first: str, last: str
) -> "DataFrame":
    """Return the nearest published day of coins that have none in or beside the touched days.

    Published days are contiguous, so all of such a coin lie before, or all after. Where there is no
    such coin, the broadcast side is empty and Spark (adaptive execution) never reads the history.
    """
    return inputs.sql(
        """
        SELECT
          coin_id, vs_currency,
          IF(max(day) < DATE {first}, max(day), min(day)) AS day
        FROM (
          SELECT /*+ BROADCAST(lost) */ own.coin_id, own.vs_currency, own.day
          FROM {self} own
          JOIN (
            SELECT coin_id, vs_currency
            FROM (
              SELECT coin_id, vs_currency, false AS is_published FROM {candidates}
              UNION ALL
              SELECT coin_id, vs_currency, true FROM {near}
            )
            GROUP BY coin_id, vs_currency
            HAVING NOT max(is_published)
          ) lost
          ON lost.coin_id = own.coin_id AND lost.vs_currency = own.vs_currency
          WHERE day NOT BETWEEN date_sub(DATE {first}, 1) AND date_add(DATE {last}, 1)
        )
        GROUP BY coin_id, vs_currency
        """,
        candidates=candidates,
        near=near,
        first=first,
        last=last,
    )


def _merged(
    inputs: Inputs, candidates: "DataFrame", near: "DataFrame", far: "DataFrame"
) -> "DataFrame":
    """Choose the best row of each day, then fill each step of more than one day.

    The order of preference ends with every column, so that it is total; a published row equal to a
    candidate goes first and is not given again.
    """
    return inputs.sql(
        """
        WITH everything AS (
          SELECT *, false AS is_published FROM {candidates}
          UNION ALL
          SELECT *, true FROM {near}
          UNION ALL
          SELECT
            coin_id, vs_currency, day, NULL, NULL, NULL, 'missing', {missing_rank},
            NULL, NULL, NULL, NULL, true
          FROM {far}
        ),
        best AS (
          SELECT *
          FROM (
            SELECT *, row_number() OVER (
              PARTITION BY coin_id, vs_currency, day
              ORDER BY
                source_rank, observed_at, fetched_at DESC, source, raw_key DESC, price, market_cap,
                volume_24h, is_published DESC
            ) AS position
            FROM (SELECT * FROM everything DISTRIBUTE BY coin_id, vs_currency)
          )
          WHERE position = 1
        ),
        stepped AS (
          SELECT
            *,
            lag(day) OVER in_time AS day_before,
            max(origin) OVER coin AS lake_origin
          FROM best
          WINDOW
            coin AS (PARTITION BY coin_id, vs_currency),
            in_time AS (PARTITION BY coin_id, vs_currency ORDER BY day)
        )
        SELECT
          coin_id,
          vs_currency,
          grid_day AS day,
          IF(grid_day = day, price, NULL) AS price,
          IF(grid_day = day, market_cap, NULL) AS market_cap,
          IF(grid_day = day, volume_24h, NULL) AS volume_24h,
          IF(grid_day = day, source, 'missing') AS source,
          IF(grid_day = day, source_rank, {missing_rank}) AS source_rank,
          IF(grid_day = day, observed_at, NULL) AS observed_at,
          lake_origin AS origin,
          IF(grid_day = day, fetched_at, NULL) AS fetched_at,
          IF(grid_day = day, raw_key, NULL) AS raw_key
        FROM stepped
        LATERAL VIEW explode(sequence(coalesce(date_add(day_before, 1), day), day)) days AS grid_day
        WHERE grid_day < day OR NOT is_published
        """,
        candidates=candidates,
        near=near,
        far=far,
        missing_rank=PRECEDENCE["missing"],
    )


spec = TableSpec(
    name="daily_prices",
    description=(
        "The price of each coin on each calendar day (UTC), from all sources by declared precedence."
        " One row a coin, currency and day, without gaps between a coin's first and last day."
    ),
    columns=(
        Column("coin_id", "string", "CoinGecko's id of the coin."),
        Column("vs_currency", "string", "Currency of all amounts, lower case, such as usd."),
        Column("day", "date", "Calendar day.", "UTC"),
        Column(
            "price",
            "double",
            "Price at 00:00, or else the day's earliest; null where source is missing.",
            "vs_currency",
        ),
        Column("market_cap", "double", "Market capitalisation then; null: unknown.", "vs_currency"),
        Column(
            "volume_24h",
            "double",
            "Traded in the 24 hours before the observation: rolling, nearly the day before.",
            "vs_currency",
        ),
        Column(
            "source", "string", "market_chart, inbox, market_snapshots or missing.", required=True
        ),
        Column(
            "source_rank",
            "int",
            "1 daily point at 00:00, 2 inbox, 3 earliest observation, 9 missing.",
            required=True,
        ),
        Column("observed_at", "timestamp", "When the price was observed.", "UTC"),
        Column("origin", "string", "live, or recorded: the bundled recordings.", required=True),
        Column("fetched_at", "timestamp", "When the raw file was received.", "UTC"),
        Column("raw_key", "string", "The raw file's key in the bucket `datalake`."),
    ),
    keys=("coin_id", "vs_currency", "day"),
    partitioning=("year(day)",),
    sort_order=("coin_id", "day"),
    endpoints=("inbox",),
    upstream=("price_points", "market_snapshots"),
    day_column="day",
    checks=(
        Check("prices_positive", "price <= 0", "Every price is above 0."),
        Check(
            "missing_or_priced",
            "(source = 'missing') <> (price IS NULL)",
            "A price is null exactly where no source has the day.",
        ),
        Check(
            "observed_on_its_day",
            "CAST(observed_at AS DATE) <> day",
            "A price was observed on the day that it stands for.",
        ),
        Check(
            "days_observed",
            "count_if(source = 'missing') > greatest(3, 0.1 * count(*))",
            "Of the days that changed, at most three or a tenth are missing of a coin.",
            blocking=False,
            per=("coin_id", "vs_currency"),
        ),
    ),
    plot=TablePlot(
        "line",
        "day",
        ("price",),
        title="price in US dollars, log scale",
        where="vs_currency = 'usd' and coin_id in ('bitcoin', 'ethereum', 'solana')",
        days=365,
        series="coin_id",
        logarithmic=True,
    ),
    transform=transform,
)
