"""CISPO: the importance weight is bounded, and every token keeps its gradient."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import row, stages
from hapo_jax.algo.losses import Surrogate
from hapo_jax.algo.ranges import Range

Array = jax.Array


@stages.declare(options={"cap": Range(1, 1e6)})
def cispo(
    logprobs: Array, ratio: Array, advantages: Array, *, cap: float = 5.0
) -> Surrogate:
    """CISPO: a bounded weight, constant, on the log-prob.

        L = -sg(min(r, cap)) * A * log π

    arXiv 2506.13585, Eq. (4) and (5), whose lower bound does not act. `cap` is the
    bound itself, as in TRL.

    Args:
      logprobs: [B, T] float32, nats; differentiable.
      ratio: [B, T] float32; no gradient flows through it.
      advantages: [B, T] float32.
      cap: largest weight.
    """
    never = jnp.zeros(ratio.shape, bool)
    return _weighted(logprobs, jnp.minimum(ratio, cap), advantages, never, ratio > cap)


@stages.declare()
def cispo_verl(
    logprobs: Array, ratio: Array, advantages: Array, clip_low: Array, clip_high: Array
) -> Surrogate:
    """CISPO with two bounds, those of the clip range, as in verl.

        L = -sg(clip(r, 1 - low, 1 + high)) * A * log π

    Args:
      logprobs, ratio, advantages: as in `cispo`.
      clip_low, clip_high: [B, T] float32, widths of the range below and above 1.
    """
    low, high = 1 - clip_low, 1 + clip_high
    bounded = jnp.clip(ratio, low, high)
    return _weighted(logprobs, bounded, advantages, ratio < low, ratio > high)


def _weighted(logprobs, weight, advantages, below, above) -> Surrogate:
    """The policy gradient with a constant weight, which was bounded where flags say."""
    loss = -jax.lax.stop_gradient(weight) * advantages * logprobs
    return Surrogate(loss, below, above, jnp.zeros_like(below))


STAGES = {"algo.surrogate": {"cispo": cispo, "cispo_verl": cispo_verl}}
METHODS = {
    "cispo": row.Row(
        {**row.DAPO, "algo.surrogate": {"name": "cispo"}},
        source="arXiv 2506.13585, Eq. (4) and (5)",
        status="part",
        open="the bound is not printed: algo.surrogate.cap is the one TRL recommends",
    ),
    "cispo_verl": row.Row(
        {
            **row.DAPO,
            "algo.surrogate": {"name": "cispo_verl"},
            "algo.clip.high": 0.2,
        },
        source="verl, compute_policy_loss_cispo",
        open="the range, verl's default: algo.clip.low and algo.clip.high",
    ),
}
