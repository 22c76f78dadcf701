"""Maintenance on real tables: rows stay, state stays, waste goes, floors hold."""

import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from dagster import AssetKey, DagsterEventType, DagsterInstance

from dataplatform.assets.maintenance import build_maintenance_job
from dataplatform.lake.catalog import SqliteCatalog
from dataplatform.lake.maintenance import (
    ORPHAN_FLOOR,
    Maintained,
    Maintenance,
    Retention,
    RetentionTooShortError,
)
from dataplatform.lake.manifest import Cursor
from dataplatform.lake.place import LakePlace
from dataplatform.lake.schema import ensure_table
from dataplatform.lake.spark import lake_session
from dataplatform.lake.state import NO_DAYS, TableState, changed_since, published_state
from dataplatform.resources.lake import LakeResource
from dataplatform.resources.spark_local import SparkLocalResource
from dataplatform.tables import all_specs
from dataplatform_tests.views.small_lake import SmallLake, make_lake

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow

NAME = "daily_prices"
TABLE = f"lake.warehouse.{NAME}"
# Iceberg measures an orphan's age by the real clock and refuses what is younger than a day.
LATER = datetime.now(UTC) + timedelta(days=40)
LATER_ORPHANS = timedelta(days=50)
STATE = TableState(
    cursor=Cursor(after="_arrivals/dt=2025-01-01/000000.0~a"),
    upstream={"price_points": 7},
    rows=58,
    changed=("2025-01-01", "2025-01-06"),
)


@pytest.fixture
def lake(tmp_path: Path) -> SmallLake:
    return make_lake(tmp_path)


@pytest.fixture
def session(lake: SmallLake, spark: "SparkSession") -> "SparkSession":
    conf = SqliteCatalog(lake.folders.catalog_db, lake.folders.warehouse).spark_conf()
    return lake_session(spark, conf)


@pytest.fixture
def worn(lake: SmallLake, session: "SparkSession") -> SmallLake:
    """A table of six appends, one merge-on-read delete and the state that a build commits last."""
    for number in range(6):
        rows = [
            {
                "coin_id": f"c{n:02}",
                "vs_currency": "usd",
                "day": date(2025, 1, 1 + number),
                "price": float(n),
            }
            for n in range(10)
        ]
        lake.insert(NAME, rows)
    session.sql(f"DELETE FROM {TABLE} WHERE coin_id = 'c03' AND day <= DATE '2025-01-02'")  # noqa: S608
    table = ensure_table(lake.catalog, all_specs()[NAME])
    covers = table.current_snapshot()
    assert covers
    state = STATE.model_copy(update={"covers": covers.snapshot_id})
    table.append(table.schema().as_arrow().empty_table(), snapshot_properties=state.summary)
    return lake


def rows(session: "SparkSession") -> list[Any]:
    return sorted(session.table(TABLE).collect())


def maintain(
    lake: SmallLake, session: "SparkSession", now: datetime | None = None, **kept: Any
) -> Maintained:
    done = Maintenance(lake.catalog, lambda: session, Retention(**kept)).maintain(NAME, now)
    assert done
    return done


def test_rows_stay_and_deletes_are_folded_into_fewer_files(
    worn: SmallLake, session: "SparkSession"
) -> None:
    before = rows(session)
    done = maintain(worn, session)
    assert rows(session) == before
    assert len(before) == done.after.rows == 58
    assert (done.before.data_files, done.before.delete_files > 0) == (6, True)
    assert (done.after.data_files, done.after.delete_files) == (1, 0)
    assert done.after.manifests < done.before.manifests
    # Young snapshots are kept, and with them every file.
    assert done.removed_files == 0


def test_the_state_survives_the_expiry_of_the_snapshot_that_carried_it(
    worn: SmallLake, session: "SparkSession"
) -> None:
    table = worn.catalog.load_table(f"warehouse.{NAME}")
    carrier = table.current_snapshot()
    assert carrier
    done = maintain(
        worn, session, LATER, last=1, shorter_for=frozenset({NAME}), orphans=LATER_ORPHANS
    )
    assert done.after.snapshots == 1
    assert done.removed["data_files"] == 6
    table.refresh()
    assert table.snapshot_by_id(carrier.snapshot_id) is None
    state = published_state(table)
    assert (state.cursor, state.upstream, state.rows) == (STATE.cursor, STATE.upstream, 58)


def test_who_reads_the_table_sees_no_change(worn: SmallLake, session: "SparkSession") -> None:
    table = worn.catalog.load_table(f"warehouse.{NAME}")
    seen = table.current_snapshot()
    assert seen
    maintain(worn, session)
    table.refresh()
    assert table.current_snapshot() != seen
    assert changed_since(table, seen.snapshot_id) == NO_DAYS


def test_a_second_maintenance_finds_nothing_to_do(worn: SmallLake, session: "SparkSession") -> None:
    first = maintain(worn, session)
    second = maintain(worn, session)
    assert second.before == second.after == first.after


def test_old_snapshots_expire_but_the_last_five_stay(
    worn: SmallLake, session: "SparkSession"
) -> None:
    done = maintain(worn, session, LATER, orphans=LATER_ORPHANS)
    assert done.before.snapshots == 8
    assert done.after.snapshots == 5


def test_only_old_files_that_no_snapshot_names_are_orphans(
    worn: SmallLake, session: "SparkSession"
) -> None:
    table = worn.catalog.load_table(f"warehouse.{NAME}")
    left = Path(table.location().removeprefix("file://")) / "data" / "left-by-a-killed-run.parquet"
    left.write_bytes(b"rows")
    assert maintain(worn, session).removed["orphan_files"] == 0
    assert left.exists()
    before = rows(session)
    long_ago = (datetime.now(UTC) - timedelta(days=4)).timestamp()
    os.utime(left, (long_ago, long_ago))
    assert maintain(worn, session).removed["orphan_files"] == 1
    assert not left.exists()
    assert rows(session) == before


@pytest.mark.parametrize("kept", [{"snapshots": timedelta(days=6)}, {"last": 4}])
def test_a_short_retention_is_refused_unless_the_table_is_named(kept: dict[str, Any]) -> None:
    with pytest.raises(RetentionTooShortError, match=f"name {NAME} in `shorter_for`"):
        Retention(**kept).require_for(NAME)
    Retention(**kept, shorter_for=frozenset({NAME})).require_for(NAME)


def test_young_orphans_are_never_removed_not_even_by_name() -> None:
    short = Retention(orphans=ORPHAN_FLOOR - timedelta(hours=1), shorter_for=frozenset({NAME}))
    with pytest.raises(RetentionTooShortError, match="commit under way"):
        short.require_for(NAME)


class OneSpark(SparkLocalResource):
    """The test run's own JVM."""

    def session(self, lake: LakePlace) -> "SparkSession":
        from pyspark.sql import SparkSession

        # Not the active session: that is the main thread's, and tables are built in others.
        return lake_session(SparkSession.builder.getOrCreate(), lake.spark_conf())


def test_the_job_reports_on_each_table_it_maintained(worn: SmallLake, tmp_path: Path) -> None:
    with DagsterInstance.ephemeral() as instance:
        result = build_maintenance_job().execute_in_process(
            instance=instance,
            resources={
                "lake": LakeResource(home=str(tmp_path), origin="recorded"),
                "spark": OneSpark(),
            },
        )
        assert result.success
        (event,) = [
            e for e in result.all_events if e.event_type is DagsterEventType.ASSET_OBSERVATION
        ]
        observation = event.asset_observation_data.asset_observation
        assert observation.asset_key == AssetKey(["warehouse", NAME])
        assert observation.metadata["data_files_before"].value == 6
        assert observation.metadata["data_files_after"].value == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [({"snapshot_days": 1.0}, "below the floor"), ({"tables": ["nope"]}, "no such table: nope")],
)
def test_a_refused_configuration_fails_the_job(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    result = build_maintenance_job().execute_in_process(
        run_config={"ops": {"maintain_tables": {"config": config}}},
        resources={"lake": LakeResource(home=str(tmp_path)), "spark": OneSpark()},
        raise_on_error=False,
    )
    assert not result.success
    error = result.failure_data_for_node("maintain_tables")
    assert error
    assert message in str(error.error)
