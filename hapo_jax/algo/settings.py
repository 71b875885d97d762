"""Checks of the objective's settings; `objective.make_objective` calls `check`.

Every rule is one row: when it fails, the message names the config key, the value, the
rule and the remedy. Nothing is compiled before all of them have passed.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from hapo_jax.algo import advantages, entropy, importance, kl, losses, temperature

ENTROPY_SOURCES = ("old", "current")
ENTROPY_SCOPES = ("batch", "micro")
ZONES = ("adapted", "base")
IMPORTANCE_MODES = ("none", *importance.LEVELS, "icepop")

# `clip_low` of `make_objective` is `algo.clip.low` of the config, and so on.
_SECTIONS = (
    "entropy",
    "temperature",
    "token_group",
    "redistribution",
    "clip",
    "kl",
    "importance",
)

_CHOICES = {
    "advantage": tuple(advantages.ADVANTAGES),
    "singleton": advantages.SINGLETONS,
    "entropy_source": ENTROPY_SOURCES,
    "entropy_scope": ENTROPY_SCOPES,
    "entropy_spread": entropy.SPREADS,
    "entropy_low_sign": entropy.LOW_SIGNS,
    "temperature_score": temperature.SCORES,
    "redistribution_zone": ZONES,
    "aggregation": tuple(losses.AGGREGATIONS),
    "kl_estimator": kl.ESTIMATORS,
    "importance_mode": IMPORTANCE_MODES,
}


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers that a setting may have; NaN and infinities are never among them.

    Attributes:
      low, high: the ends, which belong to it unless `above` or `below` says otherwise.
      above, below: the low or the high end does not belong to it.
      whole: whole numbers alone.
      also: one more number that is allowed, such as 0 for "off".
    """

    low: float
    high: float
    above: bool = False
    below: bool = False
    whole: bool = False
    also: float | None = None

    def holds(self, value: Any) -> bool:
        """Whether the value is one of these numbers."""
        kind = int if self.whole else int | float
        if isinstance(value, bool) or not isinstance(value, kind):
            return False
        if value == self.also:
            return True
        from_low = value > self.low if self.above else value >= self.low
        to_high = value < self.high if self.below else value <= self.high
        return from_low and to_high  # False for NaN

    def __str__(self) -> str:
        """In words, behind "must be", such as "0 or a number in (1, 10]"."""
        off = "" if self.also is None else f"{self.also:g} or "
        kind = "a whole number" if self.whole else "a number"
        left, right = "[("[self.above], "])"[self.below]
        return f"{off}{kind} in {left}{_plain(self.low)}, {_plain(self.high)}{right}"


def _plain(number: float) -> str:
    """Without an exponent where that is as short."""
    return str(number) if isinstance(number, int) else f"{number:g}"


# Of the arguments of `make_objective`.
RANGES = {
    "token_group_strength": Range(0, 1),
    "entropy_quantile": Range(0, 1),
    "entropy_floor": Range(0, 1, above=True),  # nats; log(vocabulary) is about 12
    "temperature_strength": Range(0, 10),
    "temperature_min_factor": Range(0, 1, above=True),
    "temperature_max_factor": Range(1, 1e6),
    "redistribution_strength": Range(0, 1),
    "clip_low": Range(0, 1, above=True),
    "clip_high": Range(0, 1_000, above=True),
    "clip_strength": Range(0, 10),
    "clip_dual": Range(1, 1e6, above=True, also=0),
    "clip_log_ratio": Range(0, 80),  # nats; exp overflows at 88
    "aggregation_scale_tokens": Range(0, 1e9),
    "kl_strength": Range(0, 1_000),
    "importance_cap": Range(1, 1e6),
    "importance_floor": Range(0, 1, below=True),
    "advantage_fallback": Range(0, 1e6),
}


def check(settings: Mapping[str, Any]) -> None:
    """Raises ValueError for the first setting or combination that makes no sense.

    Args:
      settings: the arguments of `objective.make_objective` by name.
    """
    for name, choices in _CHOICES.items():
        require(settings, name, settings[name] in choices, f"be one of {choices}")
    for name, numbers in RANGES.items():
        require(settings, name, numbers.holds(settings[name]), f"be {numbers}")
    _check_entropy(settings)
    _check_clip(settings)
    _check_rest(settings)


def require(
    settings: Mapping[str, Any], name: str, holds: bool, rule: str, remedy: str = ""
) -> None:
    """Raises ValueError naming key, value, rule and remedy unless `holds`."""
    if not holds:
        key, value = config_key(name), settings[name]
        remedy = remedy or f"change --config.{key}"
        raise ValueError(f"{key}={value!r} must {rule}; {remedy}.")


def config_key(name: str) -> str:
    """Config key of an argument of `make_objective`, e.g. "algo.clip.low"."""
    for section in _SECTIONS:
        if name.startswith(f"{section}_"):
            return f"algo.{section}.{name.removeprefix(f'{section}_')}"
    return f"algo.{name}"


def _check_entropy(settings: Mapping[str, Any]) -> None:
    """Statistics."""
    quantile = settings["entropy_quantile"]
    require(
        settings,
        "entropy_quantile",
        round(quantile, 4) == quantile,
        "have at most four decimals",
        "round it",
    )


def _check_clip(settings: Mapping[str, Any]) -> None:
    """Clip range, dual clip and clamp of the log-ratio."""
    low, high = settings["clip_low"], settings["clip_high"]
    widest = 1 + settings["clip_strength"]
    dual, limit = settings["clip_dual"], settings["clip_log_ratio"]
    require(
        settings,
        "clip_low",
        low * widest <= 1,
        "be, times (1 + algo.clip.strength), at most 1",
        "the lower bound of a ratio must stay at 0 or above, so lower either",
    )
    largest = max(1 + high * widest, dual)
    require(
        settings,
        "clip_log_ratio",
        limit == 0 or limit > math.log(largest),
        f"be above {math.log(largest):.3g} nats, the log of the largest bound on a "
        "ratio, or 0 for none",
        "20 is usual",
    )


def _check_rest(settings: Mapping[str, Any]) -> None:
    """Aggregation, KL term and importance weights."""
    require(
        settings,
        "aggregation_scale_tokens",
        settings["aggregation"] != "seq_mean_token_sum_norm"
        or settings["aggregation_scale_tokens"] > 0,
        "be above 0 for algo.aggregation='seq_mean_token_sum_norm'",
        "set it to the longest completion in tokens",
    )
    require(
        settings,
        "kl_estimator",
        settings["kl_strength"] == 0 or settings["kl_estimator"] != "k1",
        "not be k1 in a loss, where its expected gradient is 0",
        "use k1+, k2 or k3, or set algo.kl.strength to 0",
    )
