"""`dp query`, `export`, `tables`, `table`, `views`: answers on stdout, one line for an error."""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

from dataplatform.cli import app
from dataplatform.lake.views import ViewSpec, parse_view
from dataplatform.lake.writer_lock import file_lock
from dataplatform.views import all_views
from dataplatform_tests.views.small_lake import SmallLake, at, day, make_lake

SOURCE = "recorded lake · Data provided by CoinGecko"
CHEAP = parse_view(
    "cheap", "-- Cheap coins [USD].\nSELECT coin_id, price FROM warehouse.daily_prices"
)


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallLake:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATAPLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DATAPLATFORM_ORIGIN", "recorded")
    made = make_lake(tmp_path / "home")
    usd = {"vs_currency": "usd", "source": "inbox", "observed_at": at("2025-01-01")}
    rows = [("a", 1.5), ('ü, "b"', 3.0), ("c", None)]
    made.insert(
        "daily_prices",
        [
            {**usd, "coin_id": coin, "day": day("2025-01-01"), "price": price}
            for coin, price in rows
        ],
    )
    made.engine.deploy(CHEAP)
    return made


def dp(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin)


def fails(result: Result, *words: str) -> None:
    """Exit code 1, one line that has these words, nothing on stdout, no traceback."""
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.strip().splitlines()) == 1
    for word in words:
        assert word in result.stderr


# ---- query ----


def test_query_shows_a_table_with_attribution(lake: SmallLake) -> None:
    result = dp("query", "SELECT coin_id, price FROM cheap ORDER BY coin_id")
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["coin_id", "price"] in lines
    assert ["a", "1.5"] in lines
    assert ["c", "–"] in lines
    assert f"3 rows · {SOURCE}" in result.stdout
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize(
    ("sql", "shown"),
    [
        ("ARRAY[1, NULL]", "[1, null]"),
        ("MAP(ARRAY['a', 'b'], ARRAY[1, NULL])", "{a=1, b=null}"),
        ("CAST(ROW(1, 'x') AS ROW(n bigint, s varchar))", "{n=1, s=x}"),
        ("ARRAY[ARRAY['x'], NULL]", "[[x], null]"),
    ],
)
def test_what_is_nested_is_shown_as_trino_does(lake: SmallLake, sql: str, shown: str) -> None:
    lines = [line.strip() for line in dp("query", f"SELECT {sql} AS v").stdout.splitlines()]
    assert shown in lines


@pytest.mark.parametrize(
    "sql", ["1 / 0", "0 / 0", "-1 / 0", "length(coin_id) / (length(coin_id) - 1)"]
)
def test_a_division_by_zero_is_called_so(lake: SmallLake, sql: str) -> None:
    asked = f"SELECT {sql} AS x FROM cheap"  # noqa: S608  parameters of this test
    for arguments in ([asked], [asked, "-o", "x.csv"]):
        fails(dp("query", *arguments), "Division by zero", "nullif")


def test_query_reads_stdin(lake: SmallLake) -> None:
    assert "3" in dp("query", "-", stdin="SELECT count(*) AS n FROM cheap;\n").stdout


def test_query_says_when_there_is_more(lake: SmallLake) -> None:
    result = dp("query", "SELECT coin_id FROM cheap", "-n", "2")
    assert "first 2 rows" in result.stdout
    assert "--limit" in result.stderr
    assert dp("query", "SELECT coin_id FROM cheap", "-n", "3").stderr == ""


def test_query_writes_csv_and_json_for_programs(lake: SmallLake) -> None:
    sql = "SELECT coin_id, price, day, observed_at FROM daily_prices ORDER BY price NULLS LAST"
    written = dp("query", sql, "--format", "csv")
    assert written.stderr.strip() == SOURCE
    rows = list(csv.reader(io.StringIO(written.stdout)))
    assert rows[1] == ["a", "1.5", "2025-01-01", "2025-01-01 00:00:00.000000Z"]
    assert rows[2][0] == 'ü, "b"'
    assert rows[3][:2] == ["c", ""]
    records = json.loads(dp("query", sql, "-f", "json", "-n", "1").stdout)
    moment = "2025-01-01T00:00:00Z"
    assert records == [{"coin_id": "a", "price": 1.5, "day": "2025-01-01", "observed_at": moment}]
    assert json.loads(dp("query", f"{sql} LIMIT 0", "-f", "json").stdout) == []


def test_columns_of_the_same_name_are_numbered_in_files(lake: SmallLake) -> None:
    sql = "SELECT 1 AS n, 2 AS n_1, 3 AS n, 4 AS n"
    names = ["n", "n_1", "n_2", "n_3"]
    assert json.loads(dp("query", sql, "-f", "json").stdout) == [
        dict(zip(names, (1, 2, 3, 4), strict=True))
    ]
    header, _ = csv.reader(io.StringIO(dp("query", sql, "-f", "csv").stdout))
    assert header == names
    assert dp("query", sql, "-o", "x.parquet").exit_code == 0
    assert pq.read_table("x.parquet").column_names == names


def test_lists_are_json_in_csv(lake: SmallLake) -> None:
    result = dp("query", "SELECT ARRAY['x', 'ü\"'] AS l", "-f", "csv")
    (_, (cell,)) = list(csv.reader(io.StringIO(result.stdout)))
    assert json.loads(cell) == ["x", 'ü"']


def test_query_writes_a_file_of_the_endings_format(lake: SmallLake) -> None:
    result = dp("query", "SELECT coin_id FROM cheap", "-o", "deep/out.parquet")
    assert result.exit_code == 0
    assert f"3 rows written to deep/out.parquet. {SOURCE}" in result.stderr
    assert pq.read_table("deep/out.parquet").num_rows == 3
    assert [path.name for path in Path("deep").iterdir()] == ["out.parquet"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["SELECT 1 FROM cheep"], ["cheep", "Did you mean analytics.cheap"]),
        (["SELECT 1 FROM latest_prices"], ["not built", "dp run"]),
        (["SELECT cost FROM cheap"], ["cost"]),
        (["DROP TABLE cheap"], ["Only reading"]),
        (['SELECT 1 FROM "[bold]"'], ["[bold]"]),
        (["SELECT 1 FROM (("], ["Not Trino SQL"]),
        (["EXPLAIN SELECT nothing_like_it(1)"], ["nothing_like_it"]),
        ([" ; "], ["no statement", "select * from"]),
        (["SELECT 1 AS a; SELECT 2 AS a"], ["One statement"]),
        (["SELECT 1 AS x", "-o", "x.txt"], ["x.txt", ".csv"]),
        (["SELECT 1 AS x", "-o", "x.csv", "-f", "table"], ["--format"]),
    ],
)
def test_query_errors_are_one_line(
    lake: SmallLake, arguments: Sequence[str], words: Sequence[str]
) -> None:
    fails(dp("query", *arguments), *words)
    assert not Path("x.csv").exists()


@pytest.mark.parametrize("sql", ["selec * from cheap", "select 1 as a from", "select (1"])
def test_a_syntax_error_shows_where_and_no_class_of_the_parser(lake: SmallLake, sql: str) -> None:
    result = dp("query", sql)
    fails(result, "Not Trino SQL", "at line 1")
    assert not re.search(r"<class|Token|sqlglot", result.stderr)


def test_a_failing_export_leaves_no_file(lake: SmallLake) -> None:
    result = dp("query", "SELECT CAST(coin_id AS bigint) AS x FROM cheap", "-o", "x.csv")
    fails(result, "a")
    assert list(Path().glob("*x.csv*")) == []


def test_no_lake_and_another_profile_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAPLATFORM_HOME", str(tmp_path / "nothing"))
    for arguments in (["tables"], ["query", "SELECT 1 AS x"], ["table", "coins"], ["export", "x"]):
        fails(dp(*arguments), "no lake", "dp run")
    assert not (tmp_path / "nothing").exists()
    monkeypatch.setenv("DATAPLATFORM_PROFILE", "cluster")
    fails(dp("tables"), "cluster", "DATAPLATFORM_CATALOG_URI", "Remedy")


# ---- export ----


def test_export_names_its_file_by_default(lake: SmallLake) -> None:
    assert dp("export", "cheap").exit_code == 0
    assert len(Path("cheap.csv").read_text(encoding="utf-8").splitlines()) == 4
    assert dp("export", "warehouse.daily_prices", "--format", "parquet").exit_code == 0
    assert pq.read_table("daily_prices.parquet").num_rows == 3
    fails(dp("export", "nothing_like_it"), "nothing_like_it")


# ---- tables and table ----


def test_tables_lists_what_there_is_and_what_is_not_built(lake: SmallLake) -> None:
    (lake.folders.views / "old.sql").write_text(CHEAP.text)
    output = dp("tables").stdout
    lines = {line.split()[0]: line for line in output.splitlines() if line.strip()}
    assert lines["warehouse.daily_prices"].split()[1] == "3"
    assert "not built" in lines["warehouse.ohlc"]
    assert "not deployed" in lines["analytics.latest_prices"]
    assert "no file any more" in lines["analytics.old"]
    assert SOURCE in output


def test_table_shows_columns_storage_and_rows(lake: SmallLake) -> None:
    output = dp("table", "daily_prices", "--rows", "1").stdout
    for said in ("warehouse.daily_prices", "coin_id", "3 rows;", "year(day)", "append", "2025-01"):
        assert said in output
    described = lake.catalog.load_table("warehouse.daily_prices").schema().find_field("price").doc
    assert described
    assert described.split()[0] in output
    assert f"1 row · {SOURCE}" in output


def test_table_shows_the_newest_rows_first(lake: SmallLake) -> None:
    days = ("2025-03-01", "2025-03-03", "2025-03-02")
    lake.insert("daily_prices", [{"coin_id": f"of {on}", "day": day(on)} for on in days])
    output = dp("table", "daily_prices", "--rows", "2").stdout
    assert "of 2025-03-03" in output
    assert output.index("of 2025-03-03") < output.index("of 2025-03-02")
    assert "of 2025-03-01" not in output


def test_table_of_a_view_shows_its_description_as_it_is(lake: SmallLake) -> None:
    lake.create_for(_latest())
    lake.engine.deploy(_latest())
    output = dp("table", "latest_prices").stdout
    assert "analytics.latest_prices" in output
    assert "CoinGecko's id of the coin" in output
    assert "snapshots" not in output.split("latest_prices", 2)[-1]


def _latest() -> ViewSpec:
    from dataplatform.views import all_views

    return all_views()["latest_prices"]


def test_table_travels_in_time(lake: SmallLake) -> None:
    first = lake.catalog.load_table("warehouse.daily_prices").current_snapshot()
    assert first
    lake.insert("daily_prices", [{"coin_id": "new", "day": day("2025-02-01"), "price": 9.0}])
    assert "4 rows ·" in dp("table", "daily_prices").stdout
    old = dp("table", "daily_prices", "--at", str(first.snapshot_id)).stdout
    assert "3 rows ·" in old
    assert "3 rows ·" not in dp("table", "daily_prices", "--at", "2999-01-01").stdout
    fails(dp("table", "daily_prices", "--at", "2001-01-01"), "no snapshot")
    fails(dp("table", "daily_prices", "--at", "yesterday'"), "no time")
    fails(dp("table", "cheap", "--at", "2025-01-01"), "view")


# ---- views ----


def test_views_status_and_prune(lake: SmallLake) -> None:
    result = dp("views", "status")
    assert result.exit_code == 1
    assert "not deployed" in result.stdout
    assert "file is gone" in result.stdout
    assert "Remedy" in result.stderr
    assert dp("views", "prune", stdin="n\n").exit_code == 0
    assert lake.engine.deployed() == ["cheap"]
    assert "Dropped cheap" in dp("views", "prune", "--yes").stdout
    assert lake.engine.deployed() == []
    assert "has its file" in dp("views", "prune").stdout


def test_views_deploy_mends_what_status_complains_about(lake: SmallLake) -> None:
    fails(dp("views", "deploy"), "not built")
    for view in all_views().values():
        lake.create_for(view)
    assert "latest_prices" in dp("views", "deploy").stdout
    assert "Every view is as declared" in dp("views", "deploy").stdout
    assert dp("views", "status").exit_code == 0


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_table_is_one_line_with_its_whole_name_at_any_width(
    lake: SmallLake, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    shown = re.sub(r"\x1b\[[0-9;]*m", "", dp("tables").stdout)
    assert max(map(len, shown.splitlines())) <= width
    listed = shown.rpartition("─")[2].split("dp table")[0]
    names = [line.split()[0] for line in listed.splitlines() if line.strip()]
    assert "warehouse.coin_metrics_daily" in names
    assert all(name.startswith(("warehouse.", "analytics.")) for name in names)
    assert "…" in shown


# ---- rollback ----


def test_a_table_goes_back_to_a_snapshot_and_no_further(lake: SmallLake) -> None:
    first = lake.catalog.load_table("warehouse.daily_prices").metadata.current_snapshot_id
    lake.insert(
        "daily_prices", [{"coin_id": "bad", "vs_currency": "usd", "day": day("2025-01-02")}]
    )
    last = lake.catalog.load_table("warehouse.daily_prices").metadata.current_snapshot_id
    done = dp("rollback", "daily_prices", str(first))
    assert done.exit_code == 0, done.stderr
    assert f"warehouse.daily_prices is at snapshot {first}" in done.stdout
    assert "bad" not in dp("query", "SELECT coin_id FROM cheap").stdout
    fails(dp("rollback", "daily_prices", str(last)), "dp table daily_prices")
    fails(dp("rollback", "daily_prices", "1"), "dp table daily_prices")
    fails(dp("rollback", "cheap", str(first)), "is a view")


def test_no_rollback_while_a_run_writes(lake: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplatform.cli.rollback.WAIT_SECONDS", 0.1)
    head = lake.catalog.load_table("warehouse.daily_prices").metadata.current_snapshot_id
    with file_lock(lake.folders.root, "run 42", timeout=1.0):
        fails(dp("rollback", "daily_prices", str(head)), "run 42", "wait for that run")


# ---- the program ----


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("query", ["SELECT, SHOW, DESCRIBE or EXPLAIN", "stdin"]),
        ("export", ["TABLE_OR_VIEW"]),
        ("table", ["TABLE_OR_VIEW"]),
    ],
)
def test_help_says_what_the_argument_is(command: str, words: Sequence[str]) -> None:
    shown = " ".join(dp(command, "--help").stdout.split())
    assert "Example: dp" in shown
    for word in words:
        assert word in shown


def test_help_is_light_and_lists_the_commands() -> None:
    code = (
        "import sys; from dataplatform.cli import app;"
        "heavy = {'dagster', 'duckdb', 'pyarrow', 'sqlglot', 'pyiceberg', 'pyspark', 'matplotlib'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    shown = dp("--help").stdout
    assert all(command in shown for command in ("query", "export", "tables", "table", "views"))


def test_colour_is_for_terminals_only(lake: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in dp("tables").output
