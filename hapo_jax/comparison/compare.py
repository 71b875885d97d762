"""Variants against a baseline, seed by seed and problem by problem."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from hapo_jax.comparison import intervals
from hapo_jax.comparison import runs as runs_lib
from hapo_jax.comparison.intervals import Estimate
from hapo_jax.comparison.runs import Curve, Found, Run
from hapo_jax.config import dotted
from hapo_jax.system.errors import Refused

SIGNIFICANT = 1 - intervals.CONFIDENCE


class Line(NamedTuple):
    """A variant's line of the table.

    Attributes:
      variant: its name.
      final, best, area: the metric at the last evaluation, at the run's best one, and
        on average along the axis (the area under the curve over its length).
      gains: the same differences to the baseline, by name; empty for the baseline.
      p: of the gain of `final`, after Holm over all variants; NaN: not compared.
      verdict: in words.
      cost: means over runs of the ledger's totals.
      alone: seeds that the baseline has not, which count in no difference.
    """

    variant: str
    final: Estimate
    best: Estimate
    area: Estimate
    gains: dict[str, Estimate]
    p: float
    verdict: str
    cost: dict[str, float]
    alone: list[int]


MEASURES = ("final", "best", "area")


def compare(found: Found, baseline: str = "") -> list[Line]:
    """The lines of all variants, the baseline first and then by their final value.

    Args:
      found: the runs.
      baseline: a variant; empty: `dapo` if there is one, else the first.

    Raises:
      Refused: there is no such baseline, or two runs of a seed cannot be paired.
    """
    groups = found.groups
    if not baseline:
        baseline = "dapo" if "dapo" in groups else next(iter(groups))
    if baseline not in groups:
        raise Refused(
            f"--baseline={baseline}: no variant is called that"
            f"{dotted.nearest(baseline, groups)}; there are {', '.join(groups)}."
        )
    for variant, by_seed in groups.items():
        for seed in _shared(by_seed, groups[baseline]):
            if variant != baseline:
                pair = groups[baseline][seed], by_seed[seed]
                runs_lib.check_pair(*pair, found.over)
    gains = {
        variant: _gains(by_seed, groups[baseline])
        for variant, by_seed in groups.items()
        if variant != baseline
    }
    raw = {v: g["final"].p if g else math.nan for v, g in gains.items()}
    adjusted = intervals.holm(raw)
    lines = [
        Line(
            variant=variant,
            **{m: _estimate(by_seed, m) for m in MEASURES},
            gains=gains.get(variant, {}),
            p=adjusted.get(variant, math.nan),
            verdict="the baseline"
            if variant == baseline
            else _verdict(gains[variant], adjusted[variant]),
            cost=runs_lib.mean_cost(by_seed.values()),
            alone=sorted(by_seed.keys() - groups[baseline].keys()),
        )
        for variant, by_seed in groups.items()
    ]
    return sorted(lines, key=lambda x: (x.variant != baseline, -x.final.mean))


def measure(curve: Curve, name: str, end: float = math.inf) -> np.ndarray:
    """[P] one of MEASURES of a run, by problem; the area up to `end` on its axis."""
    if name == "final":
        return curve.values[-1]
    if name == "best":
        return curve.values[int(np.argmax(curve.values.mean(1)))]
    axis, values = curve.axis, curve.values
    if end < axis[-1]:
        at_end = [np.interp(end, axis, of_problem) for of_problem in values.T]
        inside = axis < end
        axis = np.append(axis[inside], end)
        values = np.vstack([values[inside], at_end])
    if axis[-1] <= axis[0]:
        return values[-1]
    return np.trapezoid(values, axis, axis=0) / (axis[-1] - axis[0])


def _shared(a: Mapping[int, Run], b: Mapping[int, Run]) -> list[int]:
    return sorted(a.keys() & b.keys())


def _estimate(by_seed: Mapping[int, Run], name: str) -> Estimate:
    """Of a variant by itself."""
    values = [measure(run.curve, name) for run in by_seed.values()]
    if len({len(v) for v in values}) > 1:
        values = [v.mean(keepdims=True) for v in values]
    return intervals.two_way(np.array(values))


def _gains(by_seed: Mapping[int, Run], base: Mapping[int, Run]) -> dict[str, Estimate]:
    """The differences to the baseline, over the seeds that both have; areas up to the
    end of the shorter run of a pair."""
    pairs = [(by_seed[s].curve, base[s].curve) for s in _shared(by_seed, base)]
    if not pairs:
        return {}

    def gain(name: str) -> Estimate:
        ends = [min(a.axis[-1], b.axis[-1]) for a, b in pairs]
        values = [
            measure(a, name, end) - measure(b, name, end)
            for (a, b), end in zip(pairs, ends)
        ]
        return intervals.two_way(np.array(values))

    return {name: gain(name) for name in MEASURES}


def _verdict(gains: Mapping[str, Estimate], p: float) -> str:
    """What is to be believed of the final difference."""
    if not gains:
        return "no seed in common"
    if gains["final"].num_seeds < 2:
        return "one seed: no interval"
    if math.isnan(p):
        return "no spread: no interval"
    if p >= SIGNIFICANT:
        return "within noise"
    return "higher" if gains["final"].mean > 0 else "lower"


def bands(by_seed: Mapping[int, Run]) -> tuple[np.ndarray, list[Estimate]]:
    """A variant's learning curve: the axis (mean over seeds), and an estimate at each
    evaluation that all its runs have."""
    curves = [run.curve for run in by_seed.values()]
    count = min(len(c.steps) for c in curves)
    axis = np.mean([c.axis[:count] for c in curves], axis=0)
    return axis, [
        intervals.two_way(np.array([c.values[e] for c in curves]), draws=1000)
        for e in range(count)
    ]
