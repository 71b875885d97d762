"""Changes to advantages that depend on the token: differential redistribution."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from hapo_jax.algo import stages

Array = jax.Array


@stages.declare()
def none(advantages: Array) -> Array:
    """Advantages as they are."""
    return advantages


@stages.declare()
def redistribute(
    advantages: Array,
    score: Array,
    ratio: Array,
    clip_low: Array,
    clip_high: Array,
    *,
    strength: float,
    zone: tuple[float, float] | None = None,
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
      clip_low, clip_high: [B, T] float32, widths of the clip range, which define the
        zone (as in the public code and the paper's notation).
      strength: in [0, 1]; above 1 a confident token's advantage would change sign.
      zone: (low, high) that define the zone in place of the clip range.

    Returns:
      [B, T] float32.
    """
    chex.assert_equal_shape([advantages, score, ratio, clip_low, clip_high])
    if strength == 0:
        return advantages
    low, high = zone or (clip_low, clip_high)
    ratio = jax.lax.stop_gradient(ratio)
    inside = (ratio > 1 - low / 2) & (ratio < 1 + high / 2)
    scaled = jnp.where(score > 0, ~inside, inside)
    return advantages * jnp.where(scaled, 1 + strength * score, 1)


SHAPINGS: dict[str, Callable[..., Array]] = {
    "none": none,
    "redistribute": redistribute,
}
