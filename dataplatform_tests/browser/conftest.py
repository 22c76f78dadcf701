"""One window for the tests of a module."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from dataplatform_tests.browser.window import window


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A window of headless Chromium."""
    with window() as opened:
        yield opened
