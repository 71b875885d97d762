"""The system's Chromium, for tests and measurements of the report's page."""

import contextlib
import os
import pathlib
import shutil

# It opens no other page and asks nobody.
ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
NAMES = ("chromium", "chromium-browser", "google-chrome")
READY = "#main:not([aria-busy]) .view"
AXE = "HAPO_AXE"  # environment variable: axe.min.js of the npm package axe-core


def missing() -> str:
    """Why there is no browser here; empty if there is one."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "needs playwright (pip install 'hapo_jax[browser]')"
    if not executable():
        return f"needs a Chromium: none of {', '.join(NAMES)} is on the path"
    return ""


def executable() -> str | None:
    """The system's Chromium."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def axe() -> pathlib.Path | None:
    """axe-core's script, where somebody has said where it is."""
    path = os.environ.get(AXE)
    return pathlib.Path(path) if path else None


@contextlib.contextmanager
def chromium():
    """A browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable(), args=ARGUMENTS
        )
        yield browser
        browser.close()


def token(page, i):
    """The i-th token of the step's records, where it is visible."""
    return page.locator(f"#token-{i}")
