"""The embedded engine: Trino SQL on DuckDB, read-only, over what the catalog names right now."""

# ruff: noqa: S608  queries are what is tested

import os
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from dataplatform.lake.dialect import QueryError
from dataplatform.lake.sql_engine import NotBuiltError
from dataplatform.lake.view_engine import drift, orphans, prune, repair, stale, verify
from dataplatform.lake.views import Relation, ViewSpec, parse_view
from dataplatform_tests.views.small_lake import SmallLake, at, day

USD = {"vs_currency": "usd", "source": "inbox"}


def price(coin: str, on: str, value: float | None, rank: int = 1) -> dict[str, Any]:
    return {**USD, "coin_id": coin, "day": day(on), "price": value, "source_rank": rank}


@pytest.fixture
def prices(lake: SmallLake) -> SmallLake:
    lake.insert("daily_prices", [price("a", "2025-01-01", 1.5), price("b", "2025-01-01", None, 2)])
    return lake


def view(name: str, sql: str) -> ViewSpec:
    return parse_view(name, f"-- A view.\n{sql}")


# ---- answers ----


def test_rows_types_and_columns_are_trinos(prices: SmallLake) -> None:
    result = prices.engine.query(
        "SELECT coin_id, day, price, fetched_at, sum(source_rank) OVER () AS total, count(*) OVER ()"
        " FROM warehouse.daily_prices ORDER BY price NULLS FIRST"
    )
    assert result.columns == ("coin_id", "day", "price", "fetched_at", "total", "_col5")
    moment = "timestamp(6) with time zone"
    assert result.types == ("varchar", "date", "double", moment, "bigint", "bigint")
    # DuckDB sums to 128 bits, which arrive as decimals.
    assert result.arrow.schema.field("total").type == pa.int64()
    assert result.rows == [
        ("b", day("2025-01-01"), None, at("2025-03-01"), 3, 2),
        ("a", day("2025-01-01"), 1.5, at("2025-03-01"), 3, 2),
    ]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("7 / 2", 3),
        ("-7 / 2", -3),
        ("source_rank / 2", 0),
        ("count(*) / 2", 1),
        ("7e0 / 2", 3.5),
        ("date_diff('day', DATE '2025-01-01', DATE '2025-03-01')", 59),
        ("CAST(TIMESTAMP '2025-01-01 23:30:00 UTC' AS date)", day("2025-01-01")),
        ("max_by(coin_id, source_rank)", "b"),
        ("count_if(price IS NULL)", 1),
        ("array_join(array_agg(coin_id ORDER BY coin_id), '+')", "a+b"),
        ("CAST('1.5' AS decimal(3,1))", Decimal("1.5")),
    ],
)
def test_expressions_mean_what_they_mean_in_trino(
    prices: SmallLake, expression: str, expected: object
) -> None:
    group = " GROUP BY source_rank HAVING source_rank = 1" if "source_rank /" in expression else ""
    sql = f"SELECT {expression} AS x FROM warehouse.daily_prices{group}"
    assert prices.engine.query(sql).rows[0] == (expected,)


def test_time_zones_of_the_machine_do_not_matter(prices: SmallLake) -> None:
    # The C library reads TZ once, so another process it must be.
    code = (
        "import sys; from pathlib import Path;"
        "from dataplatform_tests.views.small_lake import make_lake;"
        "engine = make_lake(Path(sys.argv[1])).engine;"
        "sql = 'SELECT CAST(max(fetched_at) AS varchar) AS a, CAST(max(fetched_at) AS date) AS b"
        " FROM daily_prices';"
        "(row,) = engine.query(sql).rows; sys.stdout.write(f'{row[0]} {row[1]}')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(prices.folders.home)],
        env={**os.environ, "TZ": "America/New_York"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "2025-03-01 00:00:00+00 2025-03-01"


def test_names_work_with_and_without_schema_and_catalog(prices: SmallLake) -> None:
    prices.engine.deploy(view("cheap", "SELECT coin_id FROM warehouse.daily_prices"))
    for name in ("cheap", "analytics.cheap", "lake.analytics.cheap", '"CHEAP"', "Analytics.Cheap"):
        assert prices.engine.query(f"SELECT count(*) FROM {name}").rows == [(2,)], name
    with_cte = "WITH cheap AS (SELECT 1 AS x) SELECT x FROM cheap"
    assert prices.engine.query(with_cte).rows == [(1,)]


def test_a_limit_cuts_and_says_so(prices: SmallLake) -> None:
    sql = "SELECT coin_id FROM daily_prices ORDER BY coin_id"
    cut = prices.engine.query(sql, limit=1)
    assert (cut.rows, cut.truncated) == ([("a",)], True)
    whole = prices.engine.query(sql, limit=2)
    assert (len(whole.rows), whole.truncated) == (2, False)


def test_parameters_are_values_not_sql(prices: SmallLake) -> None:
    sql = "SELECT count(*) FROM daily_prices WHERE coin_id = ?"
    assert prices.engine.query(sql, ["a"]).rows == [(1,)]
    assert prices.engine.query(sql, ["a' OR '1'='1"]).rows == [(0,)]


def test_each_query_sees_the_current_snapshot_and_time_travel_the_old(prices: SmallLake) -> None:
    table = prices.catalog.load_table("warehouse.daily_prices")
    first = table.current_snapshot()
    assert first
    count = "SELECT count(*) FROM warehouse.daily_prices"
    assert prices.engine.query(count).rows == [(2,)]
    prices.insert("daily_prices", [price("c", "2025-01-02", 3.0)])
    assert prices.engine.query(count).rows == [(3,)]
    assert prices.engine.query(f"{count} FOR VERSION AS OF {first.snapshot_id}").rows == [(2,)]
    both = (
        "SELECT n.coin_id FROM daily_prices AS n LEFT JOIN daily_prices"
        f" FOR VERSION AS OF {first.snapshot_id} AS o ON n.coin_id = o.coin_id"
        " WHERE o.coin_id IS NULL"
    )
    assert prices.engine.query(both).rows == [("c",)]
    moment = at("1970-01-01").fromtimestamp(first.timestamp_ms / 1000, tz=at("1970-01-01").tzinfo)
    old = f"{count} FOR TIMESTAMP AS OF TIMESTAMP '{moment:%Y-%m-%d %H:%M:%S.%f} UTC'"
    assert prices.engine.query(old).rows == [(2,)]


def test_a_table_that_grew_a_column_is_read(prices: SmallLake) -> None:
    from pyiceberg.types import DoubleType

    with prices.catalog.load_table("warehouse.daily_prices").update_schema() as update:
        update.add_column("spread", DoubleType())
    assert prices.engine.query("SELECT count(spread), count(*) FROM daily_prices").rows == [(0, 2)]


def test_show_describe_and_explain(prices: SmallLake) -> None:
    prices.engine.deploy(view("cheap", "SELECT coin_id, price FROM warehouse.daily_prices"))
    engine = prices.engine
    assert ("analytics", "cheap") in engine.query("SHOW TABLES").rows
    assert engine.query("show tables from warehouse;").rows == [("warehouse", "daily_prices")]
    assert engine.query("SHOW SCHEMAS").rows == [("analytics",), ("warehouse",)]
    expected = [("coin_id", "varchar"), ("price", "double")]
    assert engine.query("DESCRIBE cheap").rows == expected
    assert engine.query("SHOW COLUMNS FROM analytics.cheap").rows == expected
    assert "daily_prices" in engine.query("SHOW CREATE VIEW cheap").rows[0][0]
    assert engine.query("EXPLAIN SELECT 1 AS x").columns == ("plan",)


# ---- refusals ----


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM warehouse.daily_prices",
        "INSERT INTO warehouse.daily_prices SELECT * FROM warehouse.daily_prices",
        "UPDATE warehouse.daily_prices SET price = 0",
        "DROP TABLE warehouse.daily_prices",
        "CREATE TABLE x AS SELECT 1 AS a",
        "CREATE VIEW analytics.x AS SELECT 1 AS a",
        "ALTER TABLE warehouse.daily_prices ADD COLUMN x int",
        "TRUNCATE TABLE warehouse.daily_prices",
        "SET SESSION x = 1",
        "CALL system.sync()",
        "EXPLAIN ANALYZE DELETE FROM warehouse.daily_prices",
        "EXPLAIN DELETE FROM warehouse.daily_prices",
        "COPY warehouse.daily_prices TO 'x.csv'",
        "ATTACH 'x.db'",
        "PRAGMA version",
        "WITH x AS (DELETE FROM warehouse.daily_prices) SELECT 1 AS a",
        "SELECT 1 AS a INTO x FROM warehouse.daily_prices",
        "SELECT 1; DROP TABLE warehouse.daily_prices",
        "",
    ],
)
def test_only_reading_is_possible(prices: SmallLake, sql: str) -> None:
    with pytest.raises(QueryError, match=r"Only reading|One statement|Not Trino SQL|no statement"):
        prices.engine.query(sql)
    assert prices.engine.query("SELECT count(*) FROM daily_prices").rows == [(2,)]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("read_csv('/etc/hostname')", "only tables and views"),
        ("read_text('/etc/hostname')", "only tables and views"),
        ("glob('/etc/*')", "."),
        ("daily_prices, LATERAL (SELECT 1 FROM read_text('/etc/hostname')) AS x", "only tables"),
        ("duckdb_settings()", "only tables and views"),
        ("TABLE(read_text('/etc/hostname'))", "."),
        ("'/etc/hostname'", "no table or view /etc/hostname"),
        ("information_schema.tables", "no table or view information_schema.tables"),
    ],
)
def test_other_files_and_the_engines_insides_are_out_of_reach(
    prices: SmallLake, source: str, message: str
) -> None:
    with pytest.raises(QueryError, match=message):
        prices.engine.query(f"SELECT * FROM {source}")


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT 1 FROM daily_price", "Did you mean .*daily_prices"),
        ("SELECT 1 FROM warehouse.latest_prices", "Did you mean analytics.latest_prices"),
        ("SELECT 1 FROM qqqqqqq", "dp tables"),
        ("SELECT 1 FROM other.warehouse.daily_prices", "no table or view"),
        ("SELECT cost FROM daily_prices", "cost"),
        ("SELECT coin_id FROM daily_prices AS a, daily_prices AS b", "ambiguous|Ambiguous|coin_id"),
        ("SELECT coin_id + 1 FROM daily_prices", "."),
        ("SELECT no_such_function(1)", "no_such_function"),
        ("SELECT 1 FROM (", "Not Trino SQL"),
        ('SELECT 1 FROM "daily_prices$files"', "dp table daily_prices"),
        ("SELECT 1 FROM daily_prices FOR VERSION AS OF 7", "no snapshot at 7"),
        ("SELECT 1 FROM daily_prices FOR TIMESTAMP AS OF DATE '2001-01-01'", "no snapshot"),
        ("SELECT 1 FROM daily_prices FOR TIMESTAMP AS OF 'x'", "no time"),
    ],
)
def test_errors_say_what_and_are_one_line(prices: SmallLake, sql: str, message: str) -> None:
    with pytest.raises(QueryError, match=message) as caught:
        prices.engine.query(sql)
    assert "\n" not in str(caught.value)


def test_what_is_declared_but_not_built_says_so(prices: SmallLake) -> None:
    with pytest.raises(NotBuiltError, match=r"analytics.latest_prices is not built.*dp run"):
        prices.engine.query("SELECT 1 FROM latest_prices")
    with pytest.raises(NotBuiltError, match=r"warehouse.ohlc is not built"):
        prices.engine.query("SELECT 1 FROM warehouse.ohlc")


def test_an_empty_lake_says_so(lake: SmallLake) -> None:
    with pytest.raises(NotBuiltError, match="empty"):
        lake.engine.query("SELECT 1 FROM qqqqqqq")


# ---- deploying ----


def test_deploy_drift_and_redeploy(prices: SmallLake) -> None:
    ours = view("cheap", "SELECT coin_id FROM warehouse.daily_prices WHERE price < 2e0")
    assert drift(prices.engine, ours) == ""
    assert prices.engine.deploy(ours) is True
    assert drift(prices.engine, ours) is None
    assert prices.engine.deploy(ours) is False
    # Comments and layout are no drift; another SELECT is, and shows as a diff.
    relaid = ours.text.replace("SELECT ", "SELECT -- why\n    ")
    (prices.folders.views / "cheap.sql").write_text(relaid)
    assert drift(prices.engine, ours) is None
    (prices.folders.views / "cheap.sql").write_text(ours.text.replace("< 2e0", "< 3e0"))
    difference = drift(prices.engine, ours)
    assert difference is not None
    assert "-  price < 2e0" in difference
    assert "+  price < 3e0" in difference
    assert prices.engine.deploy(ours) is True
    assert drift(prices.engine, ours) is None


def test_a_definition_that_does_not_bind_leaves_the_old_one(prices: SmallLake) -> None:
    good = view("cheap", "SELECT coin_id FROM warehouse.daily_prices")
    prices.engine.deploy(good)
    for broken in ("SELECT cost FROM warehouse.daily_prices", "SELECT a FROM warehouse.nowhere"):
        with pytest.raises(QueryError):
            prices.engine.deploy(view("cheap", broken))
    assert prices.engine.definition("cheap") == good.text
    assert sorted(path.name for path in prices.folders.views.iterdir()) == ["cheap.sql"]


def test_views_read_views_and_a_dropped_one_is_missed(prices: SmallLake) -> None:
    prices.engine.deploy(view("first", "SELECT coin_id, price FROM warehouse.daily_prices"))
    second = view("second", "SELECT max(price) AS top FROM analytics.first")
    prices.engine.deploy(second)
    assert verify(prices.engine, second).sample.rows == [(1.5,)]
    prices.engine.drop("first")
    with pytest.raises(QueryError, match="first"):
        prices.engine.query("SELECT top FROM second")


def test_repair_deploys_what_is_missing_changed_or_broken(prices: SmallLake) -> None:
    first = view("first", "SELECT coin_id FROM warehouse.daily_prices")
    second = view("second", "SELECT count(*) AS n FROM analytics.first")
    views = {"first": first, "second": second}
    assert repair(prices.engine, views) == ["first", "second"]
    assert repair(prices.engine, views) == []
    prices.engine.drop("first")
    assert set(stale(prices.engine, views)) == {"second"}
    assert repair(prices.engine, views) == ["first"]
    assert stale(prices.engine, views) == {}


def test_prune_drops_only_what_no_file_declares(prices: SmallLake) -> None:
    kept = view("kept", "SELECT coin_id FROM warehouse.daily_prices")
    for spec in (kept, view("gone", kept.sql)):
        prices.engine.deploy(spec)
    assert orphans(prices.engine, {"kept": kept}) == ["gone"]
    assert prices.engine.deployed() == ["gone", "kept"]
    assert prune(prices.engine, {"kept": kept}) == ["gone"]
    assert prices.engine.deployed() == ["kept"]
    assert prices.engine.definition("gone") is None
    prices.engine.drop("gone")


def test_verify_counts_all_rows_and_keeps_a_sample_in_order(prices: SmallLake) -> None:
    spec = parse_view(
        "v", "-- V.\n-- order: coin_id desc\nSELECT coin_id FROM warehouse.daily_prices"
    )
    prices.engine.deploy(spec)
    answer = verify(prices.engine, spec, rows=1)
    assert (answer.row_count, answer.sample.rows) == (2, [("b",)])


def test_resolve_prefers_the_view(prices: SmallLake) -> None:
    prices.engine.deploy(view("daily_prices", "SELECT coin_id FROM warehouse.daily_prices"))
    assert prices.engine.resolve("daily_prices") == Relation("analytics", "daily_prices")
    assert prices.engine.resolve("warehouse.daily_prices").schema == "warehouse"
