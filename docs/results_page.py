"""Remakes tables of docs/results.md from sweeps: `python -m docs.results_page runs`.

A sweep of `configs/forks.py` or `configs/countdown.py` that lies in the given folder
under its name is compared, and what comes out is written to `docs/results/NAME`. Then
the page's tables are filled in from there; without a folder nothing else is done. A
test holds the page to them.
"""

import pathlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from examples import find_forks
from hapo_jax.analysis import frames, tables, words
from hapo_jax.comparison import compare, intervals, page, program, runs
from hapo_jax.comparison.intervals import Estimate
from hapo_jax.runs import records as records_lib
from hapo_jax.sweeps import sweep_folder
from hapo_jax.tasks import forks

HERE = pathlib.Path(__file__).parent
PAGE, TABLES = HERE / "results.md", HERE / "results"
METRIC = "eval/avg@8"
# Sweeps of one task, each compared as a whole, and its baseline.
WHOLE = {
    "learning_rate": "dapo_0.0004",
    "ablation": "dapo",
    "sensitivity": "hapo",
    "methods": "dapo",
}
_BLOCK = re.compile(r"(<!-- (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(text: str) -> str:
    """The page with each block `<!-- FILE --> … <!-- end -->` as the file has it."""
    return _BLOCK.sub(
        lambda m: f"{m[1]}{(TABLES / m[2]).read_text().rstrip()}\n{m[3]}", text
    )


def remake(folder: pathlib.Path) -> None:
    """Compares the sweeps of a folder, as far as they are run."""
    for name, baseline in WHOLE.items():
        if (folder / name).exists():
            _compare([folder / name], name, baseline)
    if (folder / "forks").exists():
        _by_share(folder / "forks")
        _observed(folder / "forks", f"hapo_{max(forks.SHARES)}")


def _compare(folders: Sequence[pathlib.Path], name: str, baseline: str) -> None:
    program.main(
        folders,
        metric=METRIC,
        over="sampled_tokens",
        baseline=baseline,
        out=str(TABLES / name),
    )


def _by_share(folder: pathlib.Path) -> None:
    """HAPO and DAPO at each share of forced words, and how the gain follows it."""
    sweep = sweep_folder.read(folder)
    gains: dict[float, dict[int, float]] = {}
    rows = [["forced", "seeds", "DAPO", "HAPO", "HAPO - DAPO", "p (Holm)", ""]]
    compared = {}
    for share in forks.SHARES:
        chosen = [
            sweep.run_folder(v) for v in sweep.variants if v.changes[":forced"] == share
        ]
        _compare(chosen, f"forks_{round(100 * share)}", "dapo")
        found = runs.read(chosen, metric=METRIC, over="sampled_tokens")
        dapo, hapo = compare.compare(found, "dapo")
        compared[share] = dapo, hapo
        by_seed = found.groups
        gains[share] = {
            seed: _final(by_seed["hapo"][seed]) - _final(by_seed["dapo"][seed])
            for seed in by_seed["dapo"].keys() & by_seed["hapo"].keys()
        }
    p = intervals.holm({s: h.gains["final"].p for s, (_, h) in compared.items()})
    for share, (dapo, hapo) in compared.items():
        rows.append(
            [
                f"{share:.0%}",
                str(hapo.gains["final"].num_seeds),
                *(_shown(e) for e in (dapo.final, hapo.final)),
                _shown(hapo.gains["final"], "+"),
                f"{p[share]:.3f}",
                "within noise" if p[share] >= compare.SIGNIFICANT else "",
            ]
        )
    slope = slopes(gains)
    told = (
        f"\nFrom no forced words to {max(gains):.0%} the gain changes by "
        f"{_shown(slope, '+')} points per 25 points of forced words (a line through "
        f"each seed's gains; p = {slope.p:.3f}, {slope.num_seeds} seeds).\n"
    )
    all_shares = pooled(gains)
    told += (
        f"\nOver all shares together HAPO - DAPO is {_shown(all_shares, '+')} points "
        f"(each seed's mean over the shares; p = {all_shares.p:.3f}, "
        f"{all_shares.num_seeds} seeds).\n"
    )
    (TABLES / "forks.md").write_text(page.markdown(rows) + told)


def _observed(folder: pathlib.Path, group: str) -> None:
    """What was recorded of the tokens of one variant, all seeds together."""
    sweep = sweep_folder.read(folder)
    chosen = [sweep.run_folder(v) for v in sweep.variants if v.group == group]
    chosen = [path for path in chosen if sweep_folder.progress(path).finished]
    lines = [
        ["what", "numbers"],
        *_regime(frames.steps(chosen)),
        *_of_tokens(chosen),
        *_forks_found(chosen),
    ]
    (TABLES / "observed.md").write_text(page.markdown(lines))


def _regime(steps: pd.DataFrame) -> Iterator[list[str]]:
    """Least, mean and largest value of a step, from the second on."""
    steps = steps[steps.step > 1]
    for name, key, scale, unit in (
        ("lowest temperature of a step", "temperature/min", 1, ""),
        ("highest temperature of a step", "temperature/max", 1, ""),
        ("clipped below", "clip/frac_low", 100, " %"),
        ("clipped above", "clip/frac_high", 100, " %"),
        ("ratio off by more than 10 %", "ratio/frac_off_10pct", 100, " %"),
        ("advantages reshaped", "advantages/frac_reshaped", 100, " %"),
        ("clip range, low", "clip/width_low", 1, ""),
        ("clip range, high", "clip/width_high", 1, ""),
    ):
        values = scale * steps[key].dropna()
        least, mean, most = values.min(), values.mean(), values.max()
        shown = f"{mean:.2f}{unit} ({least:.2f} to {most:.2f})"
        yield [f"{name}, mean (least to largest)", shown]


def _of_tokens(chosen: Sequence[pathlib.Path]) -> Iterator[list[str]]:
    tokens = frames.tokens(chosen)
    for step, of in tokens.groupby("step"):
        quantiles = of["entropy"].quantile([0.5, 0.8, 0.9, 0.99])
        shown = ", ".join(f"{x:.3f}" for x in quantiles)
        name = f"entropy at step {step}, nats: quantiles 50, 80, 90, 99 %"
        yield [name, shown]
    table = words.by_string(tokens)
    shares = table.loc[table["dual"], "share_uncertain"]
    yield [
        "words on both sides of the entropy's quantile (dual entropy)",
        f"{len(shares)} of {len(table)} frequent ones; uncertain in "
        f"{shares.min():.0%} to {shares.max():.0%} of their places",
    ]
    clips = tables.clips(tokens).set_index(["side", "kind"])
    for side in ("low", "high"):
        of_side = clips.loc[(side, "uncertain"), "of_side"]
        count = clips.loc[(side, "all"), "clipped"]
        yield [f"of {count:.0f} tokens clipped {side}, uncertain", f"{of_side:.0%}"]
    ratios = tables.ratios(tokens)
    for sign, name in ((1, "positive"), (-1, "negative")):
        of = ratios[ratios["sign"] == sign]
        yield [
            f"outside the neutral zone, {name} advantage: least to most uncertain "
            "tenth",
            ", ".join(f"{x:.1%}" for x in of.sort_values("entropy")["outside"]),
        ]
    balance = tables.advantage_balance(frames.completions(chosen))
    for kind, of in balance.groupby("normalisation"):
        low, high = of["balance"].min(), of["balance"].max()
        yield [
            f"positive over negative advantages, normalised per {kind}, by seed",
            f"{low:.3f} to {high:.3f}",
        ]


def _forks_found(chosen: Sequence[pathlib.Path]) -> Iterator[list[str]]:
    """How well entropy tells choices from forced tokens, step by step."""
    found: dict[int, list] = {}
    for path in chosen:
        options = records_lib.read_config(path)["task"]["train"]
        answers = {p.id: p.answer for p in forks.problems(**options)}
        for step in records_lib.rollout_steps(path):
            rows = records_lib.read_rollouts(path, step)
            found.setdefault(step, []).append(find_forks.found(rows, answers))
    for step, seeds in sorted(found.items()):
        if len(seeds) == len(chosen):  # runs end at different steps
            above, choice, forced = np.mean(seeds, axis=0)
            yield [
                f"a choice is more uncertain than a forced token, step {step}",
                f"{above:.1%} (mean entropies {choice:.3f} and {forced:.3f} nats)",
            ]


def slopes(gains: Mapping[float, Mapping[int, float]]) -> Estimate:
    """How a gain follows the share: of each seed the slope of the line of least squares
    per 0.25, and their mean with its interval over seeds."""
    shares, values = np.array([*gains]), _by_seed(gains)
    along = (shares - shares.mean()) / 0.25
    each = (values @ along) / (along @ along)
    return intervals.two_way(each[:, None])


def pooled(gains: Mapping[float, Mapping[int, float]]) -> Estimate:
    """A gain over all shares: of each seed their mean, with its interval over seeds."""
    return intervals.two_way(_by_seed(gains).mean(1, keepdims=True))


def _by_seed(gains: Mapping[float, Mapping[int, float]]) -> np.ndarray:
    """[seeds, shares], of the seeds that all shares have."""
    seeds = sorted(set.intersection(*(set(of) for of in gains.values())))
    return np.array([[of[seed] for of in gains.values()] for seed in seeds])


def _final(run: runs.Run) -> float:
    return float(compare.measure(run.curve, "final").mean())


def _shown(found: Estimate, sign: str = "") -> str:
    low, high = (f"{100 * x:{sign}.1f}" for x in (found.low, found.high))
    return f"{100 * found.mean:{sign}.1f} [{low}, {high}]"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        remake(pathlib.Path(sys.argv[1]))
    PAGE.write_text(fill(PAGE.read_text()))
