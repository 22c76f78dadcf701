"""A run works on one lake, whatever is switched beside it, and so do the runs that retry it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import (
    AssetsDefinition,
    DagsterInstance,
    ExecuteInProcessResult,
    MaterializeResult,
    asset,
    materialize,
)

from dataplatform.assets.views import build_view_assets
from dataplatform.lake.place import LocalLake
from dataplatform.lake.views import parse_view
from dataplatform.profiles import ORIGIN_TAG
from dataplatform.resources.lake import LakeResource
from dataplatform.resources.views import ViewsResource

ONE = parse_view("one", "-- One.\nSELECT 1 AS n")
(view,) = build_view_assets({"one": ONE})


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def home(tmp_path: Path) -> Path:
    LocalLake(tmp_path, "live").remember()
    return tmp_path


@asset
def switch(lake: LakeResource) -> MaterializeResult:
    """Let somebody else's `dp run` use the other lake from now on."""
    LocalLake(Path(lake.home), "recorded").remember()
    return MaterializeResult(metadata={"origin": lake.lake_origin})


def run(
    home: Path,
    instance: DagsterInstance,
    *assets: AssetsDefinition,
    tags: dict[str, str] | None = None,
    origin: str | None = None,
) -> ExecuteInProcessResult:
    resources = {"lake": LakeResource(home=str(home), origin=origin), "views": ViewsResource()}
    return materialize(
        assets, resources=resources, instance=instance, tags=tags, raise_on_error=False
    )


def deployed(home: Path) -> set[str]:
    return {path.parent.parent.name for path in home.glob("*/views/one.sql")}


def test_a_switch_in_mid_run_reaches_the_next_run(home: Path, instance: DagsterInstance) -> None:
    result = run(home, instance, switch, _after_the_switch())
    assert result.success
    assert LocalLake(home).origin == "recorded"
    assert deployed(home) == {"live"}
    assert run(home, instance, view).success
    assert deployed(home) == {"live", "recorded"}


def _after_the_switch() -> AssetsDefinition:
    @asset(deps=[switch])
    def _view(lake: LakeResource, views: ViewsResource) -> None:
        views.engine(lake).deploy(ONE)

    return _view


def test_a_run_says_which_lake_it_works_on(home: Path, instance: DagsterInstance) -> None:
    result = run(home, instance, view)
    stored = instance.get_run_by_id(result.run_id)
    assert stored is not None
    assert stored.tags[ORIGIN_TAG] == "live"


@pytest.mark.parametrize("origin", [None, "recorded"])
def test_a_run_that_is_tried_again_stays_in_its_lake(
    home: Path, instance: DagsterInstance, origin: str | None
) -> None:
    LocalLake(home, "recorded").remember()
    assert run(home, instance, view, tags={ORIGIN_TAG: "live"}, origin=origin).success
    assert deployed(home) == {"live"}


def test_a_tag_that_names_no_lake_is_refused(home: Path, instance: DagsterInstance) -> None:
    result = run(home, instance, view, tags={ORIGIN_TAG: "test"})
    assert not result.success
    told = "".join(str(entry) for entry in instance.all_logs(result.run_id))
    assert "origin is live or recorded, not 'test'" in told
    assert "STEP_UP_FOR_RETRY" not in told
