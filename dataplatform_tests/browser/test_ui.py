"""A user opens the UI, presses "Materialize all", and looks at what came out."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from dataplatform.lake.catalog import SqliteCatalog
from dataplatform.lake.place import LocalLake
from dataplatform.lake.query import EmbeddedEngine
from dataplatform_tests.browser.dagster_dev import DagsterDev, dagster_dev

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_PATIENCE_MS = 90_000


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterDev]:
    """One UI for the tests of this module, which follow one another as a user's steps do."""
    with dagster_dev(tmp_path_factory.mktemp("ui")) as running:
        yield running


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A window of headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=[*_FLAGS])
        window = browser.new_page(viewport={"width": 1680, "height": 900})
        window.set_default_timeout(_PATIENCE_MS)
        yield window
        browser.close()


def shoot(page: Page, name: str) -> None:
    """Keep a picture for the documentation, where the caller asks for pictures."""
    folder = os.environ.get("DATAPLATFORM_SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


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


def test_a_dropped_file_reaches_the_views(dev: DagsterDev) -> None:
    """The sensor on the inbox lands the file, its table takes it, the view answers with it."""
    inbox = dev.lake / "datalake" / "inbox"
    inbox.mkdir(parents=True, exist_ok=True)
    (inbox / "dropped.csv").write_text(
        "date,coingecko_coin_id,coin_symbol,coin_name,price_usd\n02-10-2025,dropcoin,drop,Drop,42.5\n"
    )
    assert _price_of(dev, "dropcoin", timeout=300) == 42.5


def _price_of(dev: DagsterDev, coin: str, timeout: float) -> float | None:
    folders = LocalLake(dev.lake.parent, "recorded")
    query = f"SELECT price_usd FROM analytics.latest_prices WHERE coin_id = '{coin}'"  # noqa: S608
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        catalog = SqliteCatalog(folders.catalog_db, folders.warehouse).open()
        rows = EmbeddedEngine(folders, catalog).query(query).rows
        if rows:
            return rows[0][0]
        time.sleep(5)
    return None
