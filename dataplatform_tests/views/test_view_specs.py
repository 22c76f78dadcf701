"""What a view's file says, read without and with the SQL parser, and the rules it must keep."""

# ruff: noqa: S608  queries are what is tested

import re
import subprocess
import sys
from pathlib import Path

import pytest
import sqlglot

from dataplatform import views
from dataplatform.lake import view_sql
from dataplatform.lake.plot import Plot
from dataplatform.lake.views import (
    Relation,
    Schemas,
    ViewError,
    ViewSpec,
    load_views,
    parse_view,
)
from dataplatform.views import all_views, table_columns

PRICES = Relation("warehouse", "prices")
SCHEMAS: Schemas = {
    PRICES: {"coin_id": "varchar", "price": "double", "rank": "integer"},
    Relation("warehouse", "coins"): {"coin_id": "varchar", "name": "varchar"},
}
VIEWS = sorted(all_views())


def view(sql: str, name: str = "v") -> ViewSpec:
    return parse_view(name, f"-- A view.\n{sql}")


# ---- the package's own views ----


def test_every_file_is_a_view() -> None:
    files = {path.stem for path in Path(views.__file__).parent.glob("*.sql")}
    assert set(VIEWS) == files


def test_every_view_keeps_the_rules() -> None:
    view_sql.checked_schemas(all_views().values(), table_columns())


@pytest.mark.parametrize("name", VIEWS)
def test_the_scan_finds_the_references_that_the_parser_finds(name: str) -> None:
    spec = all_views()[name]
    parsed = view_sql.relations(view_sql.parse_select(name, spec.sql))
    assert set(spec.references) == {Relation(table.db, table.name) for table in parsed}


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_survives_a_round_trip_through_trino_sql(name: str) -> None:
    spec = all_views()[name]
    once = view_sql.normalized(spec.sql)
    assert view_sql.normalized(once) == once
    written = sqlglot.transpile(spec.sql, read="trino", write="trino", comments=False)[0]
    assert view_sql.normalized(written) == once


@pytest.mark.parametrize("name", VIEWS)
def test_every_column_and_every_view_is_documented(name: str) -> None:
    spec = all_views()[name]
    assert spec.description.endswith(".")
    undocumented = [c for c, doc in view_sql.column_docs(spec).items() if not doc]
    assert undocumented == []


@pytest.mark.parametrize("name", VIEWS)
def test_plots_name_columns_of_their_view(name: str) -> None:
    spec = all_views()[name]
    if spec.plot:
        named = {spec.plot.x, *spec.plot.y, *([spec.plot.value] if spec.plot.value else [])}
        assert named <= set(view_sql.column_docs(spec))


@pytest.mark.parametrize("name", VIEWS)
def test_every_ordering_says_where_nulls_go(name: str) -> None:
    # Engines differ in where nulls go by default; these columns are keys or constants.
    never_null = {"coin_id", "category_id", "vs_currency", "day", "source_rank", "step"}
    sql = all_views()[name].sql
    orderings = re.findall(r"ORDER BY ((?:[\w. ,]|\n)+?)\s*\)", sql)
    assert len(orderings) == sql.count("ORDER BY")
    for item in (item.strip() for ordering in orderings for item in ordering.split(",")):
        column = item.split()[0].rsplit(".", 1)[-1]
        said = item.endswith(("ASC NULLS LAST", "DESC NULLS LAST"))
        assert said or (column in never_null and item.endswith(" ASC")), item


def test_loading_the_views_imports_no_heavy_library() -> None:
    code = (
        "import sys; from dataplatform.views import all_views; all_views()['drawdowns'].references;"
        "sys.exit(', '.join({'sqlglot', 'duckdb', 'pyarrow', 'dagster'} & set(sys.modules)) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


# ---- reading a file ----


def test_a_file_gives_description_directives_and_sql() -> None:
    spec = parse_view(
        "v",
        "-- First line\n-- second line.\n--\n-- More.\n--\n-- order: a desc, b\n"
        "-- plot: bar x=a y=b,c limit=7\n\nSELECT a, -- inner\n b FROM warehouse.prices;\n",
    )
    assert spec.description == "First line\nsecond line.\n\nMore."
    assert spec.order == "a desc, b"
    assert spec.plot == Plot("bar", "a", ("b", "c"), None, 7)
    assert spec.sql == "SELECT a, -- inner\n b FROM warehouse.prices\n"


def test_references_ignore_comments_and_literals() -> None:
    spec = view(
        "SELECT 'warehouse.literal' AS a, 'it''s analytics.literal' AS b -- warehouse.comment\n"
        '/* analytics.block */ FROM Warehouse."coins" AS c JOIN analytics . other AS o ON true'
    )
    assert spec.references == (Relation("analytics", "other"), Relation("warehouse", "coins"))


def test_the_code_version_changes_with_the_code_only() -> None:
    base = view("SELECT coin_id FROM warehouse.prices")
    same = parse_view("v", "-- Other words.\nSELECT\n  coin_id -- doc\nFROM warehouse.prices;")
    assert base.code_version == same.code_version
    literals = [view(f"SELECT '{text}' AS a FROM warehouse.prices") for text in ("-- x", "-- y")]
    assert literals[0].code_version != literals[1].code_version
    assert base.code_version != view("SELECT price FROM warehouse.prices").code_version


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT a FROM warehouse.prices", "has no description"),
        ("-- order: a\nSELECT a FROM warehouse.prices", "has no description"),
        ("-- A.\n-- plot: pie x=a y=b\nSELECT a", "can't be read"),
        ("-- A.\n-- plot: bar y=b\nSELECT a", "can't be read"),
    ],
)
def test_a_file_that_says_too_little_is_refused(text: str, message: str) -> None:
    with pytest.raises(ViewError, match=message):
        parse_view("v", text)


def test_views_come_after_those_they_read(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text("-- A.\nSELECT x FROM analytics.b")
    (tmp_path / "b.sql").write_text("-- B.\nSELECT x FROM analytics.c")
    (tmp_path / "c.sql").write_text("-- C.\nSELECT x FROM warehouse.t")
    assert list(load_views(tmp_path)) == ["c", "b", "a"]
    (tmp_path / "c.sql").write_text("-- C.\nSELECT x FROM analytics.a")
    with pytest.raises(ViewError, match="in a circle"):
        load_views(tmp_path)


# ---- rules ----


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT * FROM warehouse.prices", "name the columns"),
        ("SELECT p.* FROM warehouse.prices AS p", "name the columns"),
        ("WITH a AS (SELECT * FROM warehouse.prices) SELECT coin_id FROM a", "name the columns"),
        ("SELECT coin_id FROM warehouse.price", r"no warehouse.price. Did you mean warehouse.pr"),
        ("SELECT coin_id FROM prices", "there is no prices"),
        ("SELECT cost FROM warehouse.prices", "cost"),
        ("SELECT p.cost FROM warehouse.prices AS p", "cost"),
        ("SELECT price + 1 FROM warehouse.prices", "a name"),
        ("SELECT count(*) FROM warehouse.prices", "a name"),
        ("SELECT format_datetime(now(), 'Y') AS y FROM warehouse.prices", "Trino only"),
        ("DELETE FROM warehouse.prices", "exactly one SELECT"),
        ("SELECT 1 AS a; SELECT 2 AS a", "exactly one SELECT"),
        ("SELEC coin_id FROM warehouse.prices", "not Trino SQL|exactly one SELECT"),
    ],
)
def test_a_view_that_breaks_a_rule_is_refused(sql: str, message: str) -> None:
    with pytest.raises(ViewError, match=message):
        view_sql.validate(view(sql), SCHEMAS)


def test_count_star_and_ctes_are_no_break() -> None:
    sql = "WITH a AS (SELECT coin_id FROM warehouse.prices) SELECT count(*) AS n FROM a"
    view_sql.validate(view(sql), SCHEMAS)


def test_views_are_checked_against_the_views_before_them() -> None:
    first = view("SELECT coin_id, rank + 1 AS next FROM warehouse.prices", "first")
    good = view("SELECT next FROM analytics.first", "good")
    schemas = view_sql.checked_schemas([first, good], SCHEMAS)
    assert schemas[good.relation] == {"next": "integer"}
    with pytest.raises(ViewError, match="rank"):
        view_sql.checked_schemas([first, view("SELECT rank FROM analytics.first")], SCHEMAS)


# ---- lineage ----


def test_lineage_goes_through_ctes_unions_and_aliases_to_direct_sources() -> None:
    spec = view(
        """
        WITH p AS (
            SELECT coin_id AS id, price * 2e0 AS double_price FROM warehouse.prices
            UNION ALL SELECT coin_id, 0e0 FROM warehouse.coins
        )
        SELECT p.id, coalesce(c.name, p.id) AS label, sum(p.double_price) AS total, count(*) AS n
        FROM p LEFT JOIN warehouse.coins AS c ON p.id = c.coin_id
        GROUP BY 1, 2
        """
    )
    coins = Relation("warehouse", "coins")
    assert view_sql.column_lineage(spec, SCHEMAS) == {
        "id": ((coins, "coin_id"), (PRICES, "coin_id")),
        "label": ((coins, "coin_id"), (coins, "name"), (PRICES, "coin_id")),
        "total": ((PRICES, "price"),),
        "n": (),
    }


def test_lineage_of_a_view_on_a_view_ends_at_that_view() -> None:
    first = view("SELECT price AS cost FROM warehouse.prices", "first")
    second = view("SELECT cost + 1e0 AS more FROM analytics.first", "second")
    schemas = view_sql.checked_schemas([first, second], SCHEMAS)
    assert view_sql.column_lineage(second, schemas) == {"more": ((first.relation, "cost"),)}
