"""Clip range of the importance ratio, per token: (width below 1, width above 1)."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from hapo_jax.algo import stages

Array = jax.Array


@stages.declare()
def plain(mask: Array, *, low: float, high: float) -> tuple[Array, Array]:
    """The same range everywhere."""
    widths = jnp.zeros(mask.shape, jnp.float32)
    return widths + jnp.float32(low), widths + jnp.float32(high)


@stages.declare()
def by_score(
    score: Array, *, low: float, high: float, strength: float
) -> tuple[Array, Array]:
    """Asymmetric clip range that follows the entropy score.

        low_t  = low  * (1 - strength * min(score_t, 0))
        high_t = high * (1 + strength * max(score_t, 0))

    arXiv 2509.16591, clip range of the objective (there strength = 1). A confident
    token (score < 0) may lose probability faster, an uncertain one gain it faster.
    A score or a strength of 0 gives plain clipping with (low, high).

    Args:
      score: [B, T] float32 in [-1, 1], see `entropy.score`.
      low: width below 1 at score 0; dimensionless, low * (1 + strength) <= 1.
      high: width above 1 at score 0; dimensionless, > 0.
      strength: >= 0.

    Returns:
      (low, high), each [B, T] float32; the ratio is kept in [1 - low, 1 + high].
    """
    chex.assert_type(score, jnp.float32)
    if strength == 0:
        return jnp.full_like(score, low), jnp.full_like(score, high)
    widen_low = 1 - strength * jnp.minimum(score, 0)
    widen_high = 1 + strength * jnp.maximum(score, 0)
    return low * widen_low, high * widen_high


CLIP_RANGES: dict[str, Callable[..., tuple[Array, Array]]] = {
    "plain": plain,
    "by_score": by_score,
}
