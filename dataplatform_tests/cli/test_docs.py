"""`dp docs`: the page in the repository is what the declarations say, and drift is found."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from dataplatform.cli import app
from dataplatform.cli.docs import DICTIONARY, data_dictionary
from dataplatform.cli.ui import dagster_command, runs_place
from dataplatform.lake.freshness_view import freshness_view
from dataplatform.lake.spec import Column, Inputs, TableSpec
from dataplatform.lake.view_sql import validate
from dataplatform.lake.views import parse_view, relation_schemas
from dataplatform.profiles import Settings
from dataplatform.raw import all_endpoints
from dataplatform.tables import all_specs
from dataplatform.views import declared_views

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

ROOT = Path(__file__).parents[2]


def test_the_page_in_the_repository_is_as_declared() -> None:
    result = CliRunner().invoke(app, ["docs", "--check", "-o", str(ROOT / DICTIONARY)])
    assert result.exit_code == 0, result.stderr


def test_drift_is_shown_and_mended(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(data_dictionary().replace("warehouse.coins", "warehouse.tokens", 1))
    result = CliRunner().invoke(app, ["docs", "--check", "-o", str(page)])
    assert result.exit_code == 1
    assert "warehouse.tokens" in result.stderr
    assert "Remedy: make docs." in result.stderr
    assert CliRunner().invoke(app, ["docs", "-o", str(page)]).exit_code == 0
    assert CliRunner().invoke(app, ["docs", "--check", "-o", str(page)]).exit_code == 0


def test_the_view_of_freshness_holds_a_table_of_any_shape() -> None:
    def transform(inputs: Inputs) -> "DataFrame":
        return inputs.table("coins")

    listing = TableSpec("listing", "A.", (Column("id", "string", "An id."),), ("id",), transform)
    view = parse_view("data_freshness", freshness_view([*all_specs().values(), listing]))
    validate(view, relation_schemas([*all_specs().values(), listing]))
    assert {r.name for r in view.references} == {*all_specs(), "listing"}


def test_everything_declared_has_a_heading_that_the_contents_link_to() -> None:
    page = data_dictionary()
    headings = set(re.findall(r"^### (\S+)$", page, re.MULTILINE))
    declared = {f"warehouse.{name}" for name in all_specs()}
    declared |= {f"analytics.{name}" for name in declared_views("stack")}
    declared |= {f"raw.{name}" for name in all_endpoints()}
    assert headings == declared
    assert set(re.findall(r"\(#(\S+?)\)", page)) == {name.replace(".", "") for name in headings}


def test_every_row_of_a_grid_has_as_many_cells_as_its_header() -> None:
    width = 0
    for line in data_dictionary().splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert cells in (0, width) or width == 0, line
        width = cells


def pages() -> list[Path]:
    return [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def anchors(page: Path) -> set[str]:
    """Return what a link may name within a page: its headings, as GitHub spells them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in pages():
        for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text()):
            # The lead's screenshots come by a browser test.
            if "://" in target or target.endswith(".png"):
                continue
            place = page.parent / target if target else page
            assert place.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(place), f"{page.name}: {target}#{anchor}"


def test_no_row_of_a_page_swallows_what_follows() -> None:
    for page in pages():
        for line in page.read_text().splitlines():
            assert not line.startswith("|") or line.rstrip().endswith("|"), f"{page.name}: {line}"


def test_the_ui_listens_on_this_machine_only() -> None:
    command = dagster_command(3001, "warning")
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "3001"


def test_dagsters_word_on_a_configuration_beside_its_home_is_not_shown(tmp_path: Path) -> None:
    """Dagster ends where its home is none, after that word."""
    (tmp_path / "dagster.yaml").touch()
    env = os.environ | {"DAGSTER_HOME": str(tmp_path / "none")}
    quiet = dagster_command(3001, "warning")
    for command, shown in ((quiet, False), ([quiet[0], "-m", "dagster", *quiet[3:]], True)):
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=env, cwd=tmp_path
        )
        assert done.returncode != 0
        said = done.stdout + done.stderr
        assert ("Found a dagster instance configuration value" in said) is shown
        assert ("is superseded" in said) is shown


def test_the_ui_says_where_runs_are_kept() -> None:
    home = Path("/home/of/dagster")
    assert runs_place(Settings(), home).startswith("Runs are kept in /home/of/dagster, ")
    on_servers = Settings(profile="cluster", postgres_url="postgresql://db.example.org")
    said = runs_place(on_servers, home)
    assert said.startswith("Runs are kept in PostgreSQL (postgresql://db.example.org), ")


@pytest.mark.parametrize("heavy", ["dagster", "pyspark", "duckdb", "pyarrow", "sqlglot"])
def test_help_imports_nothing_heavy(heavy: str) -> None:
    script = f"import sys, dataplatform.cli; sys.exit({heavy!r} in sys.modules)"
    started = time.monotonic()
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    # 0.9 s alone on two cores; the tests share them.
    assert time.monotonic() - started < 10
