"""The figures of an evaluation, from its records, with intervals over problems.

Needs no JAX: `sampling.py` makes the records; it and `evaluate.py` call this.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

CONFIDENCE = 0.95
BEST = r"eval/avg@\d+"  # pattern of the figure that checkpoints are ranked by
PROTOCOL = "eval/protocol"  # a number that is equal where figures can be compared
_NORMAL = statistics.NormalDist()
_ROUNDING = 1e-9  # of the range, by which a value may miss its bounds


def pass_at_k(n: int, c: np.ndarray | int, k: int) -> np.ndarray:
    """Probability that k of n completions, none drawn twice, hold a correct one.

        pass@k = 1 - C(n - c, k) / C(n, k)      Chen et al. 2021 (2107.03374), Eq. (1)

    Unbiased for any k <= n. Computed as a product, since the binomials overflow.

    Args:
      n: completions per problem.
      c: how many of them are correct, any shape, in [0, n].
      k: in [1, n].

    Returns:
      float64 of the shape of c.

    Raises:
      ValueError: k or c out of range.
    """
    c = np.asarray(c)
    if not 1 <= k <= n or (c < 0).any() or (c > n).any():
        raise ValueError(f"{k=} must be in [1, n={n}] and c={c} in [0, n].")
    # C(n-c, k) / C(n, k) = prod_{i=0}^{k-1} (n-c-i) / (n-i), 0 once n-c-i reaches 0.
    i = np.arange(k)
    factors = (n - c[..., None] - i) / (n - i)
    return 1.0 - np.prod(np.maximum(factors, 0.0), axis=-1)


def interval(
    values: np.ndarray, low: float = 0.0, high: float = 1.0, *, draws: int = 0
) -> tuple[float, float]:
    """Interval of the mean over all problems like these, of which these are a sample.

    It holds whatever the values' distribution between the bounds, also for few problems
    and rare events. The upper end is Gaffke's bound, the quantile of

        sum_i D_i x_i + D_0 high,   D uniform on the simplex

    the problems, weighted at random, and one more that has not been seen and lies at
    the bound; the lower end is its mirror image. For zeros and ones that is Clopper and
    Pearson's interval. It never has width 0: 30 equal values do not rule out that one
    problem in nine has another. That it covers the mean is proved for zeros and ones
    and conjectured in general (Learned-Miller and Thomas, arXiv 1905.06208);
    `benchmarks/intervals.py` simulates it.

    The completions of a problem are not independent, so problems are what is counted.

    Args:
      values: [n] one value per problem, such as its pass@k.
      low, high: what no value can lie beyond.
      draws: completions per problem, if a value is the mean of so many zeros and ones,
        or the difference of two such means; else 0. n problems of k completions tell
        at most as much as n k problems of one, so the interval is no narrower than
        theirs.

    Returns:
      (low, high) at `CONFIDENCE`.

    Raises:
      ValueError: no value, or one beyond the bounds.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"values has shape {values.shape}, expected [n] with n > 0.")
    slack = _ROUNDING * (high - low)
    if not (low - slack <= values.min() and values.max() <= high + slack):
        raise ValueError(
            f"values reach from {values.min()} to {values.max()}, beyond {low=}, "
            f"{high=}."
        )
    samples = [(np.clip(values, low, high), np.ones(values.size))]
    if draws:
        ups, downs = np.maximum(values, 0).sum(), np.maximum(-values, 0).sum()
        counts = np.round(draws * np.array([downs, values.size - ups - downs, ups]))
        samples.append((np.array([-1.0, 0.0, 1.0])[counts > 0], counts[counts > 0]))
    return (
        low + min(_least_gap(points - low, counts) for points, counts in samples),
        high - min(_least_gap(high - points, counts) for points, counts in samples),
    )


def _least_gap(gaps: np.ndarray, counts: np.ndarray) -> float:
    """How close to a bound the mean may be, of values with these distances to it.

    Args:
      gaps: distances, ≥ 0.
      counts: how many values have each, > 0.
    """
    gaps, where = np.unique(np.append(gaps, 0.0), return_inverse=True)
    counts = np.bincount(where, np.append(counts, 1.0))  # one more is at the bound
    if len(gaps) == 1:
        return 0.0
    mean, error = counts @ gaps / counts.sum(), (1 - CONFIDENCE) / 2
    spread = math.sqrt(counts @ (gaps - mean) ** 2) / counts.sum()
    return _root(
        lambda gap: _closer(gaps, counts, gap) - error,
        1e-9 * mean,
        mean - 0.01 * spread,  # at the mean itself the approximation is 0 / 0
        xtol=1e-7 * spread,
    )


def _root(function: Callable[[float], float], low: float, high: float, **options):
    """Where a function is 0 between two numbers, by Brent's method."""
    from scipy import optimize  # late: it takes as long to import as JAX

    return optimize.brentq(function, low, high, **options)


def _closer(gaps: np.ndarray, counts: np.ndarray, gap: float) -> float:
    """Probability that the values, weighted at random, have a mean gap below this one.

    Weights that are uniform on the simplex are exponential variables over their sum, so
    it is that of sum_i G_i (gap - gap_i) > 0, with G_i of the gamma distribution of
    shape counts_i; K is the sum's cumulant generating function. By Lugannani and Rice's
    saddlepoint approximation, which is off by 0.5 % of an interval's width at most
    where it can be compared with Clopper and Pearson's, and outwards.

    Args:
      gaps, counts: at least two different ones, 0 among them.
      gap: below their mean.
    """
    steps = gap - gaps

    def slope(s: float) -> float:  # K'(s)
        return float(counts @ (steps / (1 - s * steps)))

    most = (1 - 1e-13) / gap
    s = _root(slope, 0.0, most, xtol=1e-9 * most, rtol=1e-9)
    w = math.sqrt(2 * float(counts @ np.log1p(-s * steps)))
    v = s * math.sqrt(float(counts @ (steps / (1 - s * steps)) ** 2))
    return _NORMAL.cdf(-w) + _NORMAL.pdf(w) * (1 / v - 1 / w)


def per_problem(
    records: Sequence[Mapping[str, Any]], passes: Iterable[int]
) -> dict[str, np.ndarray]:
    """Each figure of each problem.

    Args:
      records: of an evaluation, see `sampling.records`; at least one.
      passes: the j of pass@j that are wanted, each at most k.

    Returns:
      [n] float64 under `avg@k`, `maj@k`, `pass@j`, `greedy` (if there is one) and
      `truncated`, rates; `length`, tokens per completion; `entropy`, nats per token,
      so that their mean is that over all tokens (see `_ratio`).
    """
    scores = np.array([r["scores"] for r in records], np.float64)
    k = scores.shape[1]
    right = (scores >= 1).sum(1)
    lengths = np.array([r["lengths"] for r in records], np.float64)
    entropy = np.array([r["entropy"] for r in records], np.float64)
    figures = {
        f"avg@{k}": scores.mean(1),
        f"maj@{k}": np.array([r["majority_score"] for r in records], np.float64),
        **{f"pass@{j}": pass_at_k(k, right, j) for j in passes},
        "truncated": np.array([r["truncated"] for r in records], np.float64).mean(1),
        "length": lengths.mean(1),
        "entropy": _ratio((entropy * lengths).sum(1), lengths.sum(1)),
    }
    if "greedy_score" in records[0]:
        figures["greedy"] = np.array([r["greedy_score"] for r in records], np.float64)
    return figures


def summary(
    records: Sequence[Mapping[str, Any]],
    *,
    max_tokens: int | None = None,
    every_pass: bool = False,
) -> dict[str, float]:
    """The figures of a set.

    Args:
      records: of an evaluation; at least one.
      max_tokens: of a completion, which bounds the mean length; None if unknown.
      every_pass: pass@j for all j up to k, for files; else for powers of two and k,
        for curves and tables.

    Returns:
      `eval/avg@k`, `eval/maj@k`, `eval/pass@j`, `eval/greedy`, `eval/truncated`,
      `eval/length` (tokens) and `eval/entropy` (nats, mean over tokens), each that has
      a `ceiling` also with `_low` and `_high`, its interval over problems;
      `eval/ungraded`: completions whose verifier ran out of time or broke, which count
      as wrong.
    """
    k = len(records[0]["scores"])
    passes = range(1, k + 1) if every_pass else _powers_of_two(k)
    found: dict[str, float] = {}
    for name, values in per_problem(records, passes).items():
        found[f"eval/{name}"] = float(values.mean())
        if (high := ceiling(name, max_tokens)) is not None:
            ends = interval(values, 0.0, high, draws=draws(name, k))
            found[f"eval/{name}_low"], found[f"eval/{name}_high"] = ends
    found["eval/ungraded"] = float(sum(r["ungraded"] for r in records))
    return found


def ceiling(name: str, max_tokens: int | None) -> float | None:
    """What a figure of `per_problem` cannot exceed; None where nothing is known.

    Then there is no interval either: a problem that has not been seen could move the
    mean by any amount.
    """
    return {"length": max_tokens, "entropy": None}.get(name, 1.0)


def draws(name: str, k: int) -> int:
    """The `draws` of a figure's interval: k of a rate, none of a length."""
    return 0 if name == "length" else k


def named(figures: Mapping[str, float], name: str) -> dict[str, float]:
    """`eval/avg@k` as `eval/<name>/avg@k`: the figures of one set among several."""
    return {f"eval/{name}/{k.removeprefix('eval/')}": v for k, v in figures.items()}


def of_set(metrics: Mapping[str, float], name: str) -> dict[str, float]:
    """The figures that `named` has named so."""
    prefix = f"eval/{name}/"
    return {
        f"eval/{k.removeprefix(prefix)}": v
        for k, v in metrics.items()
        if k.startswith(prefix)
    }


def _ratio(totals: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """[n] values whose mean is sum(totals) / sum(sizes) and whose spread is its own.

        r + (totals_i - r sizes_i) / mean(sizes),   r = sum(totals) / sum(sizes)

    The linearised ratio: problems weigh by their tokens, as in training's mean.
    """
    ratio = totals.sum() / sizes.sum()
    return ratio + (totals - ratio * sizes) / sizes.mean()


def _powers_of_two(k: int) -> list[int]:
    """1, 2, 4, … up to k, and k."""
    return sorted({1 << i for i in range(k.bit_length())} | {k})
