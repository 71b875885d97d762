"""The report's page in a real browser: hostile text, long groups, looks, access."""

import pathlib
import re
import subprocess
import sys

import pytest

from hapo_jax.microscope import report, runs
from tests.microscope import browser as browser_lib
from tests.microscope import made
from tests.microscope.browser import token

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(browser_lib.missing()), reason=browser_lib.missing()),
]

HOSTILE = [
    "</script><script>window.ran = 1</script>",
    "<img src=x onerror='window.ran = 1'>",
    "\u202eright to left\u202c",
    "\u05e9\u05dc\u05d5\u05dd",
    "a\0b",
    "\ud800",
    "\udc00x",
    "\u200b",
    "Z" * 1_000_000,
    "&lt;b&gt;",
    "e" + "\u0301" * 50,
    "\n",
]


TOKENS = "page=group&run=0&step=4&group=0"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    name = "<b>bold<b>"
    run = made.run(folder / name, {2: made.groups()})
    row = made.record(len(HOSTILE), strings=HOSTILE, problem=HOSTILE[0])
    row["prompt"] = "".join(HOSTILE)
    row["completion"] = "".join(HOSTILE) + "!"
    with pytest.MonkeyPatch.context() as patch:
        # Parquet holds no halves of characters; what made them other than it might.
        patch.setattr(runs.records, "read_rollouts", lambda *_: [row])
        patch.setattr(runs.records, "rollout_sizes", lambda *_: [(0, len(HOSTILE))])
        return report.microscope(run).save(folder / "report.html")


@pytest.mark.parametrize(
    "view", ["overview", "steps", "step", "group", "extreme", "dual", "compare"]
)
def test_hostile_text_is_text(hostile, open_page, view):
    page = open_page(hostile, f"page={view}&step=2&group=0&completion=0&token=0")
    assert page.evaluate("window.ran") is None
    assert page.locator("main img, main script, main b, header b").count() == 0
    assert "<b>bold<b>" in page.title()


def test_hostile_tokens_are_seen(hostile, open_page):
    page = open_page(hostile, "page=group&step=2&group=0")
    shown = [token(page, i).inner_text() for i in range(len(HOSTILE))]
    assert shown[0] == HOSTILE[0].replace(" ", "·")
    assert shown[2] == "⟨202E⟩right·to·left⟨202C⟩"
    assert shown[3] == HOSTILE[3]
    assert shown[4] == "a␀b"
    assert shown[5] == "⟨D800⟩" and shown[6] == "⟨DC00⟩x" and shown[7] == "⟨200B⟩"
    assert shown[8] == "Z" * 60 + "…"
    assert shown[9] == "&lt;b&gt;" and shown[11] == "↵"
    wide = page.locator(".strip").bounding_box()["width"]
    for i in range(len(HOSTILE)):
        assert token(page, i).bounding_box()["width"] <= wide
    token(page, 8).click()
    assert "all 1,000,000 characters" in page.locator("aside.details").inner_text()
    page.get_by_role("button", name="as text").click()
    assert page.locator("dialog.reader").is_visible()
    assert page.evaluate("window.ran") is None


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    rows = [made.record(5000, seed=i, score=float(i % 2)) for i in range(8)]
    run = made.run(folder / "long", {2: rows})
    return report.microscope(run).save(folder / "report.html")


def test_only_what_is_visible_exists(long, open_page):
    page = open_page(long, "page=group&step=2&group=0")
    strip = page.locator(".strip")
    height = strip.evaluate("e => e.scrollHeight")
    assert height > 20_000
    for share in (0, 0.5, 1):
        strip.evaluate("(e, y) => { e.scrollTop = y; }", share * height)
        page.wait_for_timeout(100)
        assert 50 < page.locator(".strip .token").count() < 3000
        box = strip.bounding_box()
        assert page.evaluate(
            "([x, y]) => document.elementsFromPoint(x, y).some("
            "(e) => e.matches('.strip-line, .strip-head, .token'))",
            [box["x"] + 40, box["y"] + box["height"] / 2],
        )
    page.keyboard.press("j")
    page.keyboard.press("ArrowLeft")
    assert page.locator(".token.selected").is_visible()


def test_the_width_decides_where_lines_break(long, open_page):
    page = open_page(long, "page=group&step=2&group=0&completion=3&token=2000")
    for width in (1280, 700, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(200)
        right = page.locator(".strip").bounding_box()
        boxes = page.locator(".strip .token").evaluate_all(
            "all => all.map(e => e.getBoundingClientRect().right)"
        )
        assert max(boxes) <= right["x"] + right["width"]


def test_light_and_dark(path, open_page):
    page = open_page(path, TOKENS, theme="dark")
    dark = page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")
    shade = token(page, 0).evaluate("e => e.style.background")
    page.get_by_role("button", name="light or dark").click()
    light = page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", light))) > sum(
        map(int, re.findall(r"\d+", dark))
    )
    assert token(page, 0).evaluate("e => e.style.background") != shade


@pytest.mark.parametrize("view", ["overview", "steps", "step", "group", "compare"])
def test_a_narrow_page_does_not_scroll_sideways(both, open_page, view):
    page = open_page(both, f"page={view}&step=4&group=0", width=390, height=844)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_notebook_shows_it_in_a_frame(path, browser):
    found = report.Microscope(html=path.read_text(), words=())
    page = browser.new_page()
    page.set_content(f"<!doctype html><body>{found._repr_html_()}</body>")
    frame = page.frame_locator("iframe")
    frame.locator("#tabs button", has_text="Tokens").click()
    frame.locator(".strip .token").first.wait_for()
    page.close()


def test_the_picture_of_the_docs_can_be_made(tmp_path, rows):
    run = made.run(tmp_path / "run", rows)
    script = [sys.executable, "docs/microscope_picture.py", run, tmp_path / "made.png"]
    subprocess.run(script, check=True, cwd=ROOT, timeout=120)
    assert (tmp_path / "made.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(
    not browser_lib.axe(), reason=f"{browser_lib.AXE} names no axe-core"
)
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    "view", ["overview", "steps", "step", "group", "extreme", "dual", "compare"]
)
def test_axe_finds_no_serious_fault(both, open_page, view, theme):
    hash_ = f"page={view}&step=4&group=0&completion=0&token=3&colour=advantages"
    page = open_page(both, hash_, theme=theme)
    page.wait_for_timeout(200)
    page.evaluate(browser_lib.axe().read_text())
    found = page.evaluate("async () => (await axe.run()).violations")
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    assert not serious, [
        (v["id"], v["help"], [n["html"][:200] for n in v["nodes"][:3]]) for v in serious
    ]
