"""Size of a report's page, when it can be used, and how smoothly it scrolls.

    python -m benchmarks.microscope      # prints JSON lines; needs playwright, Chromium

A group is 16 completions of 10,240 tokens, made by the method's formulas (as the tests
have them); the page holds five steps of one group each. Without a GPU Chromium paints
on the processor, so frames depend on what else runs there: `load` is the average of the
last minute, plain text is scrolled beside for comparison, and `main_thread_ms`, the
processor time of a frame, hardly depends on it.
"""

import argparse
import datetime
import itertools
import json
import os
import pathlib
import statistics
import tempfile
import time

from benchmarks import report as lines
from hapo_jax.microscope import block, report
from tests.microscope import browser as browser_lib
from tests.microscope import made

COMPLETIONS, TOKENS, STEPS = 16, 10_240, (10, 20, 30, 40, 50)
GROUP = "page=group&step=10&group=0"
FRAMES = 600
WINDOW = {"width": 1280, "height": 900}
PIXELS = 137  # between two frames: five and a half lines
_PLAIN = "what a browser does with plain text, for comparison: words and words again\n"
_SCROLL = """([frames, pixels]) => new Promise((done) => {
  const strip = document.querySelector(".strip") ?? document.scrollingElement;
  const times = [];
  const next = (time) => {
    times.push(time);
    strip.scrollTop += pixels;
    if (times.length <= frames) requestAnimationFrame(next); else done(times);
  };
  requestAnimationFrame(next);
})"""


def main() -> None:
    """Measures and prints a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if why := browser_lib.missing():
        parser.error(why)
    with tempfile.TemporaryDirectory() as folder:
        steps = {step: group(step) for step in STEPS}
        size = len(block.of_records(steps[STEPS[0]]))
        tell(
            "group",
            mb=size / 1e6,
            goal_mb=4,
            bytes_per_token=size / COMPLETIONS / TOKENS,
        )
        run = made.run(pathlib.Path(folder) / "run", steps)
        began = time.monotonic()
        found = report.microscope(run, tokens=COMPLETIONS * TOKENS * len(STEPS))
        seconds = time.monotonic() - began
        path = found.save(pathlib.Path(folder) / "report.html")
        tell("page", mb=path.stat().st_size / 1e6, made_s=seconds)
        with browser_lib.chromium() as browser:
            of_page(browser, path, args.repeats)


def group(seed: int) -> list[dict]:
    """The records of a long group."""
    return [
        made.record(TOKENS, seed=1000 * seed + i, score=float(i % 2))
        for i in range(COMPLETIONS)
    ]


def of_page(browser, path: pathlib.Path, repeats: int) -> None:
    """Prints when the page can be used, how it scrolls and how it answers."""
    for name, hash_, there in (
        ("usable, first page", "", ".chart canvas"),
        ("usable, tokens", GROUP, ".strip .token"),
    ):
        seconds = []
        for _ in range(repeats):
            page = visit(browser, path, hash_, there)
            seconds.append(page.evaluate("performance.now()") / 1000)
            page.close()
        tell(name, seconds=lines.spread(seconds), goal_s=2)
    page = browser.new_page(viewport=WINDOW)
    page.set_content(f"<pre>{_PLAIN * 20_000}</pre>")
    gaps = frames(page)
    tell(
        "scroll, plain text", frames_per_s=1000 / statistics.median(gaps), **late(gaps)
    )
    page.close()
    page = visit(browser, path, GROUP, ".strip .token")
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
    before = busy(devtools)
    gaps = frames(page)
    used = busy(devtools) - before
    tell(
        "scroll, tokens",
        frames_per_s=1000 / statistics.median(gaps),
        goal_frames_per_s=60,
        **late(gaps),
        main_thread_ms=1000 * used / FRAMES,
        elements=page.evaluate("document.querySelectorAll('*').length"),
    )
    began = time.monotonic()
    page.get_by_label("colour by").select_option("loss")
    tell("another colour", seconds=time.monotonic() - began)
    began = time.monotonic()
    page.locator("#search").fill("therefore")
    page.keyboard.press("Enter")
    page.wait_for_selector(".token.match")
    tell("search of a group", seconds=time.monotonic() - began)
    began = time.monotonic()
    page = visit(browser, path, "page=extreme&by=loss&scope=run", "tbody tr")
    tell("extremes of all tokens", seconds=time.monotonic() - began)
    tell(
        "machine",
        processor=lines.processor(),
        cores=len(os.sched_getaffinity(0)),
        load=os.getloadavg()[0],
        chromium=browser.version,
        date=datetime.date.today().isoformat(),
    )


def visit(browser, path: pathlib.Path, hash_: str, there: str):
    """The page, once an element is there."""
    page = browser.new_page(viewport=WINDOW)
    page.goto(f"file://{path}#{hash_}")
    page.wait_for_selector(there)
    return page


def frames(page) -> list[float]:
    """Milliseconds between frames while the page scrolls, ascending."""
    times = page.evaluate(_SCROLL, [FRAMES, PIXELS])
    return sorted(b - a for a, b in itertools.pairwise(times))


def late(gaps: list[float]) -> dict[str, float]:
    """How far frames are from even: `gaps` ascending, in milliseconds."""
    return {
        "mean_frames_per_s": 1000 / statistics.mean(gaps),
        "p95_ms": gaps[int(0.95 * len(gaps))],
    }


def busy(devtools) -> float:
    """Seconds of processor time that the page's main thread has used."""
    found = devtools.send("Performance.getMetrics")["metrics"]
    return next(m["value"] for m in found if m["name"] == "TaskDuration")


def tell(what: str, **figures) -> None:
    """Prints a line."""
    rounded = {
        k: lines.rounded(v) if isinstance(v, float) else v for k, v in figures.items()
    }
    print(json.dumps({"what": what, **rounded}), flush=True)


if __name__ == "__main__":
    main()
