"""What starts a run, when, and what that run builds."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from dagster import (
    AssetKey,
    DagsterInstance,
    DagsterRunStatus,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    Definitions,
    RunRequest,
    SensorResult,
    build_schedule_context,
    build_sensor_context,
)
from dagster._core.test_utils import create_run_for_test
from pyiceberg.table.snapshots import Snapshot

from dataplatform import sensors
from dataplatform.assets.raw import build_raw_assets
from dataplatform.assets.tables import build_table_assets
from dataplatform.assets.views import build_view_assets
from dataplatform.automation import build_jobs, build_schedules, build_sensors
from dataplatform.lake.manifest import Cursor, Manifest, Slot, advance, marker_key
from dataplatform.lake.schema import ensure_table, load_table
from dataplatform.lake.state import TableState
from dataplatform.profiles import ORIGIN_TAG
from dataplatform.raw import all_endpoints
from dataplatform.raw.coingecko import api_endpoints
from dataplatform.resources.lake import LakeResource
from dataplatform.sensors import affected, arrivals_tick, inbox_tick
from dataplatform.tables import all_specs

T0 = datetime(2026, 11, 20, 18, 5, tzinfo=UTC)
"""A period has begun five minutes before; the next one begins at midnight."""
MIDNIGHT = 355


NOTHING = "Nothing has arrived."


def at(minutes: float) -> datetime:
    return T0 + timedelta(minutes=minutes)


def slot(number: int, endpoint: str = "ohlc") -> Slot:
    day = date(2026, 1, 1) + timedelta(days=number)
    return Slot(source="coingecko", endpoint=endpoint, day=day, name="D")


def land(lake: LakeResource, of: Slot, moment: datetime) -> None:
    lake.raw_zone.commit(
        Manifest(slot=of, origin="live", tier="demo", fetched_at=moment, files=()), moment
    )


def build(
    lake: LakeResource, name: str, now: datetime, changed: tuple[str, str] | None = None
) -> None:
    """Let the table say that it has read all of its inputs, and which days that changed."""
    spec = all_specs()[name]
    arrivals = lake.raw_zone.arrivals(Cursor(), {("coingecko", e) for e in spec.endpoints})
    heads = {one: head(lake, one) for one in spec.upstream}
    state = TableState(
        cursor=advance(Cursor(), arrivals, now),
        upstream={one: seen.snapshot_id for one, seen in heads.items() if seen},
        changed=changed,
    )
    table = ensure_table(lake.catalog(), spec)
    table.append(table.schema().as_arrow().empty_table(), snapshot_properties=state.summary)


def head(lake: LakeResource, name: str) -> Snapshot | None:
    table = load_table(lake.catalog(), name)
    return table.current_snapshot() if table else None


@pytest.fixture
def lake(tmp_path: Path) -> LakeResource:
    return LakeResource(home=str(tmp_path), origin="live")


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture(scope="module")
def defs() -> Definitions:
    return Definitions(
        assets=[*build_raw_assets(), build_table_assets(), *build_view_assets()],
        jobs=build_jobs("local"),
        schedules=build_schedules("local"),
        sensors=build_sensors(),
        resources={"lake": LakeResource(), "coingecko": None, "spark": None, "views": None},
    )


def request(result: SensorResult) -> RunRequest:
    (found,) = result.run_requests or []
    return found


def reason(result: SensorResult) -> str:
    assert not result.run_requests
    assert result.skip_reason
    return result.skip_reason.skip_message or ""


def names(defs: Definitions, job: str) -> set[str]:
    keys = defs.resolve_job_def(job).asset_layer.executable_asset_keys
    return {"/".join(key.path) for key in keys}


def test_nothing_has_arrived(lake: LakeResource, instance: DagsterInstance) -> None:
    assert reason(arrivals_tick(None, lake, instance, at(0))) == NOTHING


def test_an_arrival_builds_what_reads_it_once(
    lake: LakeResource, instance: DagsterInstance
) -> None:
    land(lake, slot(1), at(0))
    first = arrivals_tick(None, lake, instance, at(1))
    selected = {key.path[-1] for key in request(first).asset_selection or []}
    assert {"ohlc", "ohlcv_daily", "quarantine"} <= selected
    assert not {"coins", "daily_prices"} & selected
    assert reason(arrivals_tick(first.cursor, lake, instance, at(2))) == NOTHING
    # The overlap has passed: the cursor is all there is.
    late = arrivals_tick(first.cursor, lake, instance, at(100))
    assert reason(late) == NOTHING


def test_a_manifest_that_comes_long_after_its_marker_is_not_missed(
    lake: LakeResource, instance: DagsterInstance
) -> None:
    lake.store.put(marker_key(slot(1), at(0)), b"")
    land(lake, slot(2), at(5))
    first = arrivals_tick(None, lake, instance, at(6))
    assert first.run_requests
    text = Manifest(slot=slot(1), origin="live", tier="demo", fetched_at=at(7), files=())
    lake.store.put(slot(1).manifest_key, text.model_dump_json().encode())
    second = arrivals_tick(first.cursor, lake, instance, at(8))
    assert request(second).run_key != request(first).run_key


def test_one_slot_marked_twice_is_one_request(
    lake: LakeResource, instance: DagsterInstance
) -> None:
    lake.store.put(marker_key(slot(1), at(0)), b"")
    land(lake, slot(1), at(3))
    first = arrivals_tick(None, lake, instance, at(4))
    assert first.run_requests
    for minute in (5, 60):
        assert reason(arrivals_tick(first.cursor, lake, instance, at(minute)))


def test_what_a_failed_run_left_behind_is_asked_for_once_a_period(
    lake: LakeResource, instance: DagsterInstance
) -> None:
    land(lake, slot(1), at(0))
    cursor, asked = None, []
    for minute in range(1, 3 * 24 * 60, 30):
        # No run is ever seen: whatever was asked for has failed.
        result = arrivals_tick(cursor, lake, instance, at(minute))
        cursor = result.cursor
        asked += [(minute, run) for run in result.run_requests or []]
    assert len(asked) == 3 * 4, "four times a day"
    assert len({run.run_key for _, run in asked}) == len(asked), "a used key is not asked for"
    assert asked[1][0] >= MIDNIGHT
    again = asked[1][1]
    assert set(again.asset_selection or []) == set(asked[0][1].asset_selection or [])
    assert again.tags["dataplatform/reason"] == "still behind"
    for name in ("ohlc", "quarantine"):
        build(lake, name, at(0))
    assert reason(arrivals_tick(cursor, lake, instance, at(9000))) == NOTHING


def test_a_table_behind_another_table_is_asked_for_again(
    lake: LakeResource, instance: DagsterInstance
) -> None:
    build(lake, "coin_metrics_daily", at(0))
    build(lake, "daily_prices", at(0), changed=("2026-01-01", "2026-01-01"))
    left = arrivals_tick(None, lake, instance, at(1))
    selected = {key.path[-1] for key in request(left).asset_selection or []}
    assert {"coin_metrics_daily", "correlations", "drawdowns"} <= selected
    assert not {"daily_prices", "coins"} & selected
    build(lake, "coin_metrics_daily", at(2))
    build(lake, "correlations", at(2))
    build(lake, "market_daily", at(2))
    assert reason(arrivals_tick(None, lake, instance, at(3))) == NOTHING


def test_each_lake_has_a_cursor_of_its_own(tmp_path: Path, instance: DagsterInstance) -> None:
    live, recorded = (LakeResource(home=str(tmp_path), origin=o) for o in ("live", "recorded"))
    for lake in (live, recorded):
        land(lake, slot(1), at(0))
    cursor, asked = None, []
    for minute, lake in enumerate([live, recorded, live, recorded], start=1):
        result = arrivals_tick(cursor, lake, instance, at(minute))
        cursor = result.cursor
        asked += result.run_requests or []
    assert [run.tags[ORIGIN_TAG] for run in asked] == ["live", "recorded"]
    assert len({run.run_key for run in asked}) == 2
    # What arrives while the other lake is in use is found after the switch back.
    land(live, slot(2), at(5))
    away = arrivals_tick(cursor, recorded, instance, at(6))
    back = arrivals_tick(away.cursor, live, instance, at(7))
    assert request(back).tags[ORIGIN_TAG] == "live"


def test_the_cursor_of_an_earlier_release_is_passed_over(
    lake: LakeResource, instance: DagsterInstance
) -> None:
    land(lake, slot(1), at(0))
    old = Cursor(after=marker_key(slot(1), at(1))).model_dump_json()
    assert arrivals_tick(old, lake, instance, at(2)).run_requests


def test_a_run_key_stands_for_the_manifests(lake: LakeResource, instance: DagsterInstance) -> None:
    land(lake, slot(1), at(0))
    keys = {request(arrivals_tick(None, lake, instance, at(m))).run_key for m in (1, 2, 90)}
    assert len(keys) == 1


def test_a_tick_is_bounded_and_the_next_goes_on(
    lake: LakeResource, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "MOST", 3)
    for number in range(7):
        land(lake, slot(number), at(number))
    cursor, requested = None, 0
    for minute in range(60, 64):
        result = arrivals_tick(cursor, lake, instance, at(minute))
        requested += len(result.run_requests or [])
        cursor = result.cursor
    assert requested == 3


def test_what_the_tables_have_read_already_starts_nothing(
    lake: LakeResource, instance: DagsterInstance
) -> None:
    land(lake, slot(1), at(0))
    build(lake, "ohlc", at(1))
    build(lake, "quarantine", at(1))
    covered = arrivals_tick(None, lake, instance, at(2))
    assert reason(covered) == "The tables hold what has arrived (1 manifests)."
    assert covered.cursor
    land(lake, slot(2), at(3))
    assert arrivals_tick(covered.cursor, lake, instance, at(4)).run_requests


@pytest.mark.parametrize(
    ("job", "selection"),
    [("lineage_job", None), ("__ASSET_JOB", frozenset({AssetKey(["warehouse", "ohlc"])}))],
)
def test_while_a_run_builds_the_tables_nothing_is_decided(
    lake: LakeResource,
    instance: DagsterInstance,
    job: str,
    selection: frozenset[AssetKey] | None,
) -> None:
    land(lake, slot(1), at(0))
    run = create_run_for_test(
        instance, job_name=job, asset_selection=selection, status=DagsterRunStatus.STARTED
    )
    waits = arrivals_tick(None, lake, instance, at(1))
    assert run.run_id in reason(waits)
    assert waits.cursor is None
    instance.report_run_canceled(run)
    # It ended without having built them.
    assert arrivals_tick(waits.cursor, lake, instance, at(2)).run_requests


@pytest.mark.parametrize(
    ("job", "selection"),
    [("maintenance_job", None), ("__ASSET_JOB", frozenset({AssetKey(["raw", "ohlc"])}))],
)
def test_runs_that_build_no_table_hold_nothing_up(
    lake: LakeResource,
    instance: DagsterInstance,
    job: str,
    selection: frozenset[AssetKey] | None,
) -> None:
    land(lake, slot(1), at(0))
    create_run_for_test(
        instance, job_name=job, asset_selection=selection, status=DagsterRunStatus.STARTED
    )
    assert arrivals_tick(None, lake, instance, at(1)).run_requests


def test_a_dropped_file_is_asked_for_once_and_a_changed_one_again(
    lake: LakeResource, instance: DagsterInstance
) -> None:
    # Far from now, as files bear today's time; a period begins at that hour.
    soon = datetime(2099, 1, 1, tzinfo=UTC)
    assert reason(inbox_tick(lake, instance, soon)).endswith("live/datalake/inbox/ is empty.")
    lake.store.put("inbox/prices.csv", b"a")
    first = request(inbox_tick(lake, instance, soon)).run_key
    assert request(inbox_tick(lake, instance, soon)).run_key == first
    assert request(inbox_tick(lake, instance, soon + timedelta(hours=5))).run_key == first
    later = request(inbox_tick(lake, instance, soon + timedelta(hours=6)))
    assert later.run_key != first, "the run may have failed"
    assert later.tags[ORIGIN_TAG] == "live"
    lake.store.put("inbox/prices.csv", b"ab")
    assert request(inbox_tick(lake, instance, soon)).run_key != first


def test_a_file_in_the_inbox_of_the_other_lake_is_not_passed_over_in_silence(
    lake: LakeResource, instance: DagsterInstance
) -> None:
    soon = datetime(2099, 1, 1, tzinfo=UTC)
    lake.place.beside().store.put("inbox/prices.csv", b"a")
    said = reason(inbox_tick(lake, instance, soon))
    assert "live/datalake/inbox/ is empty. Files in " in said
    assert "recorded/datalake/inbox/: 1; that lake (recorded) is not in use." in said
    assert "Remedy: dp run --origin recorded" in said


def test_affected_goes_down_to_the_views() -> None:
    found = {"/".join(key.path) for key in affected(["price_points"])}
    assert {
        "warehouse/price_points",
        "warehouse/daily_prices",
        "warehouse/correlations",
        "analytics/correlation_matrix",
    } <= found
    assert "warehouse/coins" not in found


def test_the_jobs_build_what_they_are_for(defs: Definitions) -> None:
    everything, api = names(defs, "lineage_job"), api_endpoints().values()
    raw = {
        job: {name for name in names(defs, job) if name.startswith("raw/")}
        for job in ("snapshot_job", "history_job", "inbox_job", "tables_job")
    }
    # Each endpoint is fetched by one job, as often as it says.
    assert sorted(name for found in raw.values() for name in found) == sorted(
        f"raw/{name}" for name in all_endpoints()
    )
    assert raw["snapshot_job"] == {f"raw/{e.name}" for e in api if e.every == "hour"}
    assert raw["inbox_job"] == {"raw/inbox"}
    assert raw["tables_job"] == set()
    assert {n for n in everything if n.startswith("raw/")} == set().union(*raw.values())
    assert names(defs, "tables_job") == {n for n in everything if not n.startswith("raw/")}
    assert "analytics/latest_prices" in names(defs, "snapshot_job")
    assert "warehouse/price_points" not in names(defs, "snapshot_job")
    assert "warehouse/correlations" in names(defs, "inbox_job")


def test_schedules_are_stopped_and_ask_for_the_right_time(defs: Definitions) -> None:
    schedules = {name: defs.resolve_schedule_def(name) for name in _SCHEDULES}
    assert {name: s.cron_schedule for name, s in schedules.items()} == _SCHEDULES
    for schedule in schedules.values():
        assert schedule.default_status is DefaultScheduleStatus.STOPPED
        assert schedule.execution_timezone == "UTC"


_SCHEDULES = {
    "snapshot_schedule": "5 * * * *",
    "history_schedule": "30 0 * * *",
    "maintenance_schedule": "40 3 * * 0",
}


def test_the_history_schedule_asks_for_yesterday(defs: Definitions) -> None:
    context = build_schedule_context(
        repository_def=defs.get_repository_def(),
        scheduled_execution_time=datetime(2026, 11, 21, 0, 30, tzinfo=UTC),
    )
    with context:
        data = defs.resolve_schedule_def("history_schedule").evaluate_tick(context)
    (found,) = data.run_requests or []
    assert found.partition_key == "2026-11-20"


def test_sensors_run_from_the_start(defs: Definitions) -> None:
    for name in ("arrivals_sensor", "inbox_sensor", "automation_sensor"):
        sensor = defs.resolve_sensor_def(name)
        assert sensor.default_status is DefaultSensorStatus.RUNNING
        assert sensor.minimum_interval_seconds == 30


@pytest.mark.parametrize("name", ["arrivals_sensor", "inbox_sensor"])
def test_sensors_evaluate_as_dagster_calls_them(
    name: str, defs: Definitions, lake: LakeResource, instance: DagsterInstance
) -> None:
    land(lake, slot(1), datetime.now(UTC))
    context = build_sensor_context(
        instance, definitions=defs, resources={"lake": lake}, sensor_name=name
    )
    with context:
        data = defs.resolve_sensor_def(name).evaluate_tick(context)
    assert len(data.run_requests or []) == (1 if name == "arrivals_sensor" else 0)
