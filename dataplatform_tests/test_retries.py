"""A run that fails: what is tried again, how often, and what waits for a person."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Never

import pytest
from dagster import (
    AssetExecutionContext,
    DagsterExecutionInterruptedError,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    Definitions,
    EventLogEntry,
    ExecuteInProcessResult,
    ResourceDefinition,
    job,
    materialize,
    op,
)
from dagster._core.utils import make_new_run_id

from dataplatform.assets import raw, tables, views
from dataplatform.assets.tables import build_table_assets
from dataplatform.lake.manifest import Manifest, Slot
from dataplatform.lake.schema import ensure_table
from dataplatform.lake.spec import Column, Inputs, TableSpec
from dataplatform.resources.lake import LakeResource
from dataplatform.resources.spark_local import SparkLocalResource
from dataplatform.sensors import PERIOD, arrivals_tick
from dataplatform.tables import all_specs
from dataplatform_tests.dagster_home import REPOSITORY
from dataplatform_tests.maintenance.test_maintenance import OneSpark
from dataplatform_tests.stored import folders

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

COINS = all_specs()["coins"]
WILL_RETRY = "dagster/will_retry"
"""Dagster's own tag of a failed run: whether its daemon starts another one."""


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy as it is, but for its minutes of delay."""
    monkeypatch.setattr(tables, "RETRY", raw.RETRY._replace(delay=0.01))


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    """An instance as this project configures it."""
    home = tmp_path / "dagster"
    home.mkdir()
    shutil.copy(REPOSITORY / "dagster.yaml", home)
    with DagsterInstance.from_config(str(home)) as configured:
        yield configured


@pytest.fixture
def lake(tmp_path: Path) -> LakeResource:
    return LakeResource(home=str(tmp_path / "lake"), origin="live")


def run(
    lake: LakeResource,
    instance: DagsterInstance,
    specs: Mapping[str, TableSpec],
    on_retry: Callable[[], object] = lambda: None,
    spark: SparkLocalResource | ResourceDefinition | None = None,
) -> ExecuteInProcessResult:
    def listen(entry: EventLogEntry) -> None:
        if entry.dagster_event and entry.dagster_event.event_type_value == "STEP_UP_FOR_RETRY":
            on_retry()

    resources = {"lake": lake, "spark": spark or SparkLocalResource()}
    defs = Definitions(assets=[build_table_assets(specs)], resources=resources)
    run_id = make_new_run_id()
    instance.add_event_listener(run_id, listen)
    built = defs.resolve_implicit_global_asset_job_def()
    return built.execute_in_process(instance=instance, run_id=run_id, raise_on_error=False)


def break_disk(lake: LakeResource) -> Path:
    """Put a file where the lake's folder belongs: every write fails."""
    blocked = Path(lake.home) / "live"
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.touch()
    return blocked


def retries(result: ExecuteInProcessResult) -> int:
    return len([e for e in result.all_events if e.event_type_value == "STEP_UP_FOR_RETRY"])


def stored(instance: DagsterInstance, result: ExecuteInProcessResult) -> DagsterRun:
    found = instance.get_run_by_id(result.run_id)
    assert found is not None
    return found


def test_what_heals_meanwhile_does_not_fail_the_run(
    lake: LakeResource, instance: DagsterInstance
) -> None:
    blocked = break_disk(lake)
    result = run(lake, instance, {"coins": COINS}, on_retry=blocked.unlink)
    assert result.success
    assert retries(result) == 1


@dataclass
class Interrupted:
    """Stands for Spark in a process that is told to end, for a run that is cancelled or not."""

    cancelled: bool

    def build(self, context: AssetExecutionContext, *_: object) -> Iterator[Never]:
        if self.cancelled:
            context.instance.report_run_canceling(context.run)
        raise DagsterExecutionInterruptedError
        yield


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_step_is_not_begun_again_where_its_run_is_cancelled(
    lake: LakeResource, instance: DagsterInstance, cancelled: bool
) -> None:
    spark = ResourceDefinition.hardcoded_resource(Interrupted(cancelled))
    result = run(lake, instance, {"coins": COINS}, spark=spark)
    assert retries(result) == (0 if cancelled else 2)
    ended = DagsterRunStatus.CANCELED if cancelled else DagsterRunStatus.FAILURE
    assert stored(instance, result).status is ended


def test_neither_is_that_of_the_inbox(
    lake: LakeResource, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> Never:
        [started] = instance.get_runs()
        instance.report_run_canceling(started)
        raise DagsterExecutionInterruptedError

    monkeypatch.setattr(raw, "land_inbox", interrupted)
    result = materialize(
        [raw.inbox_asset()], instance=instance, resources={"lake": lake}, raise_on_error=False
    )
    assert retries(result) == 0
    assert stored(instance, result).status is DagsterRunStatus.CANCELED


def test_what_does_not_is_left_to_a_new_process(
    lake: LakeResource, instance: DagsterInstance
) -> None:
    break_disk(lake)
    result = run(lake, instance, {"coins": COINS})
    assert not result.success
    assert retries(result) == 2
    assert stored(instance, result).tags[WILL_RETRY] == "true"


def test_a_schema_that_cannot_be_reached_waits_for_a_person(
    lake: LakeResource, instance: DagsterInstance
) -> None:
    ensure_table(lake.catalog(), COINS)
    changed = tuple(
        Column("symbol", "int", "x") if c.name == "symbol" else c for c in COINS.columns
    )
    result = run(lake, instance, {"coins": replace(COINS, columns=changed)})
    assert not result.success
    assert retries(result) == 0
    assert stored(instance, result).tags[WILL_RETRY] == "false"


def test_wrong_sql_waits_for_a_person(
    lake: LakeResource, instance: DagsterInstance, spark: "SparkSession"
) -> None:
    def mistyped(inputs: Inputs) -> "DataFrame":
        return inputs.sql("SELECT symbl FROM {coins_list}")

    assert spark
    land(lake, datetime.now(UTC))
    result = run(lake, instance, {"coins": replace(COINS, transform=mistyped)}, spark=OneSpark())
    assert not result.success
    assert retries(result) == 0
    assert stored(instance, result).tags[WILL_RETRY] == "false"
    (failure,) = result.get_step_failure_events()
    told = failure.step_failure_data.user_failure_data
    assert told is not None
    assert "symbl" in (told.description or "")


def test_the_daemon_leaves_other_failures_to_the_assets(instance: DagsterInstance) -> None:
    @op
    def fails() -> None:
        raise RuntimeError

    @job
    def failing() -> None:
        fails()

    result = failing.execute_in_process(instance=instance, raise_on_error=False)
    assert stored(instance, result).tags[WILL_RETRY] == "false"


def test_everything_that_writes_is_tried_again() -> None:
    assets = [*raw.build_raw_assets(), *views.build_view_assets()]
    assert {asset.op.retry_policy for asset in assets} == {raw.RETRY}


def test_what_stays_behind_is_asked_for_in_the_next_period(
    lake: LakeResource, instance: DagsterInstance
) -> None:
    now = datetime(2026, 11, 20, 18, 5, tzinfo=UTC)
    land(lake, now)
    first = arrivals_tick(None, lake, instance, now)
    assert first.run_requests
    catalog = folders(lake).catalog_db
    catalog.rename(catalog.with_suffix(".away"))
    catalog.mkdir()
    assert not run(lake, instance, {"coins": COINS}).success
    catalog.rmdir()
    catalog.with_suffix(".away").rename(catalog)
    soon = arrivals_tick(first.cursor, lake, instance, now + timedelta(minutes=1))
    assert not soon.run_requests
    later = arrivals_tick(soon.cursor, lake, instance, now + PERIOD)
    (again,) = later.run_requests or []
    (before,) = first.run_requests
    assert again.run_key != before.run_key
    assert again.asset_selection == before.asset_selection


def land(lake: LakeResource, moment: datetime) -> None:
    """Commit a list of coins that holds no file."""
    slot = Slot(source="coingecko", endpoint="coins_list", day=moment.date(), name="D")
    manifest = Manifest(slot=slot, origin="live", tier="demo", fetched_at=moment, files=())
    assert lake.raw_zone.commit(manifest, moment)
