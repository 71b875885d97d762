"""ASPO: the importance weight of positive advantages turned round."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import row, stages
from hapo_jax.algo.losses import Surrogate

Array = jax.Array


@stages.declare()
def aspo(
    logprobs: Array,
    ratio: Array,
    advantages: Array,
    clip_low: Array,
    clip_high: Array,
    *,
    dual: float,
) -> Surrogate:
    """ASPO: the importance weight of a positive advantage turned round.

        A <  0:   r' = max(r, 1 - low),    loss -A r'
        A >= 0:   r' = min(r, 1 + high),   loss -A r' / sg(r')^2,  so gradient -A / r

    arXiv 2510.06062. Where the weight, r' or 1/r', exceeds `dual`, the loss is
    -A * dual * log π: a bounded weight on a gradient that is kept. The two kinds of
    losses have values that do not compare; gradients do.

    Args:
      logprobs: [B, T] float32, nats.
      ratio, advantages, clip_low, clip_high: as in `ppo`.
      dual: largest weight, > 1; 0 for none. The paper's is 3.
    """
    positive = advantages >= 0
    below = (advantages < 0) & (ratio < 1 - clip_low)
    above = (advantages > 0) & (ratio > 1 + clip_high)
    bounded = jnp.where(below, 1 - clip_low, jnp.where(above, 1 + clip_high, ratio))
    fixed = jax.lax.stop_gradient(bounded)
    weighted = jnp.where(positive, bounded / jnp.square(fixed), bounded)
    weight = jnp.where(positive, 1 / fixed, fixed)
    too_large = (weight > dual) & (dual > 0) & (advantages != 0)
    weighted = jnp.where(too_large, dual * logprobs, weighted)
    return Surrogate(-advantages * weighted, below, above, too_large)


STAGES = {"algo.surrogate": {"aspo": aspo}}
METHODS = {
    "aspo": row.Row(
        {
            **row.DAPO,
            "algo.surrogate": {"name": "aspo"},
            "algo.entropy.source": "current",
            "algo.clip_range": {"name": "by_row_entropy"},
            "algo.clip.high": 0.2,
            "algo.clip.dual": 3.0,
            "algo.kl.strength": 1e-3,
        },
        source="arXiv 2510.06062",
    ),
}
