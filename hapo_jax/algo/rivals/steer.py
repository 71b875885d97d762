"""STEER: tokens whose update would change the entropy most count less."""

import math

import jax
import jax.numpy as jnp

from hapo_jax.algo import masked, row, stages
from hapo_jax.algo.ranges import Range

Array = jax.Array

# Smallest extreme that the exponential form reaches its lowest weight at.
_LEAST_EXTREME = 0.02


@stages.declare(
    by_rows=True,
    options={
        "form": ("exp", "linear"),
        "lowest": Range(0, 1, above=True, below=True),
        "highest": Range(1, 1_000),
    },
)
def steer(
    source_logprobs: Array,
    old_logprobs: Array,
    entropy: Array,
    advantages: Array,
    mask: Array,
    *,
    form: str = "exp",
    lowest: float = 0.8,
    highest: float = 1.2,
) -> Array:
    """STEER: advantages by how much the token's update would change the entropy.

        M = |A p / p_old * (1 - p) * (ln p + H)|
        exp:     A' = A * max(exp(-k M), lowest),   k = -ln lowest / max(max M, 0.02)
        linear:  A' = A * w,   w from highest at min M down to lowest at max M

    arXiv 2510.10150, by its code. Extremes are over all tokens of the mask. Both
    probabilities are at least 1e-8, as in the code.

    Args:
      source_logprobs, entropy: [B, T] float32, nats, ln p and H, of the policy that
        algo.entropy.source names; p / p_old is 1 for the old one.
      old_logprobs: [B, T] float32, nats.
      advantages: [B, T] float32.
      mask: [B, T] bool.
      form: of the weight.
      lowest: weight of the largest change.
      highest: weight of the smallest change, of the linear form alone.

    Returns:
      [B, T] float32.
    """
    p = jnp.clip(jnp.exp(source_logprobs), 1e-8, 1 - 1e-8)
    p_old = jnp.clip(jnp.exp(old_logprobs), 1e-8, 1)
    change = jnp.abs(advantages / p_old * p * (1 - p) * (jnp.log(p) + entropy))
    most = masked.max(change, mask)
    if form == "exp":
        k = -math.log(lowest) / jnp.maximum(most, _LEAST_EXTREME)
        weight = jnp.maximum(jnp.exp(-k * change), lowest)
    else:
        least = masked.min(change, mask)
        width = most - least
        # Tokens that all change it equally are in the middle.
        along = (change - least) / jnp.where(width > 0, width, 1)
        along = jnp.where(width > 0, along, 0.5)
        weight = highest - (highest - lowest) * along
    return advantages * jnp.where(mask, weight, 1)


STAGES = {"algo.shaping": {"steer": steer}}
METHODS = {
    "steer": row.Row(
        {
            **row.GRPO,
            "algo.shaping": {"name": "steer"},
            "algo.clip.high": 0.28,
            "algo.clip.dual": 10.0,
            "algo.aggregation": {"name": "token_mean"},
        },
        source="arXiv 2510.10150, by its published code",
        open=f"the weight: algo.shaping.form; {row.STATISTICS}, as in its code",
    ),
}
