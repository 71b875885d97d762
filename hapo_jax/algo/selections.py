"""One number per token, `selected`, for a loss that treats some tokens in another way.

A selection looks at many tokens. In a stage of its own it can do so before the policy
is run, over the whole batch, while the loss needs no token but its own.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from hapo_jax.algo import masked, stages

Array = jax.Array


@stages.declare()
def none(mask: Array) -> Array:
    """No token."""
    return jnp.zeros(mask.shape, jnp.float32)


def covariance(logprobs: Array, advantages: Array, mask: Array) -> Array:
    """(A - mean A) * (l - mean l), means over the mask; [B, T] float32, 0 outside."""
    advantages, logprobs = (x - masked.mean(x, mask) for x in (advantages, logprobs))
    return jnp.where(mask, advantages * logprobs, 0)


SELECTIONS: dict[str, Callable[..., Array]] = {"none": none}
