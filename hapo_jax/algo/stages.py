"""The stages of an objective as functions, and what each of them reads.

`objective.make_objective` picks among these; the formulas are in the other files of
this folder. A stage takes the tokens even where it ignores them: the stages of other
methods need them.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hapo_jax.algo import advantages as advantages_lib
from hapo_jax.algo import clipping, importance, kl, losses, shaping

Array = jax.Array


class Tokens(NamedTuple):
    """What the loss reads; only `logprobs` is differentiated.

    Arrays are [B, T], values outside the mask are arbitrary. Log-probs are of the
    sampled token and, like entropies, in nats and float32.

    Attributes:
      logprobs: current policy, base temperature.
      entropy: current policy, or None unless `Objective.needs_current_entropy`.
      old_logprobs: policy before the update, base temperature.
      old_entropy: policy before the update.
      behavior_logprobs: under the distribution drawn from.
      reference_logprobs: frozen reference, or None unless `Objective.needs_reference`.
      advantages: float32, from `compute_advantages`.
      mask: bool, True where the loss counts.
    """

    logprobs: Array
    entropy: Array | None
    old_logprobs: Array
    old_entropy: Array
    behavior_logprobs: Array
    reference_logprobs: Array | None
    advantages: Array
    mask: Array


def advantage(name: str, strength: float, fallback: float, singleton: str) -> Callable:
    """Base advantage, token-level group average, or a blend of the two."""
    base = advantages_lib.ADVANTAGES[name]
    if name != "reinforce_pp":  # which knows no groups
        base = functools.partial(base, singleton=singleton)
    token_group = functools.partial(
        advantages_lib.hapo_token_group, fallback=fallback, singleton=singleton
    )
    if strength in (0, 1):
        return token_group if strength else base

    def blend(rewards, mask, group_ids):
        by_token = token_group(rewards, mask, group_ids)
        return (1 - strength) * base(rewards, mask, group_ids) + strength * by_token

    return blend


def token_ratio(tokens: Tokens, *, limit: float) -> Array:
    """Importance ratio per token."""
    return losses.importance_ratio(tokens.logprobs, tokens.old_logprobs, limit=limit)


def clip_range(tokens: Tokens, score: Array, **options) -> tuple[Array, Array]:
    """Clip range from the entropy score alone."""
    del tokens
    return clipping.adaptive_range(score, **options)


def redistribute(tokens, score, ratio, low, high, *, strength, base):
    """Redistributed advantages; `base` replaces the adapted range of the zone."""
    if base is not None:
        low, high = jnp.full_like(low, base[0]), jnp.full_like(high, base[1])
    return shaping.redistribute(
        tokens.advantages, score, ratio, low, high, strength=strength
    )


def ppo(tokens, ratio, advantages, low, high, *, dual) -> losses.Surrogate:
    """Clipped surrogate; other surrogates also read log-probs."""
    del tokens
    return losses.ppo(ratio, advantages, low, high, dual=dual)


def all_tokens(tokens: Tokens, surrogate: losses.Surrogate) -> tuple[Array, Array]:
    """Every token of the completion is kept and counted."""
    del surrogate
    return tokens.mask, tokens.mask


def importance_weights(mode: str, floor: float, cap: float) -> Callable | None:
    """Importance weights of sampler against learner, or None."""
    if mode == "none":
        return None
    options = {
        "level": "token" if mode == "icepop" else mode,
        "outside": "zero" if mode == "icepop" else "clip",
        "floor": floor,
        "cap": cap,
    }
    return lambda tokens: importance.weights(
        tokens.old_logprobs, tokens.behavior_logprobs, tokens.mask, **options
    )


def regularisers(strength: float, estimator: str) -> tuple[Callable, ...]:
    """The KL term towards the reference, if any."""
    if strength == 0:
        return ()
    return (
        lambda tokens: (
            strength
            * kl.estimate(
                tokens.logprobs, tokens.reference_logprobs, estimator=estimator
            )
        ),
    )


def aggregation(name: str, scale_tokens: float) -> Callable:
    """Aggregation by name, with its scale where it has one."""
    aggregate = losses.AGGREGATIONS[name]
    if name == "seq_mean_token_sum_norm":
        return functools.partial(aggregate, scale_tokens=scale_tokens)
    return aggregate
