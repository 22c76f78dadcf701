"""All views on the recorded data: Trino runs them, gives them back, and answers as DuckDB does."""

import math
from typing import Any

import pytest

from dataplatform.lake.place import LocalLake
from dataplatform.lake.sql_engine import SqlEngine
from dataplatform.lake.view_engine import drift, repair, stale, verify
from dataplatform.views import all_views
from dataplatform_tests.dagster_home import DagsterHome
from dataplatform_tests.trino.conftest import TrinoLake, open_lake
from dataplatform_tests.trino.servers import Servers

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> LocalLake:
    home = DagsterHome(tmp_path_factory.mktemp("recorded"), {"DATAPLATFORM_ORIGIN": "recorded"})
    done = home.materialize(partition="2025-01-05")
    assert done.returncode == 0, done.stdout[-4000:]
    return LocalLake(home.lake, "recorded")


@pytest.fixture(scope="module")
def deployed(servers: Servers, recorded: LocalLake) -> TrinoLake:
    lake = open_lake(servers, "recorded", "recorded")
    lake.adopt(recorded.open_catalog())
    repair(lake.engine, all_views())
    return lake


@pytest.mark.parametrize("name", all_views())
def test_a_view_is_given_back_as_it_was_declared(deployed: TrinoLake, name: str) -> None:
    view = all_views()[name]
    assert drift(deployed.engine, view) is None
    assert deployed.engine.deploy(view) is False


def test_none_is_stale(deployed: TrinoLake) -> None:
    assert stale(deployed.engine, all_views()) == {}


def rows(engine: SqlEngine, name: str) -> list[tuple[Any, ...]]:
    found = verify(engine, all_views()[name], rows=100_000).sample.rows
    return sorted(found, key=lambda row: [str(v) for v in row if not isinstance(v, float)])


@pytest.mark.parametrize("name", all_views())
def test_both_engines_answer_alike(deployed: TrinoLake, recorded: LocalLake, name: str) -> None:
    embedded = recorded.engine()
    assert isinstance(embedded, SqlEngine)
    assert deployed.engine.describe(name) == embedded.describe(name)
    ours, theirs = rows(deployed.engine, name), rows(embedded, name)
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert all(map(same, one, other)), (one, other)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    return one == other
