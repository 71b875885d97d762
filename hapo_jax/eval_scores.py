"""The figures of an evaluation, from its records, with intervals over problems.

Needs no JAX: `eval_sampling.py` makes the records; it and `evaluate.py` call this.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
BEST = r"eval/avg@\d+"  # pattern of the figure that checkpoints are ranked by
PROTOCOL = "eval/protocol"  # a number that is equal where figures can be compared


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


def rate_interval(values: np.ndarray) -> tuple[float, float]:
    """Interval of a mean rate over problems: Wilson's, for values that need not be 0/1.

        n_eff = n mean (1 - mean) / variance,   at 0/1 values n (but for n / (n - 1))

    is the number of yes-or-no problems that would tell as much, and Wilson's interval
    is taken for so many, with Student's quantile since the variance is estimated.

    The completions of a problem are not independent, so problems are what is counted.
    Sets are small (30 problems of AIME) and rates near 0: the percentile bootstrap
    covers the truth in 76 to 97 % of cases there, BCa in 76 to 99 %, this in 93 to
    98 %, and it has a width where every problem failed. Neither covers 93 % where a
    problem or two carry the mean: with 30 problems, k = 32 and rates of
    Beta(0.1, 1.9) this covers 91 %, the bootstrap 85; of Beta(0.06, 2.94), mean 0.02,
    84 and 78. From 100 problems on it is 93 and 92.

    Args:
      values: [n] one value in [0, 1] per problem, such as its pass@k.

    Returns:
      (low, high) at `CONFIDENCE`; (0, 1) for a single problem.

    Raises:
      ValueError: no value, or one outside [0, 1].
    """
    values = _checked(values)
    if values.min() < 0 or values.max() > 1 + 1e-9:
        raise ValueError(f"values reach from {values.min()} to {values.max()}.")
    n, mean = values.size, min(float(values.mean()), 1.0)
    if n == 1:
        return 0.0, 1.0
    if 0 < mean < 1 and np.ptp(values) == 0:
        return mean, mean  # no spread at all: n_eff is infinite
    size = n
    if 0 < mean < 1:
        size = n * mean * (1 - mean) / values.var()
    z = _quantile(n)
    centre = mean + z * z / (2 * size)
    half = z * np.sqrt(mean * (1 - mean) / size + z * z / (4 * size * size))
    scale = 1 + z * z / size
    # Rounding must not put a mean of 0 or 1 outside its own interval.
    low, high = (centre - half) / scale, (centre + half) / scale
    return float(min(max(low, 0.0), mean)), float(max(min(high, 1.0), mean))


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Student's interval of a mean over problems, of values without bounds.

    For lengths, entropies and differences between two policies on the same problems.

    Args:
      values: [n] one value per problem.

    Returns:
      (low, high) at `CONFIDENCE`; (-inf, inf) for a single problem.

    Raises:
      ValueError: no value.
    """
    values = _checked(values)
    n, mean = values.size, float(values.mean())
    if n == 1:
        return -np.inf, np.inf
    half = _quantile(n) * values.std(ddof=1) / np.sqrt(n)
    return float(mean - half), float(mean + half)


def _quantile(n: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))


def _checked(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"values has shape {values.shape}, expected [n] with n > 0.")
    return values


def per_problem(
    records: Sequence[Mapping[str, Any]], passes: Iterable[int]
) -> dict[str, np.ndarray]:
    """Each figure of each problem.

    Args:
      records: of an evaluation, see `eval_sampling.records`; at least one.
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
    records: Sequence[Mapping[str, Any]], *, every_pass: bool = False
) -> dict[str, float]:
    """The figures of a set.

    Args:
      records: of an evaluation; at least one.
      every_pass: pass@j for all j up to k, for files; else for powers of two and k,
        for curves and tables.

    Returns:
      `eval/avg@k`, `eval/maj@k`, `eval/pass@j`, `eval/greedy`, `eval/truncated`,
      `eval/length` (tokens) and `eval/entropy` (nats, mean over tokens), each also with
      `_low` and `_high`, its interval over problems; `eval/ungraded`: completions whose
      verifier ran out of time or broke, which count as wrong.
    """
    k = len(records[0]["scores"])
    passes = range(1, k + 1) if every_pass else _powers_of_two(k)
    found: dict[str, float] = {}
    for name, values in per_problem(records, passes).items():
        bounded = name not in ("length", "entropy")
        low, high = (rate_interval if bounded else mean_interval)(values)
        found |= {
            f"eval/{name}": float(values.mean()),
            f"eval/{name}_low": low,
            f"eval/{name}_high": high,
        }
    found["eval/ungraded"] = float(sum(r["ungraded"] for r in records))
    return found


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
