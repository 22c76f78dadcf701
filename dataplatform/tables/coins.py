"""The history of every coin's listing: one row a coin and version (slowly changing, type 2).

Traps handled here: symbols are no key and change; ids are retired and come back; an excerpt of the
list says nothing about the coins that it leaves out; the same id can stand twice in one list. The
result does not depend on how many listings one build applies: the state before is the base, each
listing is compared with what went before it, and only versions that are new or were closed are
given.
"""

from typing import TYPE_CHECKING

from dataplatform.lake.spec import LINEAGE, Check, Column, Inputs, TableSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def transform(inputs: Inputs) -> "DataFrame":
    """Apply the new listings, oldest first, on top of the current versions.

    A listing is what was fetched at one moment. Each sighting of a coin is compared with the one
    before: the first complete listing in between, if any, missed the coin and delists it; then the
    sighting relists it, or renames it where symbol or name differ. A current version counts as a
    sighting before all listings.
    """
    return inputs.sql("""
        WITH records AS (
          SELECT
            *,
            min(fetched_at) OVER (PARTITION BY regexp_replace(raw_key, '[^/]*$', '')) AS listed_at
          FROM {coins_list}
        ),
        fetches AS (
          SELECT
            max(complete) AS is_complete,
            struct(listed_at AS at, min(raw_key) AS raw_key, min(origin) AS origin) AS listing
          FROM records
          GROUP BY listed_at
        ),
        listings AS (
          SELECT
            listing.at AS listed_at,
            min(IF(is_complete, listing, NULL)) OVER (
              ORDER BY listing.at ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING
            ) AS next_complete
          FROM fetches
        ),
        sightings AS (
          SELECT
            id AS coin_id, symbol, name, listed_at AS valid_from, origin, fetched_at, raw_key,
            CAST(NULL AS STRING) AS status, CAST(NULL AS STRING) AS change, next_complete
          FROM (
            SELECT *, row_number() OVER (
              PARTITION BY id, listed_at
              ORDER BY complete DESC, fetched_at DESC, raw_key DESC, record_hash DESC
            ) AS position
            FROM records
          )
          JOIN listings USING (listed_at)
          WHERE position = 1
          UNION ALL
          SELECT
            coin_id, symbol, name, valid_from, origin, fetched_at, raw_key, status, change,
            (SELECT min(listing) FROM fetches WHERE is_complete) AS next_complete
          FROM {self}
          WHERE is_current
        ),
        compared AS (
          SELECT
            *,
            lag(symbol) OVER coin AS symbol_before,
            lag(name) OVER coin AS name_before,
            lag(coin_id) OVER coin IS NOT NULL AS is_known,
            coalesce(lag(status) OVER coin = 'delisted', false)
              OR coalesce(lag(next_complete.at) OVER coin < valid_from, false) AS was_delisted,
            lead(valid_from) OVER coin AS seen_next
          FROM sightings
          WINDOW coin AS (PARTITION BY coin_id ORDER BY valid_from)
        ),
        versions AS (
          SELECT
            coin_id, valid_from, symbol, name,
            coalesce(status, 'listed') AS status,
            CASE
              WHEN change IS NOT NULL THEN change
              WHEN NOT is_known THEN 'new'
              WHEN was_delisted THEN 'relisted'
              WHEN NOT (symbol <=> symbol_before AND name <=> name_before) THEN 'renamed'
            END AS change,
            status IS NOT NULL AS is_base,
            origin, fetched_at, raw_key
          FROM compared
          UNION ALL
          SELECT
            coin_id, next_complete.at, symbol, name, 'delisted', 'delisted', false,
            next_complete.origin, next_complete.at, next_complete.raw_key
          FROM compared
          WHERE coalesce(status, 'listed') = 'listed'
            AND next_complete IS NOT NULL
            AND coalesce(next_complete.at < seen_next, true)
        ),
        dated AS (
          SELECT
            *,
            lead(valid_from) OVER (PARTITION BY coin_id ORDER BY valid_from) AS valid_to
          FROM versions
          WHERE change IS NOT NULL
        )
        SELECT
          coin_id, valid_from, valid_to, valid_to IS NULL AS is_current,
          symbol, name, status, change, origin, fetched_at, raw_key
        FROM dated
        WHERE NOT is_base OR valid_to IS NOT NULL
    """)


spec = TableSpec(
    name="coins",
    description=(
        "What each coin was called, and whether it was listed, at any time. One row a coin and"
        " version; `is_current` picks today's."
    ),
    columns=(
        Column("coin_id", "string", "CoinGecko's id of the coin."),
        Column("valid_from", "timestamp", "Fetch of the list that first showed this.", "UTC"),
        Column("valid_to", "timestamp", "Start of the next version; null: current.", "UTC"),
        Column("is_current", "boolean", "Whether this is the newest version.", required=True),
        Column("symbol", "string", "Ticker symbol; several coins share one."),
        Column("name", "string", "Name of the coin.", required=True),
        Column(
            "status",
            "string",
            "listed or delisted; a delisted coin keeps its last name.",
            required=True,
        ),
        Column(
            "change",
            "string",
            "What began this version: new, renamed, delisted or relisted.",
            required=True,
        ),
        *LINEAGE,
    ),
    keys=("coin_id", "valid_from"),
    sort_order=("coin_id", "valid_from"),
    endpoints=("coins_list",),
    in_order=True,
    checks=(
        Check("validity_ordered", "valid_to <= valid_from", "A version ends after it begins."),
        Check(
            "current_is_open",
            "is_current <> (valid_to IS NULL)",
            "The current version, and no other, has no end.",
        ),
        Check(
            "status_follows_change",
            "status NOT IN ('listed', 'delisted')"
            " OR change NOT IN ('new', 'renamed', 'delisted', 'relisted')"
            " OR (status = 'delisted') <> (change = 'delisted')",
            "A version is delisted where it began by a delisting, else listed.",
        ),
        Check("symbols_present", "symbol IS NULL", "A coin has a symbol.", blocking=False),
    ),
    transform=transform,
)
