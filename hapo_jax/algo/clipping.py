"""Clip range of the importance ratio, per token: (width below 1, width above 1)."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from hapo_jax.algo import masked, stages
from hapo_jax.algo.ranges import Range

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


@stages.declare(
    by_rows=True,
    across_rows=False,
    options={
        "quantile": Range(0, 1),
        "wide_low": Range(0, 1, above=True),
        "wide_high": Range(0, 1_000, above=True),
    },
)
def by_row_entropy(
    entropy: Array,
    mask: Array,
    *,
    low: float,
    high: float,
    quantile: float = 0.8,
    wide_low: float = 0.4,
    wide_high: float = 0.4,
) -> tuple[Array, Array]:
    """A wider range for the uncertain tokens of each completion.

        (wide_low, wide_high)  if H > quantile of H over the completion
        (low, high)            otherwise

    arXiv 2507.15778 (Archer) and 2510.06062 (ASPO), by their code: the paper has >=.
    The quantile is by linear interpolation.

    Args:
      entropy: [B, T] float32, nats, of the policy that algo.entropy.source names.
      mask: [B, T] bool.
      low, high: widths for the confident tokens.
      quantile: of the entropies of a completion, at most four decimals.
      wide_low, wide_high: widths for the uncertain ones, below and above 1.
    """
    low_entropy = confident(entropy, mask, quantile)
    widths = (low, wide_low), (high, wide_high)
    below, above = (jnp.where(low_entropy, *map(jnp.float32, w)) for w in widths)
    return below, above


def confident(entropy: Array, mask: Array, quantile: float) -> Array:
    """[B, T] bool: entropy <= quantile of the completion, by linear interpolation."""

    def of_row(entropy, mask):
        index = masked.order_index(masked.size(mask), quantile, rounding="down")
        return entropy <= masked.order_statistic(entropy, mask, index)

    return mask & jax.vmap(of_row)(entropy, mask)


CLIP_RANGES: dict[str, Callable[..., tuple[Array, Array]]] = {
    "plain": plain,
    "by_score": by_score,
    "by_row_entropy": by_row_entropy,
}
