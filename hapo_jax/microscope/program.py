"""The program `hapo-report`: runs in a browser, down to each token.

    hapo-report runs/demo                            # writes report.html
    hapo-report runs/hapo runs/dapo --out=both.html  # two runs, to be compared
    hapo-report runs/demo --steps=1,75,150           # the tokens of these steps
    hapo-report runs/demo --export=tokens.jsonl      # tokens for other viewers

The page is one file without network, for a browser of 2023 or later. It reads the
records in the runs' `rollouts/`: `log.record_every_steps` and `log.record_groups` say
how many a run writes.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from hapo_jax import cli
from hapo_jax.microscope import export as export_lib
from hapo_jax.microscope import report, thinning
from hapo_jax.system.errors import Refused


def main(
    paths: Sequence[str],
    *,
    out: str = "report.html",
    export: str | None = None,
    tokens: int = thinning.TOKENS,
    steps: Sequence[int] | None = None,
) -> None:
    """The program; see `report.microscope`. With `export` it writes JSON lines there
    instead of a page, see `export.py`."""
    for name, value in (("out", out), ("export", export)):
        if value and pathlib.Path(value).is_dir():
            raise Refused(f"--{name}={value} is a folder; name a file.")
    if export:
        if not paths:
            raise Refused("give folders of runs: hapo-report runs/demo --export=FILE")
        count = export_lib.write(paths, export, steps)
        print(f"written: {export}, {count:,} completions")
        return
    found = report.microscope(*paths, tokens=tokens, steps=steps)
    path = found.save(out)
    print("\n".join(found.words), end="\n" if found.words else "")
    print(f"written: {path}, {path.stat().st_size / 1e6:.1f} MB; open it in a browser")


def run() -> None:
    """The program `hapo-report`."""
    # hapo-eval has a flag of this name too, and one process may run both.
    out = flags.DEFINE_string("out", "report.html", "The page.", allow_override=True)
    export = flags.DEFINE_string(
        "export", None, "Write records of tokens as JSON lines there, and no page."
    )
    tokens = flags.DEFINE_integer(
        "tokens", thinning.TOKENS, "Most tokens on the page; longer runs are thinned."
    )
    steps = flags.DEFINE_list("steps", None, "Steps whose tokens are wanted.")

    def body(paths):
        wanted = None if steps.value is None else [*map(_step, steps.value)]
        main(
            paths, out=out.value, export=export.value, tokens=tokens.value, steps=wanted
        )

    cli.start(body)


def _step(text: str) -> int:
    if not text.strip().isdecimal():
        raise Refused(f"--steps={text!r} is no step; give numbers: --steps=1,75,150.")
    return int(text)


if __name__ == "__main__":
    run()
