"""Trino and DuckDB give one answer to one statement, over the same files."""

from pathlib import Path

import pytest

from dataplatform.lake.dialect import QueryError
from dataplatform.lake.sql_engine import NotBuiltError, QueryResult, SqlEngine
from dataplatform.lake.views import parse_view
from dataplatform_tests.trino.conftest import TrinoLake
from dataplatform_tests.views.small_lake import SmallLake, at, day, make_lake

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]
CHEAP = parse_view(
    "cheap", "-- Cheap ones.\nSELECT coin_id, -- the coin\nprice FROM warehouse.daily_prices"
)


@pytest.fixture
def engines(tmp_path: Path, trino: TrinoLake) -> tuple[SqlEngine, SqlEngine]:
    lake = make_lake(tmp_path)
    common = {"vs_currency": "usd", "source": "inbox", "day": day("2025-01-01")}
    rows = [("a", 1.5, 1), ("b", None, 2), ("c", 3.0, 3)]
    lake.insert(
        "daily_prices",
        [{**common, "coin_id": c, "price": p, "source_rank": r} for c, p, r in rows],
    )
    trino.adopt(lake.catalog)
    embedded = lake.engine
    for engine in (embedded, trino.engine):
        engine.deploy(CHEAP)
    return embedded, trino.engine


def shown(result: QueryResult) -> tuple[object, ...]:
    return result.columns, result.types, result.rows, result.truncated


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM daily_prices ORDER BY coin_id",
        "SELECT * FROM cheap ORDER BY coin_id;",
        "SELECT coin_id FROM lake.analytics.cheap ORDER BY 1",
        "SELECT count(*), max(price), sum(source_rank) FROM warehouse.daily_prices",
        "SELECT CAST(7 AS bigint) / 2, 'x' AS text, DATE '2025-01-01' AS day, true AS yes",
        "SELECT fetched_at, CAST(fetched_at AS date) AS day FROM daily_prices LIMIT 1",
        "WITH cheap AS (SELECT 1 AS x) SELECT x FROM cheap",
        "SELECT a.coin_id FROM cheap AS a JOIN Warehouse.Daily_Prices AS b ON a.price = b.price",
        "SHOW SCHEMAS",
        "SHOW TABLES",
        "show tables from warehouse;",
        "DESCRIBE cheap",
        "SHOW COLUMNS FROM warehouse.daily_prices",
        "SELECT array_agg(coin_id ORDER BY coin_id) AS coins FROM daily_prices",
        "SELECT count(*) FROM daily_prices FOR TIMESTAMP AS OF '2035-01-01'",
    ],
)
def test_answers(engines: tuple[SqlEngine, SqlEngine], sql: str) -> None:
    embedded, trino = (shown(engine.query(sql, limit=2)) for engine in engines)
    assert trino == embedded


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM warehouse.daily_prices",
        "DROP TABLE warehouse.daily_prices",
        "CREATE TABLE x AS SELECT 1 AS a",
        "EXPLAIN DELETE FROM warehouse.daily_prices",
        "SET SESSION x = 1",
        "CALL system.sync()",
        "SELECT 1; DROP TABLE warehouse.daily_prices",
        "",
        "SELECT 1 FROM daily_price",
        "SELECT 1 FROM warehouse.latest_prices",
        "SELECT 1 FROM latest_prices",
        "SELECT 1 FROM other.warehouse.daily_prices",
        "SELECT 1 FROM information_schema.tables",
        "SELECT 1 FROM qqqqqqq",
        "SELECT 1 FROM (",
        "SELECT 1 FROM TABLE(sequence(1, 3))",
        'SELECT 1 FROM "daily_prices$files"',
        "SELECT 1 FROM daily_prices FOR VERSION AS OF 7",
        "SELECT 1 FROM cheap FOR VERSION AS OF 7",
    ],
)
def test_refusals(engines: tuple[SqlEngine, SqlEngine], sql: str) -> None:
    said = []
    for engine in engines:
        with pytest.raises(QueryError) as refused:
            engine.query(sql)
        said.append((type(refused.value), str(refused.value)))
    assert said[1] == said[0]


def test_parameters_are_values_not_sql(engines: tuple[SqlEngine, SqlEngine]) -> None:
    sql = "SELECT count(*) FROM daily_prices WHERE coin_id = ? AND day = ?"
    for engine in engines:
        assert engine.query(sql, ["a", day("2025-01-01")]).rows == [(1,)]
        assert engine.query(sql, ["a' OR '1'='1", day("2025-01-01")]).rows == [(0,)]


def test_time_travel_reads_the_snapshot_that_was(tmp_path: Path, trino: TrinoLake) -> None:
    lake: SmallLake = make_lake(tmp_path)
    lake.insert("coins", [{"coin_id": "a", "valid_from": at("2025-01-01")}])
    first = lake.catalog.load_table("warehouse.coins").current_snapshot()
    assert first
    lake.insert("coins", [{"coin_id": "b", "valid_from": at("2025-01-01")}])
    trino.adopt(lake.catalog)
    sql = f"SELECT count(*) FROM coins FOR VERSION AS OF {first.snapshot_id}"  # noqa: S608
    assert trino.engine.query(sql).rows == [(1,)]
    assert trino.engine.query("SELECT count(*) FROM coins").rows == [(2,)]


def test_a_division_by_zero_says_what_to_write(engines: tuple[SqlEngine, SqlEngine]) -> None:
    for engine in engines:
        with pytest.raises(QueryError, match=r"Division by zero\. Remedy: divide by nullif"):
            engine.query("SELECT source_rank / 0 AS x FROM daily_prices")


def test_an_empty_lake_says_so(trino: TrinoLake) -> None:
    with pytest.raises(NotBuiltError, match="empty"):
        trino.engine.query("SELECT 1 FROM nothing_here")
