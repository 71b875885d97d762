"""The settings of a method: each with its default, its unit and its legal values, once.

The section `algo` of a config is made from these classes, and `of` makes them from such
a section again. A section of the form {name, options} chooses a stage; its options are
the keyword parameters of that function, see `stages.py`. HAPO as in the paper (arXiv
2509.16591) is the default.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from hapo_jax.algo import advantages, entropy, importance, kl, supervised, temperature
from hapo_jax.algo.ranges import Range
from hapo_jax.system.errors import Refused

RATIOS_OF = ("base", "sampled")
ENTROPY_SOURCES = ("old", "current")
ENTROPY_SCOPES = ("batch", "micro")
ZONES = ("adapted", "base")
IMPORTANCE_MODES = ("none", *importance.LEVELS, "icepop")


def _setting(default: Any, legal: Range | tuple) -> Any:
    return dataclasses.field(default=default, metadata={"legal": legal})


def _stage(name: str) -> Any:
    """A section that chooses a stage by name."""
    return dataclasses.field(default_factory=lambda: {"name": name})


@dataclasses.dataclass(frozen=True)
class Entropy:
    """The entropy score, input of A, C and D."""

    quantile: float = _setting(0.8, Range(0, 1))  # pivot rho
    # Nats, before the logarithm; log(vocabulary) is about 12.
    floor: float = _setting(1e-8, Range(0, 1, above=True))
    # For C and D, and of stages that read `entropy` or `source_logprobs`: of the policy
    # at the start of the step, or the current one.
    source: str = _setting("old", ENTROPY_SOURCES)
    scope: str = _setting("batch", ENTROPY_SCOPES)  # of the statistics for C and D
    spread: str = _setting("std", entropy.SPREADS)  # quantile_rms: public code
    # Sign of confident tokens; public: they score positive.
    low_sign: str = _setting("paper", entropy.LOW_SIGNS)
    # What stages see in place of the entropies: of other tokens of the completion, or
    # one for all. Temperature is then the base temperature: a token's own entropy is
    # all that there is when it is drawn.
    control: str = _setting("none", entropy.CONTROLS)


@dataclasses.dataclass(frozen=True)
class Temperature:
    """A: adaptive temperature."""

    strength: float = _setting(0.1, Range(0, 10))  # tau; 0: off
    min_factor: float = _setting(0.5, Range(0, 1, above=True))  # of the base
    max_factor: float = _setting(1.5, Range(1, 1e6))
    score: str = _setting("raw", temperature.SCORES)  # scaled: public code


@dataclasses.dataclass(frozen=True)
class TokenGroup:
    """B: token-level group average."""

    strength: float = _setting(1.0, Range(0, 1))  # 0: `advantage`; between: a blend
    scale_by_std: bool = _setting(True, (True, False))


@dataclasses.dataclass(frozen=True)
class Redistribution:
    """C: differential advantage redistribution."""

    strength: float = _setting(1.0, Range(0, 1))  # alpha; 0: off
    zone: str = _setting("adapted", ZONES)  # clip range in the neutral zone


@dataclasses.dataclass(frozen=True)
class Clip:
    """D: asymmetric adaptive clipping."""

    low: float = _setting(0.2, Range(0, 1, above=True))
    high: float = _setting(0.28, Range(0, 1_000, above=True))
    strength: float = _setting(1.0, Range(0, 10))  # beta; 0: the plain range
    # Bound of the ratio for negative advantages; 0: off.
    dual: float = _setting(0.0, Range(1, 1e6, above=True, also=0))
    # Nats; the log-ratio is clamped to this before exp, which overflows at 88.
    log_ratio: float = _setting(20.0, Range(0, 80))  # 0: no clamp


@dataclasses.dataclass(frozen=True)
class Kl:
    """KL term to the reference, the policy that the run started from."""

    strength: float = _setting(0.0, Range(0, 1_000))  # 0: off, no reference is kept
    # …+: the gradient of k2; k3r: k3 times the ratio.
    estimator: str = _setting("k3", kl.ESTIMATORS)
    # Of k3; nats: the log-ratio and the estimate are clipped to these.
    limit: float = _setting(20.0, Range(0, 80, above=True))
    cap: float = _setting(10.0, Range(0, 1e9, above=True))


@dataclasses.dataclass(frozen=True)
class Importance:
    """Correction from the behaviour policy to the old one."""

    mode: str = _setting("none", IMPORTANCE_MODES)
    cap: float = _setting(2.0, Range(1, 1e6))
    floor: float = _setting(0.0, Range(0, 1, below=True))  # of icepop
    # Divide by the mean weight of the batch.
    normalize: bool = _setting(False, (False, True))


@dataclasses.dataclass(frozen=True)
class Demonstrations:
    """Imitation beside the rollout: L = (1 - w) L_rollout + w L_demonstrations."""

    # Of the completions of an update; 0: there are none, and w is 0.
    share: float = _setting(0.0, Range(0, 1, below=True))
    weight: float = _setting(0.1, Range(0, 1))  # w, in the first step
    schedule: str = _setting("constant", supervised.SCHEDULES)
    # w from there on where it falls, after `decay_steps`.
    final_weight: float = _setting(0.0, Range(0, 1))
    decay_steps: int = _setting(0, Range(0, 10**9, whole=True))


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of a method; the section `algo` of a config."""

    advantage: Mapping[str, Any] = _stage("grpo")
    # What a group of one gets: 0, or verl's raw reward.
    singleton: str = _setting("zero", advantages.SINGLETONS)
    # |A| of B from which a group falls back to GRPO, as in the public code; 0: never.
    advantage_fallback: float = _setting(0.0, Range(0, 1e6))
    entropy: Entropy = Entropy()
    temperature: Temperature = Temperature()
    token_group: TokenGroup = TokenGroup()
    # What log-probs and ratios are of: the softmax of all logits at the base
    # temperature, or the distribution that the token was drawn from, with its
    # temperature and truncation. Entropies are of the untempered softmax anyway.
    ratio_of: str = _setting("base", RATIOS_OF)
    # Of the largest probability; what is below is cut from `old_cut_logprobs`.
    cut_share: float = _setting(0.02, Range(0, 1, above=True))
    shaping: Mapping[str, Any] = _stage("redistribute")
    redistribution: Redistribution = Redistribution()
    clip: Clip = Clip()
    ratio: Mapping[str, Any] = _stage("token")
    clip_range: Mapping[str, Any] = _stage("by_score")
    selection: Mapping[str, Any] = _stage("none")  # for stages that read `selected`
    surrogate: Mapping[str, Any] = _stage("ppo")
    mask: Mapping[str, Any] = _stage("all")
    regulariser: Mapping[str, Any] = _stage("none")  # beside the KL term
    aggregation: Mapping[str, Any] = _stage("token_mean")
    critic: Mapping[str, Any] = _stage("none")  # a learned value, beside the policy
    imitation: Mapping[str, Any] = _stage("uniform")  # the loss of a demonstration
    phases: Mapping[str, Any] = _stage("one")  # passes of updates for one over a batch
    kl: Kl = Kl()
    importance: Importance = Importance()
    demonstrations: Demonstrations = Demonstrations()


def defaults() -> dict[str, Any]:
    """Nested dicts of the default settings."""
    return dataclasses.asdict(Settings())


# Sections that choose a stage; what else they hold are its options.
STAGES = tuple(
    name for name, value in vars(Settings()).items() if isinstance(value, Mapping)
)


def _legal() -> dict[str, Range | tuple]:
    """Legal values by key, such as "algo.clip.low"."""
    found = {}
    for field in dataclasses.fields(Settings):
        value = getattr(Settings(), field.name)
        if "legal" in field.metadata:
            found[f"algo.{field.name}"] = field.metadata["legal"]
        elif dataclasses.is_dataclass(value):
            for part in dataclasses.fields(value):
                key = f"algo.{field.name}.{part.name}"
                found[key] = part.metadata["legal"]
    return found


LEGAL = _legal()


def of(section: Mapping[str, Any]) -> Settings:
    """Settings from nested dicts, such as the section `algo` of a config.

    Raises:
      Refused: a setting or a combination makes no sense; names key, value, rule and
        remedy. Options of stages are checked by `method.make`.
    """
    fields = {}
    for field in dataclasses.fields(Settings):
        value = section[field.name]
        default = getattr(Settings(), field.name)
        if dataclasses.is_dataclass(default):
            value = type(default)(**value)
        elif isinstance(default, Mapping):
            value = dict(value)
        fields[field.name] = value
    made = Settings(**fields)
    for key, legal in LEGAL.items():
        if isinstance(legal, Range):
            require(made, key, legal.holds(_get(made, key)), f"be {legal}")
        else:
            require(made, key, _get(made, key) in legal, f"be one of {legal}")
    _check_together(made)
    return made


def require(
    settings: Settings, key: str, holds: bool, rule: str, remedy: str = ""
) -> None:
    """Raises Refused naming key, value, rule and remedy unless `holds`."""
    if not holds:
        remedy = remedy or f"change --config.{key}"
        raise Refused(f"{key}={_get(settings, key)!r} must {rule}; {remedy}.")


def _get(settings: Settings, key: str) -> Any:
    value = settings
    for part in key.split(".")[1:]:
        value = getattr(value, part)
    return value


def _check_together(s: Settings) -> None:
    """Combinations."""
    require(
        s,
        "algo.entropy.quantile",
        round(s.entropy.quantile, 4) == s.entropy.quantile,
        "have at most four decimals",
        "round it",
    )
    widest = 1 + s.clip.strength
    require(
        s,
        "algo.clip.low",
        s.clip.low * widest <= 1,
        "be, times (1 + algo.clip.strength), at most 1",
        "the lower bound of a ratio must stay at 0 or above, so lower either",
    )
    largest = max(1 + s.clip.high * widest, s.clip.dual)
    require(
        s,
        "algo.clip.log_ratio",
        s.clip.log_ratio == 0 or s.clip.log_ratio > math.log(largest),
        f"be above {math.log(largest):.3g} nats, the log of the largest bound on a "
        "ratio, or 0 for none",
        "20 is usual",
    )
    require(
        s,
        "algo.entropy.control",
        s.entropy.control == "none"
        or (s.entropy.source == "old" and s.entropy.scope == "batch"),
        "be 'none' unless algo.entropy.source='old' and algo.entropy.scope='batch', "
        "since what is put in their place is found before the policy is run",
        "change one of them",
    )
    d = s.demonstrations
    require(
        s,
        "algo.demonstrations.decay_steps",
        (d.decay_steps > 0) == (d.schedule != "constant"),
        "be 0 with algo.demonstrations.schedule='constant', and above 0 with another",
    )
    require(
        s,
        "algo.kl.estimator",
        s.kl.strength == 0 or s.kl.estimator != "k1",
        "not be k1 in a loss, where its expected gradient is 0",
        "use k1+, k2 or k3, or set algo.kl.strength to 0",
    )
