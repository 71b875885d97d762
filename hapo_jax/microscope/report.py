"""Reports of runs, as a file and in notebooks.

from hapo_jax.microscope import report

report.microscope("runs/demo")                      # shown by a notebook
report.microscope("runs/hapo", "runs/dapo").save("report.html")
"""

import dataclasses
import html
import pathlib
from collections.abc import Sequence

from hapo_jax.microscope import page, runs, thinning
from hapo_jax.system.errors import Refused

HEIGHT = 800  # pixels, in a notebook


@dataclasses.dataclass(frozen=True)
class Microscope:
    """A report.

    Attributes:
      html: the page, which needs no other file and no network.
      words: what was left out of it, run by run; empty if nothing was.
    """

    html: str
    words: tuple[str, ...]

    def save(self, path: str | pathlib.Path) -> pathlib.Path:
        """Writes the page; makes its folder. Returns the path."""
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.html, encoding="utf-8")
        return path

    def _repr_html_(self) -> str:
        """A frame of its own, so that the notebook's styles and ours stay apart."""
        return (
            f'<iframe title="microscope" srcdoc="{html.escape(self.html)}" '
            f'style="width:100%;height:{HEIGHT}px;border:0"></iframe>'
        )


def microscope(
    *workdirs: str | pathlib.Path,
    tokens: int = thinning.TOKENS,
    steps: Sequence[int] | None = None,
) -> Microscope:
    """The report of one run, or of several that are to be compared.

    Args:
      workdirs: folders of runs.
      tokens: how many the report may hold, shared by the runs alike.
      steps: those whose tokens it holds; None for all that were recorded.

    Raises:
      Refused: there is no run, `tokens` is below 1, or see `runs.read`.
    """
    if not workdirs:
        raise Refused("give folders of runs: hapo-report runs/demo")
    if tokens < 1:
        raise Refused(f"--tokens={tokens} must be at least 1.")
    each = tokens // len(workdirs)
    found = [runs.read(path, tokens=each, steps=steps) for path in workdirs]
    names = _different([run.summary["name"] for run in found])
    blocks = {}
    for i, run in enumerate(found):
        blocks[f"metrics-{i}"] = run.metrics
        blocks |= {f"step-{i}-{step}": data for step, data in run.steps.items()}
    summaries = [run.summary | {"name": n} for run, n in zip(found, names)]
    told = [f"{name}: {run.words}" for name, run in zip(names, found) if run.words]
    title = f"{' · '.join(names)} – microscope"
    return Microscope(page.page(title, {"runs": summaries}, blocks), tuple(told))


def _different(names: Sequence[str]) -> list[str]:
    """Names, numbered where two are alike."""
    return [
        f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]
