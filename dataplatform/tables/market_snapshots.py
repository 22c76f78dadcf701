"""Every coin's market figures at one moment: one row a coin, currency and snapshot.

Traps handled here: pages shift while they are read, so a coin can stand on two pages of one
snapshot (the figures updated last are kept) and another on none (which is no delisting: `coins`
knows nothing of this endpoint); symbols are not unique, only `coin_id` identifies; ranks, supplies
and fully diluted valuations are null for many coins; a change over 24 hours may come under its old
field name only.
"""

from typing import TYPE_CHECKING

from dataplatform.lake.plot import TablePlot
from dataplatform.lake.spec import LINEAGE, Check, Column, Inputs, TableSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def transform(inputs: Inputs) -> "DataFrame":
    """Keep one row a coin, currency and snapshot: the figures that were updated last."""
    return inputs.sql("""
        SELECT
          id AS coin_id,
          vs_currency,
          slot_at AS snapshot_at,
          symbol,
          name,
          current_price AS price,
          market_cap,
          market_cap_rank,
          fully_diluted_valuation,
          total_volume,
          high_24h,
          low_24h,
          price_change_percentage_1h_in_currency AS change_1h_pct,
          coalesce(
            price_change_percentage_24h_in_currency, price_change_percentage_24h
          ) AS change_24h_pct,
          price_change_percentage_7d_in_currency AS change_7d_pct,
          price_change_percentage_30d_in_currency AS change_30d_pct,
          circulating_supply,
          total_supply,
          max_supply,
          ath,
          ath_date AS ath_at,
          atl,
          atl_date AS atl_at,
          last_updated AS last_updated_at,
          origin,
          fetched_at,
          raw_key
        FROM (
          SELECT *, row_number() OVER (
            PARTITION BY id, vs_currency, slot_at
            ORDER BY
              last_updated DESC NULLS LAST, page DESC NULLS LAST, fetched_at DESC,
              raw_key DESC, record_hash DESC
          ) AS position
          FROM (
            SELECT
              *,
              lower(coalesce(params['vs_currency'], 'usd')) AS vs_currency,
              CAST(params['page'] AS INT) AS page
            FROM {coins_markets}
          )
        )
        WHERE position = 1
    """)


spec = TableSpec(
    name="market_snapshots",
    description=(
        "Price, market capitalisation, volume, supply and records of every coin at one moment, as"
        " CoinGecko reported them. One row a coin, currency and snapshot."
    ),
    columns=(
        Column("coin_id", "string", "CoinGecko's id of the coin; symbols are not unique."),
        Column("vs_currency", "string", "Currency of all amounts, lower case, such as usd."),
        Column("snapshot_at", "timestamp", "When the snapshot was taken, for all pages.", "UTC"),
        Column("symbol", "string", "Ticker symbol; several coins share one.", required=True),
        Column("name", "string", "Name of the coin.", required=True),
        Column("price", "double", "Price of one coin; null while unknown.", "vs_currency"),
        Column("market_cap", "double", "Price times circulating supply.", "vs_currency"),
        Column("market_cap_rank", "int", "Rank by market cap; null for unranked coins."),
        Column("fully_diluted_valuation", "double", "Price times maximum supply.", "vs_currency"),
        Column(
            "total_volume",
            "double",
            "Traded in the 24 hours before: rolling, no calendar day.",
            "vs_currency",
        ),
        Column("high_24h", "double", "Highest price of the 24 hours before.", "vs_currency"),
        Column("low_24h", "double", "Lowest price of the 24 hours before.", "vs_currency"),
        Column("change_1h_pct", "double", "Price change over 1 hour.", "%"),
        Column("change_24h_pct", "double", "Price change over 24 hours.", "%"),
        Column("change_7d_pct", "double", "Price change over 7 days.", "%"),
        Column("change_30d_pct", "double", "Price change over 30 days.", "%"),
        Column("circulating_supply", "double", "Coins in circulation.", "coins"),
        Column("total_supply", "double", "Coins that exist; null where unknown.", "coins"),
        Column("max_supply", "double", "Coins that can ever exist; null: no limit.", "coins"),
        Column("ath", "double", "Highest price ever.", "vs_currency"),
        Column("ath_at", "timestamp", "When the highest price was reached.", "UTC"),
        Column("atl", "double", "Lowest price ever.", "vs_currency"),
        Column("atl_at", "timestamp", "When the lowest price was reached.", "UTC"),
        Column(
            "last_updated_at",
            "timestamp",
            "When CoinGecko computed the figures; days ago for a coin that is not traded.",
            "UTC",
        ),
        *LINEAGE,
    ),
    keys=("coin_id", "vs_currency", "snapshot_at"),
    partitioning=("day(snapshot_at)",),
    sort_order=("coin_id",),
    endpoints=("coins_markets",),
    day_column="snapshot_at",
    checks=(
        Check("prices_not_negative", "price < 0 OR ath < 0 OR atl < 0", "No price is below 0."),
        Check("ranks_positive", "market_cap_rank < 1", "A rank is 1 or greater."),
        Check(
            "not_from_the_future",
            "last_updated_at > snapshot_at + INTERVAL 1 DAY",
            "No figure was updated more than a day after its snapshot.",
            blocking=False,
        ),
        Check(
            "range_ordered",
            "low_24h > high_24h",
            "The lowest price of 24 hours is not above the highest.",
            blocking=False,
        ),
        Check(
            "changes_believable",
            "abs(change_24h_pct) > 100000",
            "No price moved more than thousandfold in 24 hours.",
            blocking=False,
        ),
    ),
    plot=TablePlot(
        "bar",
        "name",
        ("market_cap",),
        title="largest coins by market cap in US dollars",
        where="vs_currency = 'usd'",
    ),
    transform=transform,
    freshness_hours=3.0,
)
