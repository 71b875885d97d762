"""The program `hapo-compare`: variants against a baseline, with intervals.

    hapo-compare runs/sweep                        # a sweep's folder
    hapo-compare runs/dapo-* runs/hapo-* --baseline=dapo --metric=eval/pass@8
    hapo-compare runs/sweep --over=sampled_tokens --out=docs/table

Runs of one seed have met the same prompts in the same order from the same start, so
they are compared seed by seed, and problem by problem where the metric is of problems.
`--out` writes table.md, table.csv, seeds.csv and curves.png into a folder.
"""

import csv
import io
import pathlib
from collections.abc import Sequence

from absl import flags

from hapo_jax import cli
from hapo_jax.comparison import compare, page, runs
from hapo_jax.system.errors import Refused


def main(
    paths: Sequence[str],
    *,
    metric: str,
    over: str = "steps",
    by: str = "",
    baseline: str = "",
    out: str | None = None,
) -> None:
    """The program; see `runs.read` and `compare.compare`. `out` is a folder to write
    to."""
    if not paths:
        raise Refused("give folders of runs or of sweeps: hapo-compare runs/sweep")
    found = runs.read(paths, metric=metric, over=over, by=by)
    lines = compare.compare(found, baseline)
    rows, notes = page.cells(lines, found), page.notes(lines, found)
    print(page.text(rows))
    print("\n" + "\n".join(notes))
    if out:
        folder = pathlib.Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        body = page.markdown(rows) + "\n" + "\n\n".join(notes) + "\n"
        (folder / "table.md").write_text(body)
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows(rows)
        (folder / "table.csv").write_text(table.getvalue())
        (folder / "seeds.csv").write_text(page.per_seed_csv(found))
        page.draw(lines, found, folder / "curves.png")
        print(f"written: {folder}/table.md, table.csv, seeds.csv, curves.png")


def run() -> None:
    """The program `hapo-compare`."""
    holders = dict(
        metric=flags.DEFINE_string("metric", "eval/avg@8", "Of metrics.jsonl."),
        over=flags.DEFINE_enum(
            "over", "steps", [*runs.AXES], "The axis of area and curves."
        ),
        by=flags.DEFINE_string(
            "by", "", "Setting that makes a variant; default: a sweep's, or method."
        ),
        baseline=flags.DEFINE_string(
            "baseline", "", "Variant; default: dapo, or the first."
        ),
        out=flags.DEFINE_string("out", None, "Folder for the table and the picture."),
    )
    cli.start(lambda paths: main(paths, **{k: v.value for k, v in holders.items()}))


if __name__ == "__main__":
    run()
