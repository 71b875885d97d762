"""CE-GPPO: gradients of clipped tokens are bounded and not dropped."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import row, stages
from hapo_jax.algo.losses import Surrogate
from hapo_jax.algo.ranges import Range

Array = jax.Array


@stages.declare(options={"beta_low": Range(0, 10), "beta_high": Range(0, 10)})
def ce_gppo(
    ratio: Array,
    advantages: Array,
    clip_low: Array,
    clip_high: Array,
    *,
    dual: float,
    beta_low: float = 0.5,
    beta_high: float = 1.0,
) -> Surrogate:
    """CE-GPPO: a bounded gradient where PPO has none.

        -A * beta_low  * (1 - low)  * r / sg(r)     for A < 0 and r < 1 - low
        -A * beta_high * (1 + high) * r / sg(r)     for A > 0 and r > 1 + high
        -A * r                                      otherwise

    arXiv 2509.20712, Eq. (8), with the dual clip of `ppo` behind it. The paper sets
    beta_low to 0.5 (1.5B) and 0.75 (7B), beta_high to 1.

    Args:
      ratio, advantages, clip_low, clip_high, dual: as in `ppo`.
      beta_low, beta_high: share of the gradient that is kept beyond the bound.
    """
    below = (advantages < 0) & (ratio < 1 - clip_low)
    above = (advantages > 0) & (ratio > 1 + clip_high)
    gradient_of_ratio = ratio / jax.lax.stop_gradient(ratio)  # of value 1
    bounded = jnp.where(below, beta_low * (1 - clip_low) * gradient_of_ratio, ratio)
    bounded = jnp.where(above, beta_high * (1 + clip_high) * gradient_of_ratio, bounded)
    dual_clipped = (advantages < 0) & (ratio > dual) & (dual > 0)
    bounded = jnp.where(dual_clipped, dual, bounded)
    return Surrogate(-advantages * bounded, below, above, dual_clipped)


STAGES = {"algo.surrogate": {"ce_gppo": ce_gppo}}
METHODS = {
    "ce_gppo": row.Row(
        {
            **row.DAPO,
            "algo.surrogate": {"name": "ce_gppo"},
            "algo.clip.dual": 10.0,
        },
        source="arXiv 2509.20712, Eq. (8)",
        open="beta_low: 0.5 for 1.5B, 0.75 for 7B in the paper, 0.25 in its code",
    ),
}
