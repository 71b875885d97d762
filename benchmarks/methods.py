"""Every method on Countdown at equal sampled tokens, with intervals over seeds.

    python -m benchmarks.methods --workdir=runs/methods            # all, 3 seeds
    python -m benchmarks.methods --workdir=runs/methods --only=hapo,dapo --seeds=5
    python -m benchmarks.methods --workdir=runs/methods --table

Each run is hapo-train on `configs/countdown.py` in a folder of its own, until it has
sampled as many tokens as the budget says: tokens of completions that are not trained
on, baselines and second rollouts included. Finished runs are not run again, and one
that was cut off goes on from its last checkpoint. The same seed gives every method the
same problems in the same order, so methods are compared seed by seed.
"""

import argparse
import math
import pathlib
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import scipy.stats

from hapo_jax.algo import methods
from hapo_jax.runs import records

BASELINE = "dapo"
METRIC = "eval/avg@8"
# The demo's 150 steps of HAPO come to about this much.
TOKENS = 2_000_000
# Beside the methods as they are: ratios of the distribution that was drawn from, where
# it is another one than the policy at the base temperature.
SAMPLED = {"hapo, ratio of sampled": ("hapo", ("--config.algo.ratio_of=sampled",))}


class Result(NamedTuple):
    """A finished run.

    Attributes:
      before, after: METRIC of the first and the last evaluation.
      sampled, trained: tokens.
      updates: of the optimizer.
      seconds: of all steps; evaluations are left out.
    """

    before: float
    after: float
    sampled: float
    trained: float
    updates: float
    seconds: float


class Row(NamedTuple):
    """A line of the table: means over seeds, and half widths of 95 % intervals."""

    name: str
    after: float
    after_half: float
    gain: float
    gain_half: float
    costs: Result
    num_seeds: int


def variants() -> dict[str, tuple[str, tuple[str, ...]]]:
    """{name: (method, further flags)}; supervised ones have no rollout.

    What a user has to give a method is what the tests give it.
    """
    given = {
        name: tuple(f"--config.{key}={value}" for key, value in row.given.items())
        for name, row in methods.METHODS.items()
    }
    return {name: (name, flags) for name, flags in given.items()} | SAMPLED


def command(
    folder: pathlib.Path, method: str, flags: Iterable[str], seed: int, tokens: int
) -> list[str]:
    """The run's command; it resumes what it finds."""
    return [
        *(sys.executable, "-m", "hapo_jax.train"),
        f"--config=configs/countdown.py:method={method},seed={seed}",
        f"--workdir={folder}",
        f"--config.max_sampled_tokens={tokens}",
        "--config.num_steps=100000",  # the budget ends the run
        "--config.learner.schedule=constant",
        "--config.eval.every_steps=0",
        "--config.checkpoint.export_hf=False",
        *flags,
    ]


def result(folder: pathlib.Path, tokens: int) -> Result | None:
    """What a run gave; None if it is not at its end."""
    if not (folder / "metrics.jsonl").exists():
        return None
    lines = records.read_metrics(folder)
    spent = [line for line in lines if "ledger/total_sampled_tokens" in line]
    evaluated = [line for line in lines if METRIC in line]
    if len(evaluated) < 2 or not spent:
        return None
    last = spent[-1]
    if (
        last["ledger/total_sampled_tokens"] < tokens
        or evaluated[-1]["step"] < last["step"]
    ):
        return None
    return Result(
        before=evaluated[0][METRIC],
        after=evaluated[-1][METRIC],
        sampled=last["ledger/total_sampled_tokens"],
        trained=last["ledger/total_trained_tokens"],
        updates=last["ledger/total_updates"],
        seconds=last["time/total"],
    )


def half_width(values: np.ndarray) -> float:
    """Of the 95 % interval of a mean by Student's t; NaN for a single value."""
    n = len(values)
    if n < 2:
        return math.nan
    return scipy.stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n)


def rows(found: Mapping[str, Mapping[int, Result]]) -> Iterator[Row]:
    """Lines of the table, the best first.

    Args:
      found: results by variant and seed.
    """
    made = []
    for name, by_seed in found.items():
        if not by_seed:
            continue
        after = np.array([by_seed[seed].after for seed in by_seed])
        shared = sorted(by_seed.keys() & found[BASELINE].keys())
        gains = np.array(
            [by_seed[s].after - found[BASELINE][s].after for s in shared] or [math.nan]
        )
        costs = {
            field: np.mean([getattr(r, field) for r in by_seed.values()])
            for field in Result._fields
        }
        made.append(
            Row(
                name=name,
                after=after.mean(),
                after_half=half_width(after),
                gain=gains.mean(),
                gain_half=half_width(gains),
                costs=Result(**costs),
                num_seeds=len(by_seed),
            )
        )
    return iter(sorted(made, key=lambda row: -row.after))


def verdict(row: Row) -> str:
    """The comparison with the baseline in words."""
    if row.name == BASELINE:
        return "the baseline"
    if not math.isfinite(row.gain_half):
        return "one seed: no interval"
    if abs(row.gain) <= row.gain_half:
        return "within noise"
    return "better" if row.gain > 0 else "worse"


def page(found: Mapping[str, Mapping[int, Result]], tokens: int) -> str:
    """The table as Markdown."""
    missing = [name for name, by_seed in found.items() if not by_seed]
    lines = [
        "# Every method on Countdown",
        "",
        "Made by `python -m benchmarks.methods --workdir=runs/methods --table`, from "
        "the runs of\nthe same command without `--table`, which goes on where it was "
        "stopped.",
        "",
        f"`configs/countdown.py` until a run has sampled {tokens:,} tokens, with a "
        "constant learning rate.\n`avg@8` is that of the last evaluation; ± is half of "
        f"the 95 % interval over seeds (Student's t).\nThe difference to `{BASELINE}` "
        "is taken seed by seed. A toy: it says that a method runs and\nlearns, and "
        "not how methods rank on real work. With this many comparisons one or two\n"
        "are expected outside the noise by chance.",
        "",
        "| method | seeds | avg@8 | ± | against dapo | ± | | sampled | trained "
        "| updates | minutes |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows(found):
        c = row.costs
        lines.append(
            f"| {row.name} | {row.num_seeds} | {row.after:.3f} "
            f"| {row.after_half:.3f} | {row.gain:+.3f} | {row.gain_half:.3f} "
            f"| {verdict(row)} | {c.sampled:,.0f} | {c.trained:,.0f} "
            f"| {c.updates:.0f} | {c.seconds / 60:.1f} |"
        )
    if missing:
        lines += ["", f"Not run yet: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Runs what is missing, or prints the table of what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--only", default="", help="names, joined by commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--table", action="store_true", help="print it, and end")
    options = parser.parse_args(arguments)
    chosen = variants()
    if options.only:
        names = options.only.split(",")
        if unknown := [n for n in names if n not in chosen]:
            parser.error(f"--only names {unknown[0]}; there are {', '.join(chosen)}")
        chosen = {name: chosen[name] for name in names}

    def folder(name: str, seed: int) -> pathlib.Path:
        return options.workdir / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}"

    seeds = range(options.seeds)
    if options.table:
        found = {
            name: {
                seed: r
                for seed in seeds
                if (r := result(folder(name, seed), options.tokens))
            }
            for name in chosen
        }
        print(page({BASELINE: {}} | found, options.tokens), end="")
        return
    # Seed by seed, so that there is a whole table early.
    for seed in seeds:
        for name, (method, flags) in chosen.items():
            at = folder(name, seed)
            if result(at, options.tokens):
                continue
            print(f"{name}, seed {seed}", flush=True)
            at.parent.mkdir(parents=True, exist_ok=True)
            with open(f"{at}.log", "ab") as log:
                done = subprocess.run(
                    command(at, method, flags, seed, options.tokens),
                    stdout=log,
                    stderr=log,
                    check=False,
                )
            if done.returncode:
                print(f"  ended with {done.returncode}; see {at}.log", flush=True)


if __name__ == "__main__":
    main()
