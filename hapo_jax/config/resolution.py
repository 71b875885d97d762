"""Fills in what a config leaves open and other settings decide."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from hapo_jax.config import dotted


class Derived(NamedTuple):
    """A setting that was left open and follows from others."""

    key: str
    given: Any
    value: Any
    rule: str  # what it follows from, in words


class _Rule(NamedTuple):
    """How an open setting follows from others."""

    key: str
    open: Any  # the value that leaves it open
    applies: Callable[[ConfigDict], bool]
    value: Callable[[ConfigDict], Any]
    words: str


def _decays(c: ConfigDict) -> bool:
    return c.learner.schedule != "constant"


# Of configs of both kinds; a rule whose key a config lacks is not its own.
_RULES = (
    _Rule(
        "rollout.round_prompts",
        0,
        lambda c: True,
        lambda c: c.rollout.batch_prompts,
        "rollout.batch_prompts",
    ),
    _Rule(
        "reward.overlong_buffer_tokens",
        0,
        lambda c: c.reward.overlong_buffer_share > 0,
        lambda c: round(
            c.reward.overlong_buffer_share * c.rollout.max_completion_tokens
        ),
        "reward.overlong_buffer_share × rollout.max_completion_tokens",
    ),
    _Rule(
        "algo.aggregation.scale_tokens",
        None,
        lambda c: dotted.get(c, "algo.aggregation.name") == "seq_mean_token_sum_norm",
        lambda c: c.rollout.max_completion_tokens,
        "rollout.max_completion_tokens",
    ),
    _Rule(
        "learner.decay_steps",
        0,
        _decays,
        lambda c: max(0, c.num_steps - c.learner.warmup_steps),
        "num_steps - learner.warmup_steps",
    ),
)


class Resolved(NamedTuple):
    """A config in which nothing is open, and what of it was derived."""

    config: ConfigDict
    derived: tuple[Derived, ...]


def resolve(config: ConfigDict) -> Resolved:
    """Fills in what was left open, once files and flags have set all they set.

    Returns:
      A locked copy, and what was derived.
    """
    found = []
    resolved = ConfigDict(copy.deepcopy(config.to_dict()))
    for rule in _RULES:
        # None where there is no such key.
        is_open = dotted.get(resolved, rule.key) == rule.open
        if is_open and rule.applies(resolved):
            value = rule.value(resolved)
            dotted.put(resolved, rule.key, value)
            found.append(Derived(rule.key, rule.open, value, rule.words))
    return Resolved(resolved.lock(), tuple(found))
