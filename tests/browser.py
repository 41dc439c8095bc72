"""The browser that tests look at pages with: Debian's Chromium, without a window."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import needs

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture
def chromium() -> Iterator[Any]:
    """A fresh browser of Playwright."""
    sync_api = needs.module("playwright.sync_api")
    if not CHROMIUM.exists():
        needs.refuse(f"no {CHROMIUM} on this machine; apt-get install --no-install-recommends chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()
