"""Views over Dagster's own database, filled by runs of Dagster."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import DagsterInstance, Failure, MaterializeResult, asset, materialize

from dataplatform.lake.catalog import SqliteCatalog
from dataplatform.lake.dialect import QueryError
from dataplatform.lake.schema import ensure_table
from dataplatform.lake.view_engine import drift, verify
from dataplatform.lake.view_sql import checked_schemas, column_docs, validate
from dataplatform.profiles import ORIGIN_TAG
from dataplatform.tables import all_specs
from dataplatform.views import all_views, declared_views, table_columns
from dataplatform.views.federated import DAGSTER_TABLES, federated_views
from dataplatform_tests.trino.conftest import TrinoLake
from dataplatform_tests.trino.servers import Servers

VIEWS = sorted(federated_views())


def test_they_exist_where_trino_is() -> None:
    assert set(declared_views("local")) == set(all_views())
    assert set(declared_views("stack")) == set(all_views()) | set(VIEWS)


@pytest.mark.parametrize("name", VIEWS)
def test_they_keep_the_rules_and_are_documented(name: str) -> None:
    view = federated_views()[name]
    schemas = checked_schemas(all_views().values(), table_columns())
    validate(view, {**schemas, **DAGSTER_TABLES})
    assert all(column_docs(view).values())


@asset(key=["warehouse", "coins"])
def coins() -> MaterializeResult:
    return MaterializeResult(metadata={"dagster/row_count": 7, "seconds": 1.5, "bytes": 1000})


@asset(key=["warehouse", "broken"])
def broken() -> None:
    raise Failure("as it should", allow_retries=False)


@pytest.fixture(scope="module")
def runs(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> None:
    home: Path = tmp_path_factory.mktemp("dagster")
    url = servers.postgres("dagster").replace("postgresql", "postgresql+psycopg2", 1)
    config = {"storage": {"postgres": {"postgres_url": url}}, "telemetry": {"enabled": False}}
    (home / "dagster.yaml").write_text(yaml.safe_dump(config))
    with DagsterInstance.from_config(str(home)) as instance:
        instance.wipe()
        for origin in ("recorded", "recorded", "live"):
            assert materialize([coins], instance=instance, tags={ORIGIN_TAG: origin}).success
        assert not materialize([broken], instance=instance, raise_on_error=False).success


def answer(trino: TrinoLake, name: str) -> list[dict[str, Any]]:
    view = federated_views()[name]
    trino.engine.deploy(view)
    assert drift(trino.engine, view) is None
    return verify(trino.engine, view).sample.arrow.to_pylist()


@pytest.mark.stack
@pytest.mark.timeout(600)
def test_runs_a_day_and_lake(trino: TrinoLake, runs: None) -> None:
    found = {row["origin"]: row for row in answer(trino, "pipeline_health")}
    counts = {o: (r["runs"], r["succeeded"], r["failed"]) for o, r in found.items()}
    assert counts == {"recorded": (2, 2, 0), "live": (1, 1, 0), "unknown": (1, 0, 1)}
    assert 0 < found["recorded"]["median_seconds"] <= found["recorded"]["p95_seconds"] < 60
    assert found["unknown"]["median_seconds"] is None


@pytest.mark.stack
@pytest.mark.timeout(600)
def test_queries_read_dagsters_database_and_no_other_catalog(
    trino: TrinoLake, runs: None, empty_tables: None
) -> None:
    counted = "SELECT count(*) FROM postgres.public.runs"
    assert trino.engine.query(counted).rows == [(4,)]
    beside = (
        "SELECT r.status, c.coin_id FROM postgres.public.runs AS r LEFT JOIN coins AS c ON true"
    )
    assert len(trino.engine.query(beside).rows) == 4
    with pytest.raises(QueryError, match=r"no table or view system\.runtime\.queries"):
        trino.engine.query("SELECT * FROM system.runtime.queries")


@pytest.mark.stack
@pytest.mark.timeout(600)
def test_dagsters_tables_are_asked_by_name_and_only_read(trino: TrinoLake, runs: None) -> None:
    asked = "SELECT count(*) AS n FROM postgres.public.runs WHERE status = 'SUCCESS'"
    assert trino.engine.query(asked).rows == [(3,)]
    for refused in (
        "DELETE FROM postgres.public.runs",
        "SELECT * FROM TABLE(postgres.system.query(query => 'SELECT 1'))",
        "SELECT * FROM postgres.system.query(query => 'SELECT 1')",
    ):
        with pytest.raises(QueryError, match=r"Only reading|is no table|are read"):
            trino.engine.query(refused)


@pytest.fixture
def empty_tables(trino: TrinoLake, tmp_path: Path) -> None:
    """The tables of a lake in which nothing was built yet, and the view over them."""
    source = SqliteCatalog(tmp_path / "catalog.db", tmp_path / "warehouse").open()
    for spec in all_specs().values():
        ensure_table(source, spec)
    trino.adopt(source)
    trino.engine.deploy(all_views()["data_freshness"])


@pytest.mark.stack
@pytest.mark.timeout(600)
def test_the_last_materialization_of_each_asset_beside_its_table(
    trino: TrinoLake, runs: None, empty_tables: None
) -> None:
    (row,) = answer(trino, "asset_freshness")
    assert (row["asset"], row["row_count"], row["origin"]) == ("warehouse/coins", 7, "live")
    assert row["materialized_at"].tzinfo is not None
    # Dagster was told of seven rows; the table of this lake has none.
    assert row["rows_now"] == 0


@pytest.mark.stack
@pytest.mark.timeout(600)
def test_seconds_and_bytes_of_each_table(trino: TrinoLake, runs: None) -> None:
    found = {row["origin"]: row for row in answer(trino, "table_cost")}
    assert set(found) == {"recorded", "live"}
    recorded = found["recorded"]
    assert recorded["table_name"] == "coins"
    assert (recorded["builds"], recorded["total_seconds"], recorded["bytes"]) == (2, 3.0, 1000)
