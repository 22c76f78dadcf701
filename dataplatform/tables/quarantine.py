"""Records that broke their endpoint's declaration: one row a record, with the reason.

Traps handled here: NaN, infinity and absurd magnitudes, missing ids, values of another type and
files that can't be read end here instead of in a table, and can be traced to their raw file.
"""

from functools import reduce
from typing import TYPE_CHECKING, Final

from dataplatform.lake.api.endpoint import Endpoint
from dataplatform.lake.spec import LINEAGE, Column, Inputs, TableSpec
from dataplatform.raw import all_endpoints

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SOURCES: Final[tuple[Endpoint, ...]] = tuple(all_endpoints().values())


def transform(inputs: Inputs) -> "DataFrame":
    """Gather the rejected records of every endpoint; equal ones of one file become one row."""
    frames = [_rejected(inputs, endpoint) for endpoint in SOURCES]
    return reduce(lambda one, other: one.unionByName(other), frames)


def _rejected(inputs: Inputs, endpoint: Endpoint) -> "DataFrame":
    return inputs.sql(
        """
        SELECT
          raw_key,
          record_hash,
          {source} AS source,
          {endpoint} AS endpoint,
          min(reject_reason) AS reason,
          min(record) AS record,
          min(origin) AS origin,
          min(fetched_at) AS fetched_at
        FROM {rejects}
        GROUP BY raw_key, record_hash
        """,
        rejects=inputs.rejects(endpoint.name),
        source=endpoint.source,
        endpoint=endpoint.name,
    )


spec = TableSpec(
    name="quarantine",
    description=(
        "Records that do not fit what their endpoint declares, kept out of the tables. One row a"
        " raw file and record."
    ),
    columns=(
        Column("record_hash", "string", "SHA-256 of the record; empty for an unreadable file."),
        Column("source", "string", "Where the file came from: coingecko or files.", required=True),
        Column("endpoint", "string", "The endpoint that the record belongs to.", required=True),
        Column("reason", "string", "Each broken rule, with its field.", required=True),
        Column("record", "string", "The record as received, its first 2,000 characters."),
        *LINEAGE,
    ),
    keys=("raw_key", "record_hash"),
    partitioning=("month(fetched_at)",),
    sort_order=("endpoint",),
    endpoints=tuple(endpoint.name for endpoint in SOURCES),
    day_column="fetched_at",
    transform=transform,
)
