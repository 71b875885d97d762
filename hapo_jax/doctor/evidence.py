"""What checks look at: the metrics of a run, the newest records, its tokenizer."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from hapo_jax.model.tokenizer import Tokenizer

# A state counts once it has lasted for so many steps, and up to the newest one.
PATIENCE = 3
WINDOW = 30  # steps that a trend is taken over
MIN_TREND = 12  # and below which there is none

Metrics = Mapping[str, float]


class Evidence(NamedTuple):
    """Of a run, finished or not.

    Attributes:
      config: resolved.
      steps: the metrics of each step of training, ascending, with their `step`.
      records: completions of the newest recorded step, see `records.read_rollouts`.
      record_step: which step that is; None without a record.
      tokenizer: of the policy; None if it is not at hand.
      prompt_tokens: of some prompts; none if they are not at hand.
      leaks: evaluation problems that are trained on as well; None if unknown.
      duplicates: share of the training problems that repeat another; None if unknown.
      weights_gap: largest difference between the sampler's weights and the learner's,
        relative to the largest weight; None if unknown.
    """

    config: ConfigDict
    steps: Sequence[Metrics]
    records: Sequence[Mapping[str, Any]] = ()
    record_step: int | None = None
    tokenizer: Tokenizer | None = None
    prompt_tokens: Sequence[Sequence[int]] = ()
    leaks: int | None = None
    duplicates: float | None = None
    weights_gap: float | None = None

    @property
    def step(self) -> int:
        """The newest; 0 before the first."""
        return int(self.newest.get("step", 0))

    @property
    def newest(self) -> Metrics:
        """Of the last step; empty before the first."""
        return self.steps[-1] if self.steps else {}

    def values(self, key: str) -> np.ndarray:
        """[n] of the newest `WINDOW` steps; steps without the metric are left out."""
        return np.array([m[key] for m in self.steps[-WINDOW:] if key in m], float)


class Finding(NamedTuple):
    """Something that a run suffers from.

    Attributes:
      name: of the check.
      since: the first step of the state, up to the newest.
      evidence: in numbers.
      causes: likely ones.
      remedy: what to set.
    """

    name: str
    since: int
    evidence: str
    causes: str
    remedy: str

    def __str__(self) -> str:
        return (
            f"{self.name}, since step {self.since}\n"
            f"  evidence  {self.evidence}\n"
            f"  causes    {self.causes}\n"
            f"  set       {self.remedy}"
        )


class Trend(NamedTuple):
    """A slope per step with its 95 % interval."""

    slope: float
    low: float
    high: float


def lasting(
    found: Evidence, holds: Callable[[Metrics], bool | None], patience: int = PATIENCE
) -> int | None:
    """The first step of a state that has lasted up to now, or None.

    Args:
      found: the run.
      holds: of a step's metrics; None where they do not say, which changes nothing.
      patience: steps that it must have been seen in; fewer in a shorter run.
    """
    first, seen = None, 0
    for metrics in found.steps:
        there = holds(metrics)
        if there is None:
            continue
        if not there:
            first, seen = None, 0
            continue
        first = metrics["step"] if first is None else first
        seen += 1
    enough = min(patience, found.config.num_steps)
    return int(first) if seen >= enough else None


def above(key: str, bound: float) -> Callable[[Metrics], bool | None]:
    """Whether a metric is above a bound."""
    return lambda m: m[key] > bound if key in m else None


def below(key: str, bound: float) -> Callable[[Metrics], bool | None]:
    """Whether a metric is below a bound."""
    return lambda m: m[key] < bound if key in m else None


def trend(values: np.ndarray) -> Trend | None:
    """Least squares over the steps; None for too few values.

    Neighbouring steps are alike, so the interval is that of as many independent ones
    as the residuals' autocorrelation r leaves, n (1 - r) / (1 + r).
    """
    from scipy import special  # late: it takes as long to import as JAX

    n = len(values)
    if n < MIN_TREND or not np.isfinite(values).all():
        return None
    t = np.arange(n) - (n - 1) / 2
    slope = float(t @ values / (t @ t))
    rest = values - values.mean() - slope * t
    spread = float(rest @ rest)
    r = float(rest[1:] @ rest[:-1] / spread) if spread else 0.0
    independent = max(n * (1 - max(r, 0)) / (1 + max(r, 0)), 4.0)
    error = math.sqrt(spread / (independent - 2) / (t @ t) * n / independent)
    width = float(special.stdtrit(independent - 2, 0.975)) * error  # Student's t
    return Trend(slope, slope - width, slope + width)


def percent(share: float) -> str:
    """A share in words."""
    return f"{100 * share:.3g} %"
