"""The whole lineage on the bundled recordings, as CI and a first-time user run it."""

import pytest
from dagster import AssetKey, DagsterInstance

from dataplatform.lake.spec import NAMESPACE
from dataplatform.raw.recorded import recordings
from dataplatform.resources.lake import LakeResource
from dataplatform.tables import all_specs
from dataplatform_tests.dagster_home import DagsterHome
from dataplatform_tests.stored import folders

DAY = "2025-01-05"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> DagsterHome:
    home = DagsterHome(tmp_path_factory.mktemp("recorded"), {"DATAPLATFORM_ORIGIN": "recorded"})
    done = home.materialize(partition=DAY)
    assert done.returncode == 0, done.stdout[-4000:]
    return home


def lake(home: DagsterHome) -> LakeResource:
    return LakeResource(home=str(home.lake), origin="recorded")


def snapshots(home: DagsterHome) -> dict[str, int | None]:
    catalog = lake(home).catalog()
    tables = {name: catalog.load_table(f"{NAMESPACE}.{name}") for name in all_specs()}
    return {name: t.metadata.current_snapshot_id for name, t in tables.items()}


def stored(home: DagsterHome) -> dict[str, int]:
    """Every file of the warehouse and of the raw zone, with the time it was written."""
    place = folders(lake(home))
    files = [*place.warehouse.rglob("*"), *place.datalake.rglob("*")]
    return {str(p): p.stat().st_mtime_ns for p in files if p.is_file()}


def fed_by_recordings() -> set[str]:
    """Return the tables that read something recorded, if only through other tables."""
    recorded = {recording.endpoint for recording in recordings()}
    fed: set[str] = set()
    for spec in all_specs().values():
        if recorded & set(spec.endpoints) or fed & set(spec.upstream):
            fed.add(spec.name)
    return fed


def test_a_second_run_changes_nothing(built: DagsterHome) -> None:
    before = snapshots(built), stored(built)
    assert {name for name, snapshot in before[0].items() if snapshot} == fed_by_recordings()
    again = built.materialize(partition=DAY)
    assert again.returncode == 0, again.stdout[-4000:]
    assert snapshots(built) == before[0]
    assert stored(built) == before[1]


def test_every_table_shows_where_its_columns_come_from_and_its_plot(built: DagsterHome) -> None:
    told: dict[str, set[str]] = {}
    with DagsterInstance.from_config(str(built.root / "dagster")) as instance:
        for name in all_specs():
            found = instance.fetch_materializations(AssetKey([NAMESPACE, name]), limit=9).records
            seen = [record.asset_materialization for record in found]
            told[name] = {key for one in seen if one for key in one.metadata}
            assert "dagster/column_lineage" in told[name], name
    drawn = {name for name, keys in told.items() if "plot" in keys}
    assert drawn == {name for name, spec in all_specs().items() if spec.plot}


def test_the_views_answer_with_recorded_prices(built: DagsterHome) -> None:
    target = lake(built)
    engine = target.place.engine()
    rows = engine.query("SELECT * FROM analytics.latest_prices").rows
    assert len(rows) >= 25


def test_one_asset_is_backfilled_over_a_range(built: DagsterHome) -> None:
    done = built.materialize("key:raw/market_chart", partition_range="2025-01-06...2025-01-09")
    assert done.returncode == 0, done.stdout[-4000:]
