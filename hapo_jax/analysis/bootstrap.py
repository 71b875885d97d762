"""Intervals of shares and means over tokens, whose unit is the group.

The tokens of a completion, and the completions of a prompt, are alike, so ten thousand
tokens of twenty groups are twenty observations.
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from hapo_jax.analysis import frames

CONFIDENCE = 0.95
DRAWS = 2_000


class Interval(NamedTuple):
    """A value and the ends of its interval at CONFIDENCE; NaN where there is none."""

    value: float
    low: float
    high: float


def ratio(
    frame: pd.DataFrame, numerator: pd.Series, denominator: pd.Series, *, seed: int = 0
) -> Interval:
    """sum(numerator) / sum(denominator), with groups drawn anew, with replacement.

    The interval holds the middle 95 % of the draws. With fewer than about twenty groups
    it is too narrow. Where all groups have the same quotient there is none: that they
    are equal is no proof that all others would be.

    Args:
      frame: with the columns of `frames.GROUP`, a row per token or completion.
      numerator, denominator: a number or a bool for each row.
      seed: of the draws.

    Returns:
      NaN where the denominators are 0.
    """
    sums = pd.DataFrame({"over": numerator, "under": denominator}).astype(np.float64)
    sums = sums.groupby([frame[name] for name in frames.GROUP], sort=False).sum()
    over, under = sums["over"].to_numpy(), sums["under"].to_numpy()
    if not under.sum():
        return Interval(math.nan, math.nan, math.nan)
    value = float(over.sum() / under.sum())
    there = under != 0
    if len(np.unique(np.round(over[there] / under[there], 12))) < 2:
        return Interval(value, math.nan, math.nan)
    count = len(sums)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=DRAWS)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = (drawn @ over) / (drawn @ under)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values[np.isfinite(values)], [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def share(frame: pd.DataFrame, hits: pd.Series, among: pd.Series | None = None):
    """`ratio` of the rows that are hits to all, or to those among which they are."""
    among = pd.Series(True, index=frame.index) if among is None else among
    return ratio(frame, hits & among, among)


def mean(frame: pd.DataFrame, values: pd.Series, among: pd.Series | None = None):
    """`ratio` that is the mean of values, or of those among which they are."""
    among = pd.Series(True, index=frame.index) if among is None else among
    return ratio(frame, values.where(among, 0), among)
