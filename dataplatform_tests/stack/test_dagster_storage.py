"""Dagster on servers: what steps print is in the bucket, old ticks and runs go."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRun, job, op
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.instance.ref import InstanceRef
from dagster._core.scheduler.instigation import TickStatus

from dataplatform.cli.prune import prune
from dataplatform.lake.store.buckets import LOGS
from dataplatform.lake.store.object_store import ObjectStore, open_bucket
from dataplatform.resources.servers import find_servers
from dataplatform_tests.stack.fixtures import RunningStack

pytestmark = pytest.mark.stack


@op
def speak() -> None:
    """Print a line."""
    print("said on stdout")  # noqa: T201  it is what is looked for


@op
def keep_silent() -> None:
    """Print nothing."""


@job
def speaking() -> None:
    """Run a step that prints, and one that doesn't."""
    speak()
    keep_silent()


@pytest.fixture
def instance(stack: RunningStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    monkeypatch.setenv("DATAPLATFORM_PROFILE", "stack")
    monkeypatch.setenv("DATAPLATFORM_HOME", str(stack.home))
    monkeypatch.setenv("DAGSTER_HOME", str(stack.dagster_home))
    with DagsterInstance.from_ref(InstanceRef.from_dir(str(stack.dagster_home))) as opened:
        yield opened


@pytest.fixture
def logs(stack: RunningStack) -> ObjectStore:
    return open_bucket(find_servers(stack.settings).access, LOGS.name)


def keys_of(logs: ObjectStore, run: DagsterRun) -> set[str]:
    return {one.key for one in logs.list("") if run.run_id in one.key}


def log_key(instance: DagsterInstance, run: DagsterRun) -> list[str]:
    [captured] = [
        event.dagster_event.logs_captured_data
        for event in instance.all_logs(run.run_id)
        if event.dagster_event and event.dagster_event.event_type_value == "LOGS_CAPTURED"
    ]
    return [run.run_id, "compute_logs", captured.file_key]


def test_what_a_step_prints_is_in_the_bucket(
    stack: RunningStack, instance: DagsterInstance, logs: ObjectStore
) -> None:
    run = speaking.execute_in_process(instance=instance).dagster_run
    [stdout] = [key for key in keys_of(logs, run) if key.endswith(".out")]
    assert logs.get(stdout) == b"said on stdout\n"
    # What another machine sees: it has no copy of its own.
    shutil.rmtree(Path(stack.dagster_home) / "compute-logs")
    manager, key = instance.compute_log_manager, log_key(instance, run)
    assert manager.get_log_data(key).stdout == b"said on stdout\n"
    # By an empty stderr the UI knows that nothing more will come.
    assert manager.is_capture_complete(key)


def test_pruned_runs_take_their_logs_along(instance: DagsterInstance, logs: ObjectStore) -> None:
    run = speaking.execute_in_process(instance=instance).dagster_run
    assert keys_of(logs, run)
    prune(instance, datetime.now(UTC) + timedelta(minutes=1), dry_run=False)
    assert not instance.has_run(run.run_id)
    assert keys_of(logs, run) == set()


def test_the_retention_of_ticks_is_in_force(instance: DagsterInstance) -> None:
    for kind in (InstigatorType.SENSOR, InstigatorType.SCHEDULE):
        kept = instance.get_tick_retention_settings(kind)
        assert kept[TickStatus.SKIPPED] == 7
        assert kept[TickStatus.FAILURE] == 90
