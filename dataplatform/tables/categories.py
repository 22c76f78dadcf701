"""Categories of coins over time: one row a category and snapshot.

Traps handled here: figures are null for categories without traded coins; a category updated long
ago keeps coming with its old `updated_at`; older answers have no `top_3_coins_id`.
"""

from typing import TYPE_CHECKING

from dataplatform.lake.plot import TablePlot
from dataplatform.lake.spec import LINEAGE, Check, Column, Inputs, TableSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def transform(inputs: Inputs) -> "DataFrame":
    """Keep one row a category and snapshot: the figures that were updated last."""
    return inputs.sql("""
        SELECT
          id AS category_id,
          slot_at AS snapshot_at,
          name,
          market_cap AS market_cap_usd,
          market_cap_change_24h AS market_cap_change_24h_pct,
          volume_24h AS volume_24h_usd,
          top_3_coins_id AS top_coins,
          updated_at,
          origin,
          fetched_at,
          raw_key
        FROM (
          SELECT *, row_number() OVER (
            PARTITION BY id, slot_at
            ORDER BY updated_at DESC NULLS LAST, fetched_at DESC, raw_key DESC, record_hash DESC
          ) AS position
          FROM {coins_categories}
        )
        WHERE position = 1
    """)


spec = TableSpec(
    name="categories",
    description=(
        "Market capitalisation and volume of each category of coins. One row a category and"
        " snapshot. Categories overlap: their sum is not the market."
    ),
    columns=(
        Column("category_id", "string", "CoinGecko's id of the category."),
        Column("snapshot_at", "timestamp", "When the snapshot was taken.", "UTC"),
        Column("name", "string", "Name of the category.", required=True),
        Column("market_cap_usd", "double", "Market capitalisation of its coins.", "USD"),
        Column("market_cap_change_24h_pct", "double", "Its change over 24 hours.", "%"),
        Column("volume_24h_usd", "double", "Traded in the 24 hours before: rolling.", "USD"),
        Column("top_coins", "array<string>", "Ids of its three largest coins, largest first."),
        Column("updated_at", "timestamp", "When CoinGecko computed the figures.", "UTC"),
        *LINEAGE,
    ),
    keys=("category_id", "snapshot_at"),
    partitioning=("month(snapshot_at)",),
    sort_order=("category_id",),
    endpoints=("coins_categories",),
    day_column="snapshot_at",
    checks=(
        Check(
            "amounts_not_negative",
            "market_cap_usd < 0 OR volume_24h_usd < 0",
            "No market cap and no volume is below 0.",
        ),
        Check(
            "changes_believable",
            "abs(market_cap_change_24h_pct) > 1000",
            "No category's market cap changed more than tenfold in 24 hours.",
            blocking=False,
        ),
    ),
    plot=TablePlot(
        "bar",
        "name",
        ("market_cap_usd",),
        title="largest by market cap in US dollars",
    ),
    transform=transform,
    freshness_hours=3.0,
)
