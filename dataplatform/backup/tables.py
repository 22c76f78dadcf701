"""Which files the catalog's tables need, and whether they are there."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from dataplatform.backup.manifest import TableState
from dataplatform.lake.catalog import file_io
from dataplatform.lake.store.s3 import S3Access

if TYPE_CHECKING:
    from pyiceberg.table import Table

Present = Mapping[str, Collection[str]]
"""Bucket to the keys that are in it."""


def examine(
    tables: Iterable[TableState], access: S3Access, present: Present
) -> tuple[tuple[TableState, ...], list[str]]:
    """Look at the current files of tables and views.

    Returns:
        The tables with the snapshot that readers see, and what is missing, as `table: file`.
    """
    seen, missing = [], []
    for state in tables:
        gone = []
        if _has(present, state.metadata_location):
            state, gone = _examine(state, access, present)  # noqa: PLW2901
        else:
            gone = [state.metadata_location]
        seen.append(state)
        missing += [f"{state}: {file}" for file in gone]
    return tuple(seen), missing


def _examine(state: TableState, access: S3Access, present: Present) -> tuple[TableState, list[str]]:
    if state.kind == "VIEW":
        return state, []
    from pyiceberg.table import StaticTable

    table = StaticTable.from_metadata(state.metadata_location, file_io(access))
    snapshot = table.current_snapshot()
    if snapshot is None:
        return state, []
    found = state.model_copy(update={"snapshot_id": snapshot.snapshot_id})
    return found, list(_missing(table, present))


def _missing(table: "Table", present: Present) -> Iterator[str]:
    """Yield the files of the current snapshot that are not there; below one, nothing is known."""
    snapshot = table.current_snapshot()
    assert snapshot  # noqa: S101  the caller looked
    if not _has(present, snapshot.manifest_list):
        yield snapshot.manifest_list
        return
    for manifest in snapshot.manifests(table.io):
        if not _has(present, manifest.manifest_path):
            yield manifest.manifest_path
            continue
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
            if not _has(present, entry.data_file.file_path):
                yield entry.data_file.file_path


def _has(present: Present, location: str) -> bool:
    bucket, _, key = location.partition("://")[2].partition("/")
    return key in present.get(bucket, ())
