"""A real browser for tests, or a loud reason why there is none."""

import shutil
from contextlib import contextmanager

import pytest

PATIENCE = 240_000
"""Milliseconds; what is waited for mostly takes a second, but not where a machine is busy."""

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def chromium():
    """Playwright's handle on the system's own Chromium."""
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        pytest.skip(f"NO BROWSER: none of {', '.join(_PROGRAMS)} is installed; nothing is clicked")
    api = pytest.importorskip("playwright.sync_api", reason="NO PLAYWRIGHT: nothing is clicked")
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=_FLAGS, timeout=PATIENCE)
        yield browser
        browser.close()
