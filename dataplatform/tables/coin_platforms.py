"""On which chains a coin has a contract: one row a coin and platform.

Traps handled here: native coins come with an empty platform and an empty address; addresses change;
a list that repeats what is known changes nothing, so that a daily list of 20,000 coins writes only
what is new.
"""

from typing import TYPE_CHECKING

from dataplatform.lake.spec import LINEAGE, Check, Column, Inputs, TableSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def transform(inputs: Inputs) -> "DataFrame":
    """Give the contracts that are new or whose address changed, with where that was first seen."""
    return inputs.sql("""
        WITH listed AS (
          SELECT
            id AS coin_id, platform, contract_address, origin, fetched_at, raw_key, record_hash
          FROM {coins_list}
          LATERAL VIEW explode(platforms) exploded AS platform, contract_address
          WHERE trim(platform) <> '' AND trim(contract_address) <> ''
        ),
        sightings AS (
          SELECT
            coin_id, platform, contract_address, fetched_at AS first_seen_at, origin, fetched_at,
            raw_key, false AS is_base
          FROM (
            SELECT *, row_number() OVER (
              PARTITION BY coin_id, platform, fetched_at ORDER BY raw_key DESC, record_hash DESC
            ) AS position
            FROM listed
          )
          WHERE position = 1
          UNION ALL
          SELECT
            coin_id, platform, contract_address, first_seen_at, origin, fetched_at, raw_key, true
          FROM {self}
        ),
        compared AS (
          SELECT
            *,
            min(first_seen_at) OVER contract AS seen_first_at,
            NOT (contract_address <=> lag(contract_address) OVER in_time) AS is_change
          FROM sightings
          WINDOW
            contract AS (PARTITION BY coin_id, platform),
            in_time AS (PARTITION BY coin_id, platform ORDER BY fetched_at, is_base DESC)
        )
        SELECT
          coin_id, platform, contract_address, seen_first_at AS first_seen_at, origin, fetched_at,
          raw_key
        FROM (
          SELECT *, row_number() OVER (
            PARTITION BY coin_id, platform ORDER BY fetched_at DESC, is_base
          ) AS position
          FROM compared
          WHERE is_change
        )
        WHERE position = 1 AND NOT is_base
    """)


spec = TableSpec(
    name="coin_platforms",
    description=(
        "The contract address of each coin on each platform, as last listed. One row a coin and"
        " platform; a platform that is no longer listed keeps its row."
    ),
    columns=(
        Column("coin_id", "string", "CoinGecko's id of the coin."),
        Column("platform", "string", "CoinGecko's id of the platform, such as ethereum."),
        Column("contract_address", "string", "The coin's address there.", required=True),
        Column(
            "first_seen_at",
            "timestamp",
            "First list that had the coin on this platform.",
            "UTC",
            required=True,
        ),
        *LINEAGE,
    ),
    keys=("coin_id", "platform"),
    sort_order=("coin_id", "platform"),
    endpoints=("coins_list",),
    in_order=True,
    checks=(
        Check(
            "nothing_empty",
            "trim(platform) = '' OR trim(contract_address) = ''",
            "No platform and no address is empty.",
        ),
        Check(
            "seen_before_fetched",
            "first_seen_at > fetched_at",
            "The first sighting is not after the newest change.",
        ),
    ),
    transform=transform,
)
