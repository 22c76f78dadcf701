"""The whole market over time, as CoinGecko counts it: one row a snapshot.

Traps handled here: amounts come as an object of currencies, of which the US dollar is kept; the
time stamp is in epoch seconds here, in milliseconds elsewhere; the totals cover every coin that
CoinGecko lists, those of `market_daily` only the coins of this lake.
"""

from typing import TYPE_CHECKING

from dataplatform.lake.plot import TablePlot
from dataplatform.lake.spec import LINEAGE, Check, Column, Inputs, TableSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def transform(inputs: Inputs) -> "DataFrame":
    """Take the dollar amounts and the two largest shares out of each snapshot."""
    return inputs.sql("""
        SELECT
          slot_at AS snapshot_at,
          timestamp_seconds(updated_at) AS updated_at,
          active_cryptocurrencies,
          markets,
          total_market_cap['usd'] AS total_market_cap_usd,
          total_volume['usd'] AS total_volume_usd,
          market_cap_percentage['btc'] AS btc_dominance_pct,
          market_cap_percentage['eth'] AS eth_dominance_pct,
          market_cap_change_percentage_24h_usd AS market_cap_change_24h_pct,
          origin,
          fetched_at,
          raw_key
        FROM (
          SELECT *, row_number() OVER (
            PARTITION BY slot_at
            ORDER BY updated_at DESC, fetched_at DESC, raw_key DESC, record_hash DESC
          ) AS position
          FROM {global}
        )
        WHERE position = 1
    """)


spec = TableSpec(
    name="global_market",
    description=(
        "Total capitalisation, volume and dominance of all coins that CoinGecko lists. One row a"
        " snapshot."
    ),
    columns=(
        Column("snapshot_at", "timestamp", "When the snapshot was taken.", "UTC"),
        Column(
            "updated_at", "timestamp", "When CoinGecko computed the figures.", "UTC", required=True
        ),
        Column("active_cryptocurrencies", "int", "Coins listed and active.", "coins"),
        Column("markets", "int", "Exchanges listed.", "exchanges"),
        Column("total_market_cap_usd", "double", "Capitalisation of all coins.", "USD"),
        Column("total_volume_usd", "double", "Traded in the 24 hours before: rolling.", "USD"),
        Column("btc_dominance_pct", "double", "Bitcoin's share of the capitalisation.", "%"),
        Column("eth_dominance_pct", "double", "Ether's share of the capitalisation.", "%"),
        Column("market_cap_change_24h_pct", "double", "Its change over 24 hours.", "%"),
        *LINEAGE,
    ),
    keys=("snapshot_at",),
    partitioning=("month(snapshot_at)",),
    sort_order=("snapshot_at",),
    endpoints=("global",),
    day_column="snapshot_at",
    checks=(
        Check(
            "total_positive", "total_market_cap_usd <= 0", "The whole market is worth something."
        ),
        Check(
            "shares_within_whole",
            "btc_dominance_pct < 0 OR eth_dominance_pct < 0"
            " OR btc_dominance_pct + eth_dominance_pct > 100",
            "The shares of bitcoin and ether are not negative and together at most 100 %.",
        ),
        Check(
            "change_believable",
            "abs(market_cap_change_24h_pct) > 50",
            "The whole market did not change by half in 24 hours.",
            blocking=False,
        ),
    ),
    plot=TablePlot(
        "line",
        "snapshot_at",
        ("total_market_cap_usd",),
        title="capitalisation of all coins in US dollars",
        days=1825,
    ),
    transform=transform,
    freshness_hours=3.0,
)
