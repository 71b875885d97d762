"""Maximum likelihood as an objective, so that SFT and RL share one update."""

import functools

import jax.numpy as jnp

from hapo_jax.algo import entropy as entropy_lib
from hapo_jax.algo import losses
from hapo_jax.algo import objective as objective_lib
from hapo_jax.algo import temperature as temperature_lib


def make_likelihood_objective() -> objective_lib.Objective:
    """L = -mean over tokens of log π(token): no ratio, no clip, no advantage.

    Every other stage does nothing; advantages and statistics are never read.
    """
    fit = functools.partial(
        entropy_lib.fit, quantile=0.8, floor=1e-8, spread="std"
    )  # for the curves only

    def surrogate(tokens, ratio, advantages, low, high):
        never = jnp.zeros_like(tokens.mask)
        return losses.Surrogate(-tokens.logprobs, never, never, never)

    def clip_range(tokens, score):
        zero = jnp.zeros_like(tokens.logprobs)
        return zero, zero

    return objective_lib.Objective(
        temperature=functools.partial(
            temperature_lib.adaptive,
            strength=0.0,
            min_factor=1.0,
            max_factor=1.0,
            floor=1e-8,
        ),
        advantage=lambda rewards, mask, group_ids: mask.astype(jnp.float32),
        fit=fit,
        score=None,
        ratio=lambda tokens: jnp.ones_like(tokens.logprobs),
        clip_range=clip_range,
        shaping=lambda tokens, score, ratio, low, high: tokens.advantages,
        surrogate=surrogate,
        importance=None,
        token_mask=lambda tokens, surrogate: (tokens.mask, tokens.mask),
        regularisers=(),
        aggregate=losses.token_mean,
        entropy_source="old",
        stats_scope="batch",
        needs_current_entropy=False,
        needs_reference=False,
        token_wise=True,
        zero_advantage_is_silent=False,
    )
