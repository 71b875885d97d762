"""How often the intervals of `figures.py` cover the truth, by simulation.

    python -m benchmarks.intervals                       # JSON lines, one per case
    python -m benchmarks.intervals --table FILE.jsonl    # the same as a table

A case is a population of problems, a number of problems drawn from it and a number of
completions drawn for each. A policy solves a problem with a probability of its own; a
population says how these are distributed, and thus the true mean. `width` is the
intervals' mean width over that of a normal distribution with the true variance, which
nobody knows who has drawn only one sample: it is what safety costs.
"""

import argparse
import functools
import json
import statistics
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from hapo_jax.evaluation import figures as figures_lib

PROBLEMS = (10, 30, 100, 500)
COMPLETIONS = (1, 4, 8)
MAX_TOKENS = 4096
# (generator, number of problems) → a probability per problem, or one of each policy
Rates = Callable[[np.random.Generator, int], np.ndarray]


class Population(NamedTuple):
    """Attributes:
    rates: probability that a completion is right, [n], or [2, n] of two policies.
    mean: of them (of the second less the first).
    """

    rates: Rates
    mean: float


def _beta(a: float, b: float) -> Population:
    return Population(lambda rng, n: rng.beta(a, b, n), a / (a + b))


def _mix(*parts: tuple[float, float]) -> Population:
    """(share of the problems, rate) of each part."""
    shares, rates = zip(*parts)
    mean = float(np.dot(shares, rates))
    return Population(lambda rng, n: rng.choice(rates, n, p=shares), mean)


def _flips(*parts: tuple[float, float, float]) -> Population:
    """(share of the problems, rate of the first policy, of the second)."""
    shares, first, second = map(np.array, zip(*parts))

    def rates(rng: np.random.Generator, n: int) -> np.ndarray:
        which = rng.choice(len(parts), n, p=shares)
        return np.stack([first[which], second[which]])

    return Population(rates, float(shares @ (second - first)))


def _shift(by: float) -> Population:
    def rates(rng: np.random.Generator, n: int) -> np.ndarray:
        first = 0.8 * rng.beta(1.0, 2.0, n)
        return np.stack([first, first + by])

    return Population(rates, by)


ONE = {
    "alike, 50 %": _mix((1.0, 0.5)),
    "alike, 2 %": _mix((1.0, 0.02)),
    "even": _beta(1.0, 1.0),
    "hard, as AIME": _beta(0.3, 2.7),
    "very hard": _beta(0.06, 2.94),
    "half at 0, half at 1": _mix((0.5, 0.0), (0.5, 1.0)),
    "19 of 20 at 0, one at 1": _mix((0.95, 0.0), (0.05, 1.0)),
    "49 of 50 at 1, one at 0": _mix((0.98, 1.0), (0.02, 0.0)),
    "19 of 20 at 2 %, one at 90 %": _mix((0.95, 0.02), (0.05, 0.9)),
}
TWO = {
    "no change at all": _flips((0.5, 0.0, 0.0), (0.5, 1.0, 1.0)),
    "even, no change": _shift(0.0),
    "even, 10 % better": _shift(0.1),
    "2 of 100 flip up": _flips((0.48, 0.0, 0.0), (0.5, 1.0, 1.0), (0.02, 0.0, 1.0)),
    "2 of 100 flip up, 2 down": _flips(
        (0.46, 0.0, 0.0), (0.5, 1.0, 1.0), (0.02, 0.0, 1.0), (0.02, 1.0, 0.0)
    ),
    "30 of 100 flip up, 20 down": _flips(
        (0.25, 0.0, 0.0), (0.25, 1.0, 1.0), (0.3, 0.0, 1.0), (0.2, 1.0, 0.0)
    ),
    "all flip, 2 of 3 up": _flips((2 / 3, 0.0, 1.0), (1 / 3, 1.0, 0.0)),
    "1 of 20 by 80 %, others by -2 %": _flips((0.05, 0.1, 0.9), (0.95, 0.1, 0.08)),
}
# What is simulated; the last three are paired differences of two policies.
FIGURES = ("avg@k", "pass@k", "maj@k", "length", "Δ avg@k", "Δ maj@k", "Δ length")


def main() -> None:
    """Simulates, or prints what has been simulated."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--figure", nargs="+", choices=FIGURES, default=FIGURES)
    parser.add_argument("--trials", type=int, default=2_000)
    parser.add_argument("--table", metavar="FILE")
    args = parser.parse_args()
    if args.table:
        with open(args.table, encoding="utf-8") as file:
            print(table([json.loads(line) for line in file]))
        return
    for case in cases(args.figure):
        print(json.dumps(simulate(*case, trials=args.trials)), flush=True)


def cases(figures=FIGURES) -> Iterator[tuple[str, str, int, int]]:
    """(figure, population, problems, completions) of all that there is."""
    for figure in figures:
        for population in _populations(figure):
            for problems in PROBLEMS:
                for k in COMPLETIONS:
                    yield figure, population, problems, k


def simulate(
    figure: str, population: str, problems: int, k: int, *, trials: int, seed: int = 0
) -> dict:
    """Draws sets and counts whose interval holds the true mean.

    Args:
      figure: of `FIGURES`.
      population: a key of `ONE` or `TWO`.
      problems, k: problems per set, completions per problem.
      trials: sets.
      seed: of all draws.
    """
    rng = np.random.default_rng(seed)
    draw, truth, spread = _quantity(figure, _populations(figure)[population], k)
    name = figure.removeprefix("Δ ")
    high = figures_lib.ceiling(name, MAX_TOKENS)
    low, draws = -high if figure != name else 0.0, figures_lib.draws(name, k)

    @functools.cache  # of small sets few are different
    def ends(values: bytes) -> tuple[float, float]:
        return figures_lib.interval(np.frombuffer(values), low, high, draws=draws)

    found = np.array(
        [ends(np.sort(draw(rng, problems)).tobytes()) for _ in range(trials)]
    )
    above, below = np.mean(found[:, 0] > truth), np.mean(found[:, 1] < truth)
    widths = found[:, 1] - found[:, 0]
    quantile = statistics.NormalDist().inv_cdf((1 + figures_lib.CONFIDENCE) / 2)
    normal = 2 * quantile * spread / np.sqrt(problems)
    return {
        "figure": figure,
        "population": population,
        "problems": problems,
        "k": k,
        "coverage": round(1 - above - below, 4),
        "above": round(above, 4),
        "below": round(below, 4),
        "least_width": round(float(widths.min()), 6),
        "width": round(float(widths.mean()) / normal, 3) if normal else None,
        "trials": trials,
    }


def _populations(figure: str) -> dict[str, Population]:
    return TWO if figure.startswith("Δ") else ONE


def _quantity(figure: str, population: Population, k: int):
    """How a set's values are drawn, their true mean and standard deviation."""
    make = _FIGURES[figure.removeprefix("Δ ")]

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        rates = population.rates(rng, n)
        values = make(rng, rng.binomial(k, rates), k)
        return values if rates.ndim == 1 else values[1] - values[0]

    many = draw(np.random.default_rng(1), 1_000_000)
    mean = population.mean if figure.endswith("avg@k") else float(many.mean())
    return draw, mean, float(many.std())


def _lengths(rng: np.random.Generator, right: np.ndarray, k: int) -> np.ndarray:
    """Mean tokens; long where little is solved, to the limit where nothing is."""
    lengths = rng.lognormal(6.0, 0.5, right.shape[-1]) * (2 - right / k)
    return np.where(right == 0, MAX_TOKENS, np.minimum(lengths, MAX_TOKENS))


# (generator, right completions of each problem, k) → the problem's figure
_FIGURES = {
    "avg@k": lambda rng, right, k: right / k,
    "pass@k": lambda rng, right, k: (right > 0) * 1.0,
    # One wrong answer is as frequent as all wrong ones are together.
    "maj@k": lambda rng, right, k: (np.sign(2 * right - k) + 1) / 2,
    "length": _lengths,
}


def table(results: list[dict]) -> str:
    """The lowest coverage over k, in per cent, and the range of widths.

    A line per figure, over all populations, and one per population of single scores
    and of their differences.
    """
    lines = [["figure", "population", *(f"{n} problems" for n in PROBLEMS)]]
    lines.append(["---"] * len(lines[0]))
    for figure in dict.fromkeys(r["figure"] for r in results):
        populations = _populations(figure) if figure.endswith("avg@k") else ()
        for population in ("all", *populations):
            row = [figure, population]
            for n in PROBLEMS:
                found = [
                    r
                    for r in results
                    if (r["figure"], r["problems"]) == (figure, n)
                    and population in ("all", r["population"])
                ]
                row.append(f"{100 * min(r['coverage'] for r in found):.1f}")
                widths = [r["width"] for r in found if r["width"] is not None]
                if population != "all" and widths:
                    row[-1] += f" ({min(widths):.1f}–{max(widths):.1f})"
            lines.append(row)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
