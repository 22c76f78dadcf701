"""Exchanges over time: one row an exchange and snapshot.

Traps handled here: an exchange can stand on two pages of one snapshot, since pages shift while
they are read (the later page is kept); rank, country and founding year are null for many; normalised
volume, which discounts wash trading, is missing where CoinGecko has no web traffic to judge by.
"""

from typing import TYPE_CHECKING

from dataplatform.lake.plot import TablePlot
from dataplatform.lake.spec import LINEAGE, Check, Column, Inputs, TableSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def transform(inputs: Inputs) -> "DataFrame":
    """Keep one row an exchange and snapshot: that of the later page."""
    return inputs.sql("""
        SELECT
          id AS exchange_id,
          slot_at AS snapshot_at,
          name,
          nullif(country, '') AS country,
          year_established,
          nullif(url, '') AS url,
          trust_score,
          trust_score_rank,
          trade_volume_24h_btc AS volume_24h_btc,
          trade_volume_24h_btc_normalized AS volume_24h_btc_normalized,
          origin,
          fetched_at,
          raw_key
        FROM (
          SELECT *, row_number() OVER (
            PARTITION BY id, slot_at
            ORDER BY
              CAST(params['page'] AS INT) DESC NULLS LAST, fetched_at DESC, raw_key DESC,
              record_hash DESC
          ) AS position
          FROM {exchanges}
        )
        WHERE position = 1
    """)


spec = TableSpec(
    name="exchanges",
    description=(
        "Exchanges with their trust score and traded volume. One row an exchange and snapshot."
    ),
    columns=(
        Column("exchange_id", "string", "CoinGecko's id of the exchange."),
        Column("snapshot_at", "timestamp", "When the snapshot was taken.", "UTC"),
        Column("name", "string", "Name of the exchange.", required=True),
        Column("country", "string", "Where it is incorporated; null where unknown."),
        Column("year_established", "int", "When it was founded.", "year"),
        Column("url", "string", "Its web site."),
        Column("trust_score", "int", "CoinGecko's trust score, 1 to 10.", "points"),
        Column("trust_score_rank", "int", "Rank by trust score; null for unranked ones."),
        Column("volume_24h_btc", "double", "Traded in the 24 hours before: rolling.", "BTC"),
        Column(
            "volume_24h_btc_normalized",
            "double",
            "The same, discounted by CoinGecko for wash trading.",
            "BTC",
        ),
        *LINEAGE,
    ),
    keys=("exchange_id", "snapshot_at"),
    partitioning=("month(snapshot_at)",),
    sort_order=("exchange_id",),
    endpoints=("exchanges",),
    day_column="snapshot_at",
    checks=(
        Check(
            "volumes_not_negative",
            "volume_24h_btc < 0 OR volume_24h_btc_normalized < 0",
            "No volume is below 0.",
        ),
        Check(
            "trust_score_in_range",
            "trust_score NOT BETWEEN 0 AND 10",
            "A trust score lies between 0 and 10.",
            blocking=False,
        ),
        Check(
            "year_believable",
            "year_established NOT BETWEEN 1990 AND year(snapshot_at)",
            "An exchange was founded after 1990 and before its snapshot.",
            blocking=False,
        ),
    ),
    plot=TablePlot(
        "bar",
        "name",
        ("volume_24h_btc_normalized",),
        title="largest by 24 h volume in bitcoin",
    ),
    transform=transform,
)
