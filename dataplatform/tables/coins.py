"""The history of every coin's listing: one row a coin and version (slowly changing, type 2).

Traps handled here: symbols are no key and change; ids are retired and come back; an excerpt of the
list says nothing about the coins that it leaves out; the same id can stand twice in one list; a
coin whose entry is quarantined is listed all the same, and where an entry does not say whose it is,
nobody is known to be missing. The result does not depend on how many listings one build applies: the
state before is the base, each listing is compared with what went before it, and only versions that
are new or were closed are given.
"""

from typing import TYPE_CHECKING

from dataplatform.lake.spec import LINEAGE, Check, Column, Inputs, TableSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def transform(inputs: Inputs) -> "DataFrame":
    """Apply the new listings, oldest first, on top of the current versions.

    A listing is one slot. Each sighting of a coin is compared with the one before: the first
    complete listing in between, if any, missed the coin and delists it; then the sighting relists
    it, or renames it where symbol or name differ. A current version counts as a sighting before all
    listings. Each sighting gives up to two versions: its own, and the delisting after it.

    A rejected entry is no sighting, as it may lie about symbol and name: it keeps its listing from
    missing its coin or, where its id can't be read, from missing any.
    """
    return inputs.sql(
        """
        WITH rejected AS (
          SELECT slot, collect_set(id) AS ids, bool_or(id IS NULL) AS has_unknown
          FROM (
            SELECT regexp_extract(raw_key, '(.*)/') AS slot, get_json_object(record, '$.id') AS id
            FROM {rejects}
          )
          GROUP BY slot
        ),
        complete_listings AS (
          SELECT sort_array(collect_list(struct(at, raw_key, origin, ids AS rejected))) AS listings
          FROM (
            SELECT
              slot_at AS at, min(raw_key) AS raw_key, min(origin) AS origin,
              regexp_extract(min(raw_key), '(.*)/') AS slot
            FROM {coins_list}
            WHERE complete
            GROUP BY slot_at
          )
          LEFT JOIN rejected USING (slot)
          WHERE NOT coalesce(has_unknown, false)
        ),
        sightings AS (
          SELECT
            id AS coin_id, symbol, name, slot_at AS valid_from, origin, fetched_at, raw_key,
            CAST(NULL AS STRING) AS status, CAST(NULL AS STRING) AS change, complete, record_hash
          FROM {coins_list}
          UNION ALL
          SELECT
            coin_id, symbol, name, valid_from, origin, fetched_at, raw_key, status, change, true, ''
          FROM {self}
          WHERE is_current
        ),
        distinct_sightings AS (
          SELECT
            *,
            get(
              filter(
                (SELECT listings FROM complete_listings),
                one -> one.at > valid_from
                  AND NOT coalesce(array_contains(one.rejected, coin_id), false)
              ), 0
            ) AS next_complete
          FROM (
            SELECT *, row_number() OVER (
              PARTITION BY coin_id, valid_from
              ORDER BY complete DESC, fetched_at DESC, raw_key DESC, record_hash DESC
            ) AS position
            FROM (SELECT * FROM sightings DISTRIBUTE BY coin_id)
          )
          WHERE position = 1
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
          FROM distinct_sightings
          WINDOW coin AS (PARTITION BY coin_id ORDER BY valid_from)
        ),
        versions AS (
          SELECT coin_id, symbol, name, inline(array(
            named_struct(
              'valid_from', valid_from,
              'status', coalesce(status, 'listed'),
              'change', CASE
                WHEN change IS NOT NULL THEN change
                WHEN NOT is_known THEN 'new'
                WHEN was_delisted THEN 'relisted'
                WHEN NOT (symbol <=> symbol_before AND name <=> name_before) THEN 'renamed'
              END,
              'is_published', status IS NOT NULL,
              'origin', origin, 'fetched_at', fetched_at, 'raw_key', raw_key
            ),
            named_struct(
              'valid_from', next_complete.at,
              'status', 'delisted',
              'change', IF(
                coalesce(status, 'listed') = 'listed'
                  AND next_complete IS NOT NULL
                  AND coalesce(next_complete.at < seen_next, true),
                'delisted', NULL
              ),
              'is_published', false,
              'origin', next_complete.origin,
              'fetched_at', next_complete.at,
              'raw_key', next_complete.raw_key
            )
          ))
          FROM compared
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
        WHERE NOT is_published OR valid_to IS NOT NULL
        """,
        rejects=inputs.rejects("coins_list"),
    )


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
            "one_current_version",
            "count_if(is_current) <> 1",
            "Each coin has one current version, a delisted one too.",
            per=("coin_id",),
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
