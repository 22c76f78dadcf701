"""What an Iceberg table is made of: snapshots, files and partitions, from its metadata alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.types import DateType

from dataplatform.lake.state import ALL_DAYS, ancestors, snapshot_state


@dataclass(frozen=True)
class SnapshotInfo:
    """One published state of a table.

    Args:
        snapshot_id: to read it again: `FOR VERSION AS OF <id>`.
        committed_at: UTC.
        operation: append, overwrite, delete or replace.
        added: rows added.
        removed: rows removed, whether rewritten or marked as deleted.
        rows: rows after it.
    """

    snapshot_id: int
    committed_at: datetime
    operation: str
    added: int
    removed: int
    rows: int


@dataclass(frozen=True)
class PartitionInfo:
    """One partition: its values as text, rows as stored, files and bytes."""

    partition: str
    rows: int
    files: int
    size: int


@dataclass(frozen=True)
class Footprint:
    """A table's current size: rows as readers see them, files, delete files, bytes."""

    rows: int
    data_files: int
    delete_files: int
    size: int
    updated_at: datetime | None


def footprint(table: Table) -> Footprint:
    """Return the size of the table's current snapshot."""
    snapshot = table.current_snapshot()
    if snapshot is None:
        return Footprint(0, 0, 0, 0, None)
    summary = _summary(snapshot)
    return Footprint(
        rows=live_rows(snapshot),
        data_files=summary.get("total-data-files", 0),
        delete_files=summary.get("total-delete-files", 0),
        size=summary.get("total-files-size", 0),
        updated_at=_moment(snapshot.timestamp_ms),
    )


def snapshots(table: Table) -> list[SnapshotInfo]:
    """Return the snapshots of the published line, newest first.

    A MERGE and the snapshot that holds its state are one: to go back to the MERGE alone would be to
    forget what it has read.
    """
    found, merged = [], None
    for snapshot in ancestors(table, table.current_snapshot()):
        info = _snapshot_info(snapshot)
        if merged is not None and snapshot.snapshot_id == merged.covers:
            sealed = found.pop()
            changes = {"added": info.added, "removed": info.removed, "operation": info.operation}
            info = replace(sealed, **changes)
        found.append(info)
        merged = snapshot_state(snapshot)
    return found


def partitions(table: Table) -> list[PartitionInfo]:
    """Return the partitions of the current snapshot, newest values last; one for no partitioning."""
    if table.current_snapshot() is None:
        return []
    rows = table.inspect.partitions().to_pylist()
    return sorted((_partition_info(row) for row in rows), key=lambda info: info.partition)


def sample(
    table: Table, limit: int, day_column: str | None = None, days: tuple[str, str] | None = None
) -> list[dict[str, str]]:
    """Return some published rows as text, of the days from the first to the last of `days`."""
    scan = table.scan(limit=limit)
    if day_column is not None and days not in (None, ALL_DAYS):
        assert days is not None  # noqa: S101  excluded above
        is_date = table.schema().find_type(day_column) == DateType()
        start, end = ("", "") if is_date else ("T00:00:00+00:00", "T23:59:59.999999+00:00")
        scan = scan.filter(
            f"{day_column} >= '{days[0]}{start}' and {day_column} <= '{days[1]}{end}'"
        )
    rows = scan.to_arrow().to_pylist()
    return [
        {name: "" if value is None else str(value) for name, value in row.items()} for row in rows
    ]


def partitioning(table: Table) -> str:
    """Return the partition transforms as the specs write them, such as `month(day)`."""
    names = table.schema()
    fields = [
        f"{field.transform}({names.find_column_name(field.source_id)})"
        for field in table.spec().fields
    ]
    return ", ".join(fields) or "nothing"


def _partition_info(row: Mapping[str, Any]) -> PartitionInfo:
    values = row.get("partition") or {}
    return PartitionInfo(
        # A field of another layout than the file's has no value: the table was repartitioned.
        partition=", ".join(
            f"{name}={_readable(name, v)}"
            for name, v in values.items()
            if v is not None or len(values) == 1
        )
        or "all",
        rows=row["record_count"],
        files=row["file_count"],
        size=row["total_data_file_size_in_bytes"],
    )


def _readable(name: str, value: object) -> str:
    """Return a partition value as people write it: Iceberg counts months and years from 1970."""
    if isinstance(value, int) and name.endswith("_month"):
        return f"{1970 + value // 12}-{value % 12 + 1:02}"
    if isinstance(value, int) and name.endswith("_year"):
        return str(1970 + value)
    return str(value)


def _snapshot_info(snapshot: Snapshot) -> SnapshotInfo:
    summary = _summary(snapshot)
    return SnapshotInfo(
        snapshot_id=snapshot.snapshot_id,
        committed_at=_moment(snapshot.timestamp_ms),
        operation=str(snapshot.summary.operation.value) if snapshot.summary else "unknown",
        added=summary.get("added-records", 0),
        removed=summary.get("deleted-records", 0) + summary.get("added-position-deletes", 0),
        rows=live_rows(snapshot),
    )


def live_rows(snapshot: Snapshot) -> int:
    """Return how many rows readers of a snapshot see."""
    state = snapshot_state(snapshot)
    if state is not None and state.rows is not None:
        return state.rows
    summary = _summary(snapshot)
    # A merge-on-read table keeps deleted rows in its files until they are compacted.
    return summary.get("total-records", 0) - summary.get("total-position-deletes", 0)


def _summary(snapshot: Snapshot) -> dict[str, int]:
    properties = snapshot.summary.additional_properties if snapshot.summary else {}
    return {name: int(value) for name, value in properties.items() if value.isdigit()}


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
