"""What a table knows about its own inputs, kept in its snapshots' summaries.

Each published snapshot carries how far the table has read the arrivals log, which snapshots of its
upstream tables it has seen, and which days it changed. It is committed with the rows, so that a
killed run leaves either both or neither.
"""

from collections.abc import Iterator
from datetime import date, datetime
from typing import Final

from pydantic import BaseModel, ConfigDict
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot

from dataplatform.lake.manifest import Cursor

STATE_PROPERTY: Final = "dataplatform.state"
ALL_DAYS: Final = ("0001-01-01", "9999-12-31")
NO_DAYS: Final = ("9999-12-31", "0001-01-01")


class TableState(BaseModel):
    """A table's knowledge of its inputs.

    Attributes:
        cursor: how far the arrivals log was read.
        upstream: the snapshot last read of each upstream table.
        newest: the newest fetch applied, for tables that apply listings in order.
        rows: live rows after this snapshot; None, as many as its files hold.
        changed: first and last day that this snapshot changed; None, nothing.
        held: the blocking checks, by fingerprint, that all rows have passed.
        version: that of the transformation which made the rows.
        covers: the snapshot of the MERGE whose state this is, where it could not carry its own.
    """

    model_config = ConfigDict(frozen=True)

    cursor: Cursor = Cursor()
    upstream: dict[str, int] = {}
    newest: datetime | None = None
    rows: int | None = None
    changed: tuple[str, str] | None = None
    covers: int | None = None
    held: frozenset[str] = frozenset()
    version: int = 1

    @property
    def summary(self) -> dict[str, str]:
        """The snapshot properties that store this state."""
        return {STATE_PROPERTY: self.model_dump_json()}


def ancestors(table: Table, head: Snapshot | None) -> Iterator[Snapshot]:
    """Yield `head` and its ancestors, newest first, as far as they are not expired."""
    by_id = {snapshot.snapshot_id: snapshot for snapshot in table.snapshots()}
    while head is not None:
        yield head
        parent = head.parent_snapshot_id
        head = by_id.get(parent) if parent is not None else None


def snapshot_state(snapshot: Snapshot) -> TableState | None:
    """Return the state that a snapshot carries, or None."""
    stored = (
        snapshot.summary.additional_properties.get(STATE_PROPERTY) if snapshot.summary else None
    )
    return TableState.model_validate_json(stored) if stored else None


def published_state(table: Table) -> TableState:
    """Return the state of the published rows; empty where there is none (all is read again)."""
    for snapshot in ancestors(table, table.current_snapshot()):
        state = snapshot_state(snapshot)
        if state is not None:
            return state
    return TableState()


def changed_since(table: Table, seen: int | None) -> tuple[str, str]:
    """Return the first and last day (ISO) that changed in `table` since the snapshot `seen`.

    An empty range (first after last) where nothing did; all days where that can't be told: the
    snapshot is unknown, or somebody else wrote.
    """
    days: list[tuple[str, str]] = []
    covered = {None}
    for snapshot in ancestors(table, table.current_snapshot()):
        if snapshot.snapshot_id == seen:
            break
        state = snapshot_state(snapshot)
        if state is not None:
            covered.add(state.covers)
            days += [state.changed] if state.changed else []
        elif snapshot.snapshot_id not in covered and not _only_moves_rows(snapshot):
            return ALL_DAYS
    else:
        return ALL_DAYS if table.current_snapshot() else NO_DAYS
    if not days:
        return NO_DAYS
    return min(first for first, _ in days), max(last for _, last in days)


def _only_moves_rows(snapshot: Snapshot) -> bool:
    """Whether a snapshot replaces files and no rows, as compaction does."""
    return snapshot.summary is not None and snapshot.summary.operation == Operation.REPLACE


def as_iso(day: date | datetime | None) -> str | None:
    """Return the calendar day of a date or a UTC time stamp as ISO text."""
    if day is None:
        return None
    return day.date().isoformat() if isinstance(day, datetime) else day.isoformat()
