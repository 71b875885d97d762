"""What the tests of the page share: a browser, and pages of made runs."""

import pytest

from hapo_jax.microscope import report
from tests.microscope import browser as browser_lib
from tests.microscope import made


@pytest.fixture(scope="module")
def browser():
    with browser_lib.chromium() as found:
        yield found


@pytest.fixture
def open_page(browser):
    """Opens a file at a hash; a page that logs an error or asks a network fails."""
    wrong, pages = [], []

    def visit(path, hash_="", *, width=1280, height=900, theme="light"):
        page = browser.new_page(
            viewport={"width": width, "height": height}, color_scheme=theme
        )
        pages.append(page)
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda m: m.type == "error" and wrong.append(m.text))
        page.on(
            "request",
            lambda r: (
                r.url.startswith(("file:", "data:", "blob:")) or wrong.append(r.url)
            ),
        )
        page.goto(f"file://{path}#{hash_}")
        page.wait_for_selector(browser_lib.READY)
        return page

    yield visit
    for page in pages:
        page.close()
    assert not wrong


@pytest.fixture(scope="module")
def rows():
    """{step: records}; one completion is truncated and one has masked tokens."""
    found = {2: made.groups(), 4: made.groups(seed=7)}
    found[4][1]["truncated"] = True
    found[4][2]["counted"][:3] = False
    return found


@pytest.fixture(scope="module")
def path(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("report")
    alarm = {"step": 3, "alarm/no_signal": 1.0}
    run = made.run(folder / "hapo", rows, metrics=[alarm])
    return report.microscope(run).save(folder / "report.html")


@pytest.fixture(scope="module")
def both(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("both")
    hapo = made.run(folder / "hapo", rows)
    dapo = made.run(folder / "dapo", {4: made.groups(seed=3)}, method="dapo")
    return report.microscope(hapo, dapo).save(folder / "both.html")
