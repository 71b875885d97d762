"""Checks of the objective's settings; `objective.make_objective` calls `check`.

Every rule is one row: when it fails, the message names the config key, the value, the
rule and the remedy. Nothing is compiled before all of them have passed.
"""

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

_NOT_NEGATIVE = (
    "temperature_strength",
    "clip_strength",
    "kl_strength",
    "importance_floor",
    "advantage_fallback",
)
_SHARES = ("token_group_strength", "redistribution_strength", "entropy_quantile")


def check(settings: Mapping[str, Any]) -> None:
    """Raises ValueError for the first setting or combination that makes no sense.

    Args:
      settings: the arguments of `objective.make_objective` by name.
    """
    for name, choices in _CHOICES.items():
        require(settings, name, settings[name] in choices, f"be one of {choices}")
    for name, value in settings.items():
        number = isinstance(value, int | float) and math.isfinite(value)
        require(settings, name, name in _CHOICES or number, "be a finite number")
    for name in _NOT_NEGATIVE:
        require(settings, name, settings[name] >= 0, "be at least 0", "use 0 for off")
    for name in _SHARES:
        require(settings, name, 0 <= settings[name] <= 1, "be in [0, 1]")
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
    """Statistics and temperature."""
    floor, quantile = settings["entropy_floor"], settings["entropy_quantile"]
    require(
        settings,
        "entropy_floor",
        floor > 0,
        "be above 0 nats",
        "the score takes its logarithm, 1e-8 is usual",
    )
    require(
        settings,
        "entropy_quantile",
        round(quantile, 4) == quantile,
        "have at most four decimals",
        "round it",
    )
    low, high = settings["temperature_min_factor"], settings["temperature_max_factor"]
    require(
        settings,
        "temperature_min_factor",
        0 < low <= 1,
        "be in (0, 1]",
        "it multiplies the base temperature",
    )
    require(
        settings,
        "temperature_max_factor",
        high >= 1,
        "be at least 1",
        "it multiplies the base temperature",
    )


def _check_clip(settings: Mapping[str, Any]) -> None:
    """Clip range, dual clip and clamp of the log-ratio."""
    low, high = settings["clip_low"], settings["clip_high"]
    widest = 1 + settings["clip_strength"]
    dual, limit = settings["clip_dual"], settings["clip_log_ratio"]
    require(
        settings,
        "clip_low",
        0 < low * widest <= 1,
        "be above 0 and, times (1 + algo.clip.strength), at most 1",
        "the lower bound of a ratio must stay at 0 or above, so lower either",
    )
    require(settings, "clip_high", high > 0, "be above 0", "0.2 to 0.28 is usual")
    require(
        settings,
        "clip_dual",
        dual == 0 or dual > 1,
        "be above 1, or 0 for none",
        "3 to 10 is usual",
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
    floor, cap = settings["importance_floor"], settings["importance_cap"]
    require(
        settings,
        "importance_cap",
        settings["importance_mode"] == "none" or floor < 1 <= cap,
        f"be at least 1, and algo.importance.floor={floor!r} below 1",
        "a weight of 1 means that sampler and learner agree and must be allowed",
    )
