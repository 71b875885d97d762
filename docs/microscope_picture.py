"""Makes docs/microscope.png from a run: `python docs/microscope_picture.py runs/demo`.

Needs playwright and the system's Chromium. The picture shows the first group of the
step in the middle of the run, with its most uncertain token selected.
"""

import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for tests/, where the browser is started

from hapo_jax.microscope import report  # noqa: E402
from hapo_jax.runs import records  # noqa: E402
from tests.microscope import browser as browser_lib  # noqa: E402

SIZE = {"width": 1120, "height": 720}


def make(workdir: str, out: pathlib.Path) -> None:
    """Writes the picture of a run, PNG."""
    steps = records.rollout_steps(workdir)
    step = steps[len(steps) // 2]
    first, *_ = rows = records.read_rollouts(workdir, step)
    group = [row for row in rows if row["group"] == first["group"]]
    c = max(range(len(group)), key=lambda i: group[i]["entropy"].max())
    token = int(group[c]["entropy"].argmax())
    place = f"run=0&step={step}&group={first['group']}&completion={c}&token={token}"
    with tempfile.TemporaryDirectory() as folder:
        path = report.microscope(workdir, steps=[step]).save(f"{folder}/report.html")
        with browser_lib.chromium() as browser:
            page = browser.new_page(viewport=SIZE, color_scheme="light")
            page.goto(f"file://{path}#page=group&{place}&colour=advantages")
            page.wait_for_selector(".token.selected")
            page.screenshot(path=out)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__.split("\n\n")[0])
    _, workdir, *given = sys.argv
    make(workdir, pathlib.Path(*given) if given else ROOT / "docs/microscope.png")
