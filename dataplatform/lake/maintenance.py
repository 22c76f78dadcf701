"""Keeps Iceberg tables small: compaction, manifests, snapshot expiry, orphan files, in that order.

Each step makes waste for the next one: compaction leaves files that only old snapshots need, expiry
deletes those, and what no snapshot ever named is an orphan. The table's knowledge of its inputs
lives in its newest snapshots (`dataplatform.lake.state`), so it is brought to the head before any
snapshot expires: the head of `main` never does.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from dataplatform.lake.inspect import footprint
from dataplatform.lake.schema import identifier, load_table
from dataplatform.lake.spec import CATALOG
from dataplatform.lake.state import published_state, snapshot_state

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SNAPSHOT_FLOOR: Final = timedelta(days=7)
LAST_FLOOR: Final = 5
ORPHAN_FLOOR: Final = timedelta(days=3)
"""A file is written before the commit that names it; no run takes longer than six hours."""


class RetentionTooShortError(ValueError):
    """A retention below the floor was asked for a table that was not named for it."""


class MaintenanceError(RuntimeError):
    """A table's rows or its state differ after maintenance."""


@dataclass(frozen=True)
class Retention:
    """How long what is no longer current is kept.

    Args:
        snapshots: age up to which every snapshot is kept.
        last: how many of the newest snapshots are kept whatever their age.
        orphans: age below which a file that no snapshot names is left alone.
        shorter_for: tables for which less than the floor was asked for by name.
    """

    snapshots: timedelta = SNAPSHOT_FLOOR
    last: int = LAST_FLOOR
    orphans: timedelta = ORPHAN_FLOOR
    shorter_for: frozenset[str] = frozenset()

    def require_for(self, table: str) -> None:
        """Raise RetentionTooShortError where the table may not be kept so short."""
        if self.orphans < ORPHAN_FLOOR:
            raise RetentionTooShortError(
                f"orphan files younger than {ORPHAN_FLOOR.days} days may belong to a commit under"
                f" way: {self.orphans} is too short"
            )
        is_short = self.snapshots < SNAPSHOT_FLOOR or self.last < LAST_FLOOR
        if is_short and table not in self.shorter_for:
            raise RetentionTooShortError(
                f"{table}: keeping snapshots for {self.snapshots} and the last {self.last} is below"
                f" the floor of {SNAPSHOT_FLOOR.days} days and {LAST_FLOOR} snapshots."
                f" Remedy: keep them longer, or name {table} in `shorter_for`."
            )


class Size(BaseModel):
    """What a table is made of: live rows, files and bytes of its head, manifests, snapshots."""

    rows: int
    data_files: int
    delete_files: int
    bytes: int
    manifests: int
    snapshots: int


class Maintained(BaseModel):
    """What maintenance did to one table; `removed` counts deleted files by kind."""

    table: str
    before: Size
    after: Size
    removed: dict[str, int]
    seconds: float

    @property
    def removed_files(self) -> int:
        """How many files were deleted from the store."""
        return sum(self.removed.values())


@dataclass(frozen=True)
class Maintenance:
    """Maintains the tables of one lake. The caller holds the lake's writer lock.

    Args:
        catalog: the lake's catalog.
        spark: gives the session; called only for a table that has snapshots.
        retention: what is kept.
    """

    catalog: Catalog
    spark: "Callable[[], SparkSession]"
    retention: Retention = Retention()

    def maintain(self, name: str, now: datetime | None = None) -> Maintained | None:
        """Maintain one table; None where it is not built yet.

        Raises:
            RetentionTooShortError: before anything is touched.
            MaintenanceError: rows or state are not what they were.
        """
        self.retention.require_for(name)
        table = load_table(self.catalog, name)
        if table is None or table.current_snapshot() is None:
            return None
        started = time.monotonic()
        before, state, rows = size(table), published_state(table), self._rows(name)
        self._compact(name)
        carry_state(self.catalog.load_table(identifier(name)))
        removed = self._expire(name, now or datetime.now(UTC))
        table.refresh()
        after = size(table)
        kept = self._rows(name)
        if kept != rows or _inputs(table) != state.model_dump(exclude=_HISTORY):
            raise MaintenanceError(
                f"{name}: {rows:,} rows became {kept:,}, or its state changed."
                f" Remedy: look at the snapshots by `dp table {name}` and roll back."
            )
        seconds = time.monotonic() - started
        return Maintained(table=name, before=before, after=after, removed=removed, seconds=seconds)

    def _compact(self, name: str) -> None:
        # A data file with one delete file is read twice by every query: threshold 1. Without
        # remove-dangling-deletes the folded delete files would stay listed for ever.
        self._call(
            "rewrite_data_files",
            name,
            "options => map('delete-file-threshold', '1', 'remove-dangling-deletes', 'true')",
            *(["strategy => 'sort'"] if self._is_sorted(name) else []),
        )
        self._call("rewrite_manifests", name)

    def _rows(self, name: str) -> int:
        """Count what readers see; the summaries only repeat what writers said."""
        return self.spark().table(f"{CATALOG}.{identifier(name)}").count()

    def _is_sorted(self, name: str) -> bool:
        return not self.catalog.load_table(identifier(name)).sort_order().is_unsorted

    def _expire(self, name: str, now: datetime) -> dict[str, int]:
        expired = self._call(
            "expire_snapshots",
            name,
            f"older_than => {_timestamp(now - self.retention.snapshots)}",
            f"retain_last => {self.retention.last}",
        )
        older = f"older_than => {_timestamp(now - self.retention.orphans)}"
        # Listed by the catalog's own S3 client: Spark's file system does not know `s3://`.
        by_prefix = "prefix_listing => true"
        orphans = self._call("remove_orphan_files", name, older, by_prefix)
        counts = {
            key.removeprefix("deleted_").removesuffix("_count"): int(count or 0)
            for key, count in expired[0].items()
        }
        return counts | {"orphan_files": len(orphans)}

    def _call(self, procedure: str, name: str, *arguments: str) -> list[Mapping[str, Any]]:
        listed = ", ".join([f"table => '{identifier(name)}'", *arguments])
        rows = self.spark().sql(f"CALL {CATALOG}.system.{procedure}({listed})").collect()
        return [row.asDict() for row in rows]


_HISTORY: Final = {"changed", "covers"}
"""What a state says of its own snapshot rather than of the table."""


def carry_state(table: Table) -> None:
    """Bring the table's state to its head, where no expiry can take it.

    The snapshot that carries it changes no row, and says so.
    """
    head = table.current_snapshot()
    if head is None or snapshot_state(head) is not None:
        return
    carried = published_state(table).model_copy(update={"changed": None, "covers": None})
    table.append(table.schema().as_arrow().empty_table(), snapshot_properties=carried.summary)


def size(table: Table) -> Size:
    """Return what the table is made of, from its metadata."""
    current = footprint(table)
    head = table.current_snapshot()
    return Size(
        rows=current.rows,
        data_files=current.data_files,
        delete_files=current.delete_files,
        bytes=current.size,
        manifests=len(head.manifests(table.io)) if head else 0,
        snapshots=len(table.snapshots()),
    )


def _inputs(table: Table) -> dict[str, Any]:
    return published_state(table).model_dump(exclude=_HISTORY)


def _timestamp(moment: datetime) -> str:
    return f"TIMESTAMP '{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}'"
