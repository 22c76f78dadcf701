"""What the tests of web pages share: a window, pictures, and the answer that they wait for."""

import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from dataplatform.lake.dialect import QueryError
from dataplatform.lake.place import LakePlace

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


@contextmanager
def window() -> Generator[Page]:
    """Open a window of headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=[*_FLAGS])
        page = browser.new_page(viewport={"width": 1680, "height": 900})
        page.set_default_timeout(_PATIENCE_MS)
        yield page
        browser.close()


def shoot(page: Page, name: str) -> None:
    """Keep a picture for the documentation, where the caller asks for pictures."""
    folder = os.environ.get("DATAPLATFORM_SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def price_of(lake: LakePlace, coin: str, timeout: float) -> float | None:
    """Wait until the view of latest prices knows a coin; returns its price, None if it never does."""
    query = f"SELECT price_usd FROM analytics.latest_prices WHERE coin_id = '{coin}'"  # noqa: S608
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            rows = lake.engine().query(query).rows
        except QueryError:  # Not deployed yet.
            rows = []
        if rows:
            return rows[0][0]
        time.sleep(5)
    return None
