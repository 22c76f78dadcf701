"""View assets: what a run deploys, checks and writes into the metadata."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    AssetKey,
    AssetMaterialization,
    AssetsDefinition,
    AssetSelection,
    AutomationCondition,
    DagsterInstance,
    Definitions,
    ExecuteInProcessResult,
    TableColumnLineage,
    TableSchema,
    asset,
    define_asset_job,
    evaluate_automation_conditions,
    materialize,
)

from dataplatform.assets import views
from dataplatform.assets.raw import NO_RUN_RETRY, RETRY
from dataplatform.assets.views import ANSWERS, DRIFT, build_view_assets, build_view_checks
from dataplatform.lake.views import ViewSpec, parse_view
from dataplatform.resources.lake import LakeResource
from dataplatform.resources.views import ViewsResource
from dataplatform.views import all_views
from dataplatform_tests.views.small_lake import SmallLake, day

PRICES = AssetKey(["warehouse", "daily_prices"])
CHEAP = parse_view(
    "cheap",
    "-- Cheap coins.\n-- order: coin_id\n-- plot: bar x=coin_id y=price\n"
    "SELECT coin_id, -- which coin\n price * 1e0 AS price FROM warehouse.daily_prices"
    " WHERE price < 2e0",
)
CHEAPEST = parse_view(
    "cheapest", "-- The cheapest.\nSELECT min(price) AS price FROM analytics.cheap"
)
VIEWS = {"cheap": CHEAP, "cheapest": CHEAPEST}


@pytest.fixture
def prices(lake: SmallLake) -> SmallLake:
    usd = {"vs_currency": "usd", "source": "inbox", "day": day("2025-01-01")}
    lake.insert(
        "daily_prices",
        [{**usd, "coin_id": coin, "price": price} for coin, price in [("a", 1.5), ("b", 3.0)]],
    )
    return lake


def resources(lake: SmallLake) -> dict[str, Any]:
    return {
        "lake": LakeResource(home=str(lake.folders.home), origin="recorded"),
        "views": ViewsResource(),
    }


def run(
    lake: SmallLake, views: Mapping[str, ViewSpec] = VIEWS, instance: DagsterInstance | None = None
) -> ExecuteInProcessResult:
    definitions = [*build_view_assets(views), build_view_checks(views)]
    return materialize(
        definitions, resources=resources(lake), raise_on_error=False, instance=instance
    )


def checks(result: ExecuteInProcessResult) -> dict[tuple[str, str], bool]:
    return {
        (evaluation.asset_key.path[-1], evaluation.check_name): evaluation.passed
        for evaluation in result.get_asset_check_evaluations()
    }


def metadata(result: ExecuteInProcessResult, name: str) -> Mapping[str, Any]:
    key = AssetKey(["analytics", name])
    (event,) = [e for e in result.get_asset_materialization_events() if e.asset_key == key]
    return event.materialization.metadata


# ---- a lake of which little is built ----


def test_a_view_of_tables_that_were_never_built_answers_with_what_there_is(
    prices: SmallLake,
) -> None:
    before = prices.catalog.load_table("warehouse.daily_prices").metadata.current_snapshot_id
    result = run(prices, {"latest_prices": all_views()["latest_prices"]})
    assert result.success
    assert metadata(result, "latest_prices")["dagster/row_count"].value == 2
    assert prices.catalog.load_table("warehouse.coins").metadata.current_snapshot_id is None
    after = prices.catalog.load_table("warehouse.daily_prices").metadata.current_snapshot_id
    assert after == before


# ---- definitions ----


def test_every_view_is_an_asset_that_depends_on_what_it_reads() -> None:
    assets = {asset.key: asset for asset in build_view_assets()}
    assert set(assets) == {AssetKey(["analytics", name]) for name in all_views()}
    for view in all_views().values():
        asset = assets[AssetKey(["analytics", view.name])]
        (spec,) = asset.specs
        assert {dep.asset_key for dep in spec.deps} == {AssetKey(list(r)) for r in view.references}
        assert spec.group_name == "views"
        assert spec.code_version == view.code_version
        assert spec.kinds == {"view", "sql", "duckdb"}
        assert spec.description == view.description
        assert spec.owners


def test_the_badge_names_the_engine_of_the_profile() -> None:
    (asset, *_) = build_view_assets(VIEWS, engine_kind="trino")
    assert "trino" in next(iter(asset.specs)).kinds


# ---- a run ----


def test_a_run_deploys_verifies_and_describes(prices: SmallLake) -> None:
    result = run(prices)
    assert result.success
    assert prices.engine.deployed() == ["cheap", "cheapest"]
    assert prices.engine.definition("cheap") == CHEAP.text
    told = metadata(result, "cheap")
    assert told["dagster/row_count"].value == 1
    assert told["definition_changed"].value is True
    assert told["engine"].value.startswith("DuckDB 1.")
    assert told["preview"].value.splitlines()[-1] == "| a | 1.5 |"
    assert told["plot"].value.startswith("![cheap](data:image/png;base64,iVBOR")
    schema: TableSchema = told["dagster/column_schema"].value
    assert [(c.name, c.type, c.description) for c in schema.columns] == [
        ("coin_id", "varchar", "which coin"),
        ("price", "double", None),
    ]
    assert "| price | warehouse.daily_prices.price |" in told["columns_from"].value
    lineage: TableColumnLineage = told["dagster/column_lineage"].value
    (source,) = lineage.deps_by_column["price"]
    assert (source.asset_key, source.column_name) == (PRICES, "price")


def test_lineage_of_a_view_on_a_view_names_the_view(prices: SmallLake) -> None:
    told = metadata(run(prices), "cheapest")
    (source,) = told["dagster/column_lineage"].value.deps_by_column["price"]
    assert source.asset_key == AssetKey(["analytics", "cheap"])
    assert "plot" not in told


def test_a_second_run_changes_no_definition(prices: SmallLake) -> None:
    run(prices)
    before = (prices.folders.views / "cheap.sql").stat().st_mtime_ns
    assert metadata(run(prices), "cheap")["definition_changed"].value is False
    assert (prices.folders.views / "cheap.sql").stat().st_mtime_ns == before


def test_an_empty_view_warns_and_does_not_fail(lake: SmallLake) -> None:
    lake.create("daily_prices")
    result = run(lake)
    assert result.success
    assert checks(result)["cheap", ANSWERS] is False
    assert checks(result)["cheapest", ANSWERS] is True  # min() of nothing is one row


def test_a_broken_view_fails_with_its_reason_and_no_retry(prices: SmallLake) -> None:
    broken = parse_view("cheap", "-- B.\nSELECT cost AS price FROM warehouse.daily_prices")
    with DagsterInstance.ephemeral() as instance:
        result = run(prices, {"cheap": broken, "cheapest": CHEAPEST}, instance)
        stored = instance.get_run_by_id(result.run_id)
    assert not result.success
    (failure,) = result.get_step_failure_events()
    told = failure.step_failure_data.user_failure_data
    assert told
    assert told.description
    assert told.description.startswith("analytics.cheap: ")
    assert "cost" in told.description
    assert stored
    assert NO_RUN_RETRY.items() <= stored.tags.items()
    assert prices.engine.deployed() == []


def test_an_engine_that_fails_is_tried_again(
    prices: SmallLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "RETRY", RETRY._replace(delay=0.01))
    for file in prices.folders.warehouse.rglob("data/**/*.parquet"):
        file.unlink()
    result = run(prices)
    assert not result.success
    retried = [e for e in result.all_events if e.event_type_value == "STEP_UP_FOR_RETRY"]
    assert len(retried) == 2


def test_a_view_over_a_table_that_was_never_built_is_empty_and_warns(lake: SmallLake) -> None:
    result = run(lake, {"cheap": CHEAP})
    assert result.success
    assert checks(result)["cheap", ANSWERS] is False


# ---- drift ----


def drift_only(lake: SmallLake) -> dict[tuple[str, str], bool]:
    held = build_view_checks(VIEWS)
    definitions = Definitions(
        assets=build_view_assets(VIEWS),
        asset_checks=[held],
        jobs=[define_asset_job("drift", AssetSelection.checks(*held.check_keys))],
        resources=resources(lake),
    )
    result = definitions.resolve_job_def("drift").execute_in_process()
    assert not result.get_asset_materialization_events()
    return checks(result)


def test_drift_is_found_without_building_anything(prices: SmallLake) -> None:
    assert drift_only(prices) == {("cheap", DRIFT): False, ("cheapest", DRIFT): False}
    run(prices)
    assert drift_only(prices) == {("cheap", DRIFT): True, ("cheapest", DRIFT): True}
    live = prices.folders.views / "cheap.sql"
    live.write_text(live.read_text().replace("2e0", "9e0"))
    assert drift_only(prices) == {("cheap", DRIFT): False, ("cheapest", DRIFT): True}
    assert set(checks(run(prices)).values()) == {True}


# ---- automation ----


def requested(
    assets: list[AssetsDefinition], instance: DagsterInstance, cursor: Any
) -> tuple[set[str], Any]:
    defs = Definitions(assets=assets, resources={"lake": LakeResource(), "views": ViewsResource()})
    tick = evaluate_automation_conditions(defs=defs, instance=instance, cursor=cursor)
    asked = {key.path[-1] for key in _names(VIEWS) if tick.get_num_requested(key)}
    return asked, tick.cursor


def _names(views: Mapping[str, ViewSpec]) -> list[AssetKey]:
    return [AssetKey(["analytics", name]) for name in views]


def test_views_follow_their_tables_once_and_do_not_storm(prices: SmallLake) -> None:
    @asset(key=PRICES)
    def _table() -> None:
        """Stand in for the table."""

    with DagsterInstance.ephemeral() as instance:
        every = [_table, *build_view_assets(VIEWS)]
        asked, cursor = requested(every, instance, None)
        assert asked == set()  # the table is missing
        instance.report_runless_asset_event(AssetMaterialization(PRICES))
        asked, cursor = requested(every, instance, cursor)
        assert asked == {"cheap", "cheapest"}
        # Asked for, and failed: nothing materialized. It must not be asked for again and again.
        for _ in range(3):
            asked, cursor = requested(every, instance, cursor)
            assert asked == set()
        instance.report_runless_asset_event(AssetMaterialization(PRICES))
        asked, cursor = requested(every, instance, cursor)
        assert asked == {"cheap", "cheapest"}
        for key in _names(VIEWS):
            instance.report_runless_asset_event(AssetMaterialization(key))
        asked, cursor = requested(every, instance, cursor)
        assert asked == set()
        changed = parse_view("cheap", CHEAP.text.replace("2e0", "3e0"))
        every = [_table, *build_view_assets({"cheap": changed, "cheapest": CHEAPEST})]
        asked, cursor = requested(every, instance, cursor)
        assert "cheap" in asked


def test_the_condition_is_labelled() -> None:
    (asset, *_) = build_view_assets(VIEWS)
    (spec,) = asset.specs
    assert isinstance(spec.automation_condition, AutomationCondition)
    assert spec.automation_condition.get_label() == "refresh"


def test_a_relative_home_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lake = LakeResource(home="state", origin="recorded")
    assert ViewsResource().engine(lake).deployed() == []
