"""Old runs go with what they printed; those that hold the present state of an asset stay."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dagster import (
    AssetKey,
    DagsterInstance,
    DagsterRunStatus,
    DailyPartitionsDefinition,
    asset,
    instance_for_test,
    job,
    materialize,
    op,
)
from typer.testing import CliRunner

from dataplatform.cli import app
from dataplatform.cli.prune import prune

FUTURE = datetime.now(UTC) + timedelta(days=1)


@op
def speak() -> None:
    """Print a line, for the run's log."""


@job
def speaking() -> None:
    """Run one step that makes no asset."""
    speak()


@asset
def table() -> None:
    """Stand for a table."""


@asset(partitions_def=DailyPartitionsDefinition("2025-01-01"))
def daily() -> None:
    """Stand for a partitioned asset."""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    with instance_for_test(temp_dir=str(tmp_path)) as made:
        yield made


def test_runs_that_made_nothing_current_go(instance: DagsterInstance) -> None:
    old = speaking.execute_in_process(instance=instance).run_id
    assert prune(instance, FUTURE, dry_run=True) == (0, 1)
    assert instance.has_run(old)
    assert prune(instance, FUTURE, dry_run=False) == (0, 1)
    assert not instance.has_run(old)
    assert instance.all_logs(old) == []


def test_young_runs_stay(instance: DagsterInstance) -> None:
    young = speaking.execute_in_process(instance=instance).run_id
    assert prune(instance, datetime.now(UTC) - timedelta(days=1), dry_run=False) == (0, 0)
    assert instance.has_run(young)


def test_what_made_the_present_version_of_an_asset_stays(instance: DagsterInstance) -> None:
    first = materialize([table], instance=instance).run_id
    second = materialize([table], instance=instance).run_id
    assert prune(instance, FUTURE, dry_run=False) == (1, 1)
    assert not instance.has_run(first)
    assert instance.has_run(second)


def test_the_newest_run_of_each_partition_stays(instance: DagsterInstance) -> None:
    runs = [
        materialize([daily], partition_key=day, instance=instance).run_id
        for day in ("2025-01-01", "2025-01-02", "2025-01-01")
    ]
    assert prune(instance, FUTURE, dry_run=False) == (2, 1)
    assert [instance.has_run(run) for run in runs] == [False, True, True]
    kept = instance.get_materialized_partitions(AssetKey("daily"))
    assert kept == {"2025-01-01", "2025-01-02"}


def test_more_runs_than_one_page(instance: DagsterInstance) -> None:
    for _ in range(103):
        instance.create_run_for_job(speaking, status=DagsterRunStatus.SUCCESS)
    assert prune(instance, FUTURE, dry_run=False) == (0, 103)


@pytest.mark.parametrize("age", ["90", "0d", "-1d", "3w", ""])
def test_an_age_that_is_none_is_refused(age: str) -> None:
    done = CliRunner().invoke(app, ["prune-runs", "--older-than", age])
    assert done.exit_code != 0
    assert "90d" in done.output


def test_where_none_is_old_enough_it_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATAPLATFORM_HOME", str(tmp_path))
    with instance_for_test(temp_dir=str(tmp_path), set_dagster_home=True) as made:
        speaking.execute_in_process(instance=made)
        done = CliRunner().invoke(app, ["prune-runs", "--older-than", "1d"])
    assert done.exit_code == 0
    assert done.stderr.splitlines()[-1] == "No run that has ended is older than 1 day."


def test_the_least_age_is_named() -> None:
    assert "at least 1d" in CliRunner().invoke(app, ["prune-runs", "--older-than", "0d"]).stderr
