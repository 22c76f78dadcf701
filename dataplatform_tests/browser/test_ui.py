"""A user opens the UI, presses "Materialize all", and looks at what came out."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from dataplatform.lake.place import LocalLake
from dataplatform_tests.browser.dagster_dev import DagsterDev, dagster_dev, embedded
from dataplatform_tests.browser.window import price_of, shoot

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the lake and Dagster's home of these tests are."""
    return tmp_path_factory.mktemp("ui")


@pytest.fixture(scope="module")
def dev(folder: Path) -> Iterator[DagsterDev]:
    """One UI for the tests of this module, which follow one another as a user's steps do."""
    with dagster_dev(folder, embedded(folder)) as running:
        yield running


def test_graph_shows_the_way_of_the_data(dev: DagsterDev, page: Page) -> None:
    page.goto(f"{dev.url}/asset-groups", wait_until="domcontentloaded")
    page.get_by_text("Materialize all").first.wait_for()
    for group in ("raw", "tables", "views"):
        page.get_by_text(group, exact=True).locator("visible=true").first.wait_for()


def test_materialize_all_succeeds(dev: DagsterDev, page: Page) -> None:
    page.goto(f"{dev.url}/asset-groups", wait_until="domcontentloaded")
    page.get_by_text("Materialize all").first.click()
    page.get_by_role("button", name="Latest").click()
    page.get_by_role("button", name="Launch").last.click()
    runs = dev.wait_for_runs(timeout=600)
    assert {run["status"] for run in runs} == {"SUCCESS"}


def test_lineage_of_a_view_leads_back_to_raw_files(dev: DagsterDev, page: Page) -> None:
    lineage = "view=lineage&lineageScope=upstream&lineageDepth=5"
    page.goto(f"{dev.url}/assets/analytics/coin_performance?{lineage}")
    for asset in ("coin_performance", "coin_metrics_daily", "daily_prices", "coins_markets"):
        page.get_by_text(asset, exact=True).locator("visible=true").first.wait_for()
    page.wait_for_timeout(4000)
    shoot(page, "asset-graph")


def look_at_the_plot(page: Page) -> None:
    """Open the plot in the metadata of an asset's page."""
    row = page.locator("tr", has=page.get_by_text("plot", exact=True))
    row.get_by_text("Show Markdown").click()
    image = page.locator("img[src^='data:image/png']").first
    image.wait_for()
    assert image.evaluate("picture => picture.naturalWidth") > 300
    page.wait_for_timeout(1000)


def test_view_page_shows_columns_and_a_plot(dev: DagsterDev, page: Page) -> None:
    page.goto(f"{dev.url}/assets/analytics/volatility_ranking", wait_until="domcontentloaded")
    page.get_by_text("1: swings most").first.wait_for()
    look_at_the_plot(page)
    shoot(page, "asset-plot")


def test_table_page_shows_its_schema_checks_and_a_plot(dev: DagsterDev, page: Page) -> None:
    page.goto(f"{dev.url}/assets/warehouse/daily_prices", wait_until="domcontentloaded")
    page.get_by_text("price").first.wait_for()
    page.get_by_text("Latest check results").first.wait_for()
    look_at_the_plot(page)
    shoot(page, "table-plot")


@pytest.mark.usefixtures("dev")
def test_a_dropped_file_reaches_the_views(folder: Path) -> None:
    """The sensor on the inbox lands the file, its table takes it, the view answers with it."""
    lake = LocalLake(folder / "lake", "recorded")
    inbox = lake.datalake / "inbox"
    inbox.mkdir(parents=True, exist_ok=True)
    (inbox / "dropped.csv").write_text(
        "date,coingecko_coin_id,coin_symbol,coin_name,price_usd\n02-10-2025,dropcoin,drop,Drop,42.5\n"
    )
    assert price_of(lake, "dropcoin", timeout=300) == 42.5
