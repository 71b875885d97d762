"""Intervals of a mean over seeds and problems, and p-values of several comparisons.

A difference of two methods varies from seed to seed and from problem to problem:

    x[s, p] = mean + a[s] + b[p] + e[s, p]

Both seeds and problems are a sample, so the interval is over both.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import special

CONFIDENCE = 0.95
DRAWS = 4_000


class Estimate(NamedTuple):
    """A mean and how well it is known.

    Attributes:
      mean: over seeds and problems.
      low, high: ends of its interval at CONFIDENCE; NaN for a single seed, and where
        all values are equal.
      p: two-sided p-value of the mean being 0; NaN like them, but 1 if all are 0.
      num_seeds, num_problems: that it is over; 0 problems where there is one value per
        seed.
    """

    mean: float
    low: float
    high: float
    p: float
    num_seeds: int
    num_problems: int


def two_way(values: np.ndarray, *, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """The mean over seeds and problems, by a two-way bootstrap.

    Seeds and problems are drawn anew, each with replacement (Owen 2007, the pigeonhole
    bootstrap). By itself that counts the noise e up to three times and the few seeds'
    own spread (S - 1) / S times, so the draws are stretched about the mean to the
    variance that the analysis of variance gives,

        (MS_seeds + MS_problems - MS_noise) / (S P)

    and by Student's t at Satterthwaite's degrees of freedom over the normal quantile:
    what is left of the bootstrap is the distribution's shape. Where the noise is larger
    than what seeds or problems add, the larger of their mean squares counts alone.
    `benchmarks/seed_intervals.py` simulates how often it covers the mean.

    Args:
      values: [S, P] a value for each seed and problem; [S, 1] has seeds alone.
      seed: of the draws.
      draws: how many.

    Raises:
      ValueError: a value is not finite.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(f"values has shape {values.shape}; expected finite [S, P].")
    S, P = values.shape
    mean = float(values.mean())
    num_problems = P if P > 1 else 0
    if S < 2:
        nan = math.nan
        return Estimate(mean, nan, nan, nan, S, num_problems)
    error, freedom = _standard_error(values)
    if error == 0:  # that all are equal is no proof that all others would be
        nan = math.nan
        return Estimate(mean, nan, nan, 1.0 if mean == 0 else nan, S, num_problems)
    deviations = _draws(values, np.random.default_rng(seed), draws) - mean
    stretched = deviations * error / math.sqrt(float(np.mean(deviations**2)))
    tail = (1 - CONFIDENCE) / 2
    student = special.stdtrit(freedom, 1 - tail) / special.ndtri(1 - tail)
    # Where the draws lean to one side, so does the interval.
    down, up = np.quantile(stretched, [tail, 1 - tail]) * student
    return Estimate(
        mean=mean,
        low=mean + down,
        high=mean + up,
        p=float(2 * special.stdtr(freedom, -abs(mean) / error)),
        num_seeds=S,
        num_problems=num_problems,
    )


def _standard_error(values: np.ndarray) -> tuple[float, float]:
    """Of the mean, and its degrees of freedom; see `two_way`."""
    S, P = values.shape
    seeds = P * values.mean(1).var(ddof=1)
    if P == 1:
        return math.sqrt(seeds / S), S - 1
    problems = S * values.mean(0).var(ddof=1)
    rest = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    noise = float((rest**2).sum()) / ((S - 1) * (P - 1))
    total = seeds + problems - noise
    least = max(seeds, problems)
    if total <= least:
        freedom = S - 1 if seeds >= problems else P - 1
        return math.sqrt(least / (S * P)), freedom
    spread = seeds**2 / (S - 1) + problems**2 / (P - 1)
    spread += noise**2 / ((S - 1) * (P - 1))
    return math.sqrt(total / (S * P)), max(total**2 / spread, 1.0)


def _draws(values: np.ndarray, rng: np.random.Generator, draws: int) -> np.ndarray:
    """[draws] means of seeds and problems that are drawn with replacement."""
    S, P = values.shape
    seeds = rng.multinomial(S, np.full(S, 1 / S), size=draws) / S
    problems = rng.multinomial(P, np.full(P, 1 / P), size=draws) / P
    return np.einsum("ds,sp,dp->d", seeds, values, problems, optimize=True)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values of several comparisons, by Holm (1979).

    Where each below 0.05 is called an effect, one that is none is among them in at most
    5 % of all cases. Values that are NaN are no comparisons and stay.
    """
    known = sorted((value, key) for key, value in p.items() if not math.isnan(value))
    adjusted, largest = dict(p), 0.0
    for i, (value, key) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - i)))
        adjusted[key] = largest
    return adjusted
