"""Changes to advantages that depend on the token: differential redistribution."""

import chex
import jax
import jax.numpy as jnp

Array = jax.Array


def redistribute(
    advantages: Array,
    score: Array,
    ratio: Array,
    low: Array,
    high: Array,
    *,
    strength: float,
) -> Array:
    """Differential advantage redistribution.

        Z   = (1 - low/2, 1 + high/2)                        the neutral zone, open
        A'  = A * (1 + strength * score)   if score > 0 and ratio not in Z,
                                           or score <= 0 and ratio in Z
        A'  = A                            otherwise

    arXiv 2509.16591, redistribution (there strength = 1). Uncertain tokens count more
    once their probability has moved; confident ones count less until it has. With
    strength 1 the most confident token of the batch has no gradient inside Z.

    Args:
      advantages: [B, T] float32.
      score: [B, T] float32 in [-1, 1], see `entropy.score`.
      ratio: [B, T] float32, importance ratio; no gradient flows through it here.
      low: [B, T] float32, clip width below 1 that defines the zone: the adapted one
        (as in the public code and the paper's notation) or the plain one.
      high: [B, T] float32, clip width above 1, likewise.
      strength: in [0, 1]; above 1 a confident token's advantage would change sign.

    Returns:
      [B, T] float32.
    """
    chex.assert_equal_shape([advantages, score, ratio, low, high])
    if strength == 0:
        return advantages
    ratio = jax.lax.stop_gradient(ratio)
    inside = (ratio > 1 - low / 2) & (ratio < 1 + high / 2)
    scaled = jnp.where(score > 0, ~inside, inside)
    return advantages * jnp.where(scaled, 1 + strength * score, 1)
