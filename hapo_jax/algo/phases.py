"""Which tokens wait for a second pass of updates over the batch; bool [B, T].

A pass takes the loss of its own tokens alone; the denominators stay those of all
tokens. What a stage here reads must be known before the policy is run.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from hapo_jax.algo import stages
from hapo_jax.algo.ranges import Range

Array = jax.Array


@stages.declare()
def one(mask: Array) -> Array:
    """One pass: no token waits."""
    return jnp.zeros_like(mask)


@stages.declare(options={"below": Range(0, 1)})
def low_probability_first(old_logprobs: Array, *, below: float = 0.5) -> Array:
    """Lopti: tokens that the old policy found unlikely are learnt first.

        first pass: π_old < below,    second pass: π_old >= below

    arXiv 2505.12929, with the order of its code: a whole pass over the batch, every
    mini-batch an update, and then the other.

    Args:
      old_logprobs: [B, T] float32, nats.
      below: probability, 0.5 in the paper.
    """
    return jnp.exp(old_logprobs) >= below


PHASES: dict[str, Callable[..., Array]] = {
    "one": one,
    "low_probability_first": low_probability_first,
}


def number(name: str) -> int:
    """Passes of updates that a stage of this name makes of one over the batch."""
    return 1 if name == "one" else 2
