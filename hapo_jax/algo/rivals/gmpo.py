"""GMPO: the geometric mean of a completion's ratios, clipped token by token."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import masked, row, stages
from hapo_jax.algo.losses import Surrogate

Array = jax.Array


@stages.declare(by_rows=True, across_rows=False)
def gmpo(
    ratio: Array, advantages: Array, clip_low: Array, clip_high: Array, mask: Array
) -> Surrogate:
    """GMPO: a completion's loss, at each of its tokens.

        d_t = min(log r_t, high)   if A_t > 0
              max(log r_t, -low)   if A_t < 0,  0 if A_t = 0
        L   = -mean(A) * exp(mean(d)),   means over the completion

    arXiv 2507.20673, as in verl. The widths of the clip range are nats here.
    Each token carries the whole loss, so that the mean over the completion is it:
    `seq_mean_token_mean`.

    Args:
      ratio, advantages: [B, T] float32; the ratio is differentiable.
      clip_low, clip_high: [B, T] float32, bounds of the log-ratio, nats.
      mask: [B, T] bool.
    """
    log_ratio = jnp.log(ratio)
    below = (advantages < 0) & (log_ratio < -clip_low)
    above = (advantages > 0) & (log_ratio > clip_high)
    bounded = jnp.where(below, -clip_low, jnp.where(above, clip_high, log_ratio))
    bounded = jnp.where(advantages == 0, 0, bounded)

    def mean(x):
        return masked.mean(x, mask, axis=1)[:, None]

    loss = jnp.broadcast_to(-mean(advantages) * jnp.exp(mean(bounded)), mask.shape)
    return Surrogate(loss, below, above, jnp.zeros_like(mask))


STAGES = {"algo.surrogate": {"gmpo": gmpo}}
METHODS = {
    "gmpo": row.Row(
        {
            **row.GRPO,
            "algo.surrogate": {"name": "gmpo"},
            "algo.clip.low": 0.4,
            "algo.clip.high": 0.4,
        },
        source="arXiv 2507.20673, as in verl",
        open="verl's importance weights, if any, are algo.importance.mode=geometric",
    ),
}
