"""Supervised losses: how much each token of a demonstration weighs.

    L = -weight * log π(token)

They read no advantage, no ratio and no reward. `hapo-sft` takes one by `loss.name`. As
surrogates of `algo.surrogate` they would imitate whatever was sampled.
"""

import jax
import jax.numpy as jnp

from hapo_jax.algo import stages
from hapo_jax.algo.losses import Surrogate
from hapo_jax.algo.row import Row

Array = jax.Array

_declare = stages.declare(silent_at_zero=False)


@_declare
def uniform(logprobs: Array) -> Surrogate:
    """Supervised: weight 1, maximum likelihood."""
    return _weighted(logprobs, jnp.ones_like(logprobs))


@_declare
def dft(logprobs: Array) -> Surrogate:
    """Supervised: weight p, the probability of the token, constant.

    arXiv 2508.05629 (dynamic fine-tuning). An unlikely token has hardly a gradient.
    """
    return _weighted(logprobs, jax.lax.stop_gradient(jnp.exp(logprobs)))


@_declare
def phi(logprobs: Array) -> Surrogate:
    """Supervised: weight p (1 - p), constant.

    arXiv 2508.11408 (CHORD) and its code. Neither a token that the policy knows nor one
    that it cannot believe has much of a gradient.
    """
    p = jax.lax.stop_gradient(jnp.exp(logprobs))
    return _weighted(logprobs, p * (1 - p))


def _weighted(logprobs: Array, weights: Array) -> Surrogate:
    never = jnp.zeros(logprobs.shape, bool)
    return Surrogate(-weights * logprobs, never, never, never)


LOSSES = {"uniform": uniform, "dft": dft, "phi": phi}
# Of hapo-sft; the name is that of the loss.
METHODS = {
    "uniform": Row({}, source="maximum likelihood"),
    "dft": Row({"loss": {"name": "dft"}}, source="arXiv 2508.05629"),
    "phi": Row({"loss": {"name": "phi"}}, source="arXiv 2508.11408 and its code"),
}
