"""Dagster and Trino as a user of the stack sees them, and files that others put into MinIO."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from dataplatform.profiles import lake_place
from dataplatform_tests.browser.dagster_dev import DagsterDev, dagster_dev
from dataplatform_tests.browser.window import price_of, shoot, window
from dataplatform_tests.stack.fixtures import RunningStack

pytestmark = [pytest.mark.stack, pytest.mark.browser, pytest.mark.timeout(1200)]

DROPPED = """date,coingecko_coin_id,coin_symbol,coin_name,price_usd
02-10-2025,{coin},drop,Drop,{price}
"""


@pytest.fixture(scope="module")
def dev(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterDev]:
    """Dagster's UI and daemon on the stack, its runs in PostgreSQL."""
    settings = {**stack.env, "DAGSTER_HOME": str(stack.dagster_home)}
    settings["DATAPLATFORM_ORIGIN"] = "recorded"
    with dagster_dev(tmp_path_factory.mktemp("dev"), settings) as running:
        yield running


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with window() as opened:
        yield opened


def test_files_that_others_put_into_minio_reach_trinos_views(
    dev: DagsterDev, stack: RunningStack
) -> None:
    """Three at once: the sensor asks for one run, and each is landed once."""
    lake = lake_place(stack.settings, "recorded")
    coins = {f"dropcoin-{number}": 40.0 + number for number in range(3)}
    for coin, price in coins.items():
        text = DROPPED.format(coin=coin, price=price)
        lake.store.put(f"inbox/{coin}.csv", text.encode())
    assert {coin: price_of(lake, coin, timeout=600) for coin in coins} == coins
    assert {run["status"] for run in dev.wait_for_runs(600, "inbox_job")} == {"SUCCESS"}
    assert list(lake.store.list("inbox")) == []
    rows = lake.engine().query(
        "SELECT coin_id, count(*) FROM warehouse.daily_prices WHERE coin_id LIKE 'dropcoin-%'"
        " GROUP BY coin_id"
    )
    assert sorted(rows.rows) == [(coin, 1) for coin in sorted(coins)]


def test_the_run_shows_in_dagster(dev: DagsterDev, page: Page) -> None:
    run = dev.wait_for_runs(600, "inbox_job")[0]
    page.goto(f"{dev.url}/runs/{run['runId']}", wait_until="domcontentloaded")
    page.get_by_text("Success", exact=True).first.wait_for()
    page.wait_for_timeout(5000)
    shoot(page, "stack-run")


def test_trinos_page_shows_what_the_platform_asked(stack: RunningStack, page: Page) -> None:
    page.goto(f"{stack.endpoints['trino_url']}/ui/login.html", wait_until="domcontentloaded")
    page.get_by_placeholder("Username").fill("me")
    page.get_by_text("Log In").last.click()
    page.get_by_text("Cluster overview", exact=False).first.wait_for()
    page.get_by_text("Finished", exact=False).first.click()
    page.get_by_text("dataplatform").first.wait_for()
    page.wait_for_timeout(1000)
    shoot(page, "stack-trino")
