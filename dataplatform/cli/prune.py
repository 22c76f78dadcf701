"""`dp prune-runs`: forget old runs, with their events and what their steps printed."""

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dataplatform.cli import console
from dataplatform.cli.console import UserError, counted, user_errors
from dataplatform.cli.home import load_settings, prepare_dagster_home

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagster import AssetKey, DagsterInstance

_BATCH: Final = 100
_AGE: Final = re.compile(r"([1-9][0-9]{0,3})d")


@user_errors
def prune_runs(
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="DAYSd", help="Of at least this age.")
    ] = "90d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many.")] = False,
) -> None:
    """Forget runs that ended long ago, with their events and logs.

    A run that made the present version of an asset or of a partition stays, whatever its age: by it
    Dagster knows that the asset is there. Example: dp prune-runs --older-than 90d
    """
    from dagster import DagsterInstance

    found = _AGE.fullmatch(older_than)
    if not found:
        raise UserError(f"{older_than!r} is no age. Remedy: days such as 90d, at least 1d.")
    prepare_dagster_home(load_settings())
    before = datetime.now(UTC) - timedelta(days=int(found[1]))
    with DagsterInstance.get() as instance:
        kept, gone = prune(instance, before, dry_run=dry_run)
    screen = console.err()
    if not kept and not gone:
        screen.print(f"No run that has ended is older than {counted(int(found[1]), 'day')}.")
        return
    said = "would go" if dry_run else "are gone"
    screen.print(f"{counted(gone, 'run')} {said}, {kept:,} hold what is current and stay.")


def prune(instance: "DagsterInstance", before: datetime, *, dry_run: bool) -> tuple[int, int]:
    """Delete runs that were created before a time and have ended.

    Returns:
        How many stay, as they made the present version of something, and how many went.
    """
    current = _current(instance)
    kept, gone = 0, 0
    for run_id in list(_ended(instance, before)):
        if run_id in current:
            kept += 1
            continue
        gone += 1
        if not dry_run:
            # The logs first: a run that is gone would not lead to them any more.
            instance.compute_log_manager.delete_logs(prefix=[run_id])
            instance.delete_run(run_id)
    return kept, gone


def _ended(instance: "DagsterInstance", before: datetime) -> "Iterator[str]":
    from dagster import DagsterRunStatus, RunsFilter

    ended = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
    filters = RunsFilter(statuses=ended, created_before=before)
    cursor: str | None = None
    while batch := instance.get_run_ids(filters, cursor=cursor, limit=_BATCH):
        yield from batch
        cursor = batch[-1]


def _current(instance: "DagsterInstance") -> set[str]:
    """Return the runs that made the present version of an asset or of a partition."""
    from dagster import DagsterEventType

    runs: set[str] = set()
    for key in instance.get_asset_keys():
        if newest := instance.get_latest_materialization_event(key):
            runs.add(newest.run_id)
        partitions = instance.event_log_storage.get_latest_storage_id_by_partition(
            key, DagsterEventType.ASSET_MATERIALIZATION
        )
        runs |= _runs_of(instance, key, list(partitions.values()))
    return runs


def _runs_of(instance: "DagsterInstance", key: "AssetKey", events: list[int]) -> set[str]:
    """Return the runs of materializations, which are named by their numbers."""
    from dagster import AssetRecordsFilter

    runs: set[str] = set()
    for start in range(0, len(events), _BATCH):
        wanted = AssetRecordsFilter(asset_key=key, storage_ids=events[start : start + _BATCH])
        found = instance.fetch_materializations(wanted, limit=_BATCH).records
        runs |= {record.run_id for record in found}
    return runs
