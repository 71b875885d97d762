"""FIPO: tokens that lead to what becomes more probable count more."""

import math

import jax
import jax.numpy as jnp

from hapo_jax.algo import masked, row, stages
from hapo_jax.algo.ranges import Range

Array = jax.Array


@stages.declare(
    by_rows=True,
    across_rows=False,
    options={
        "half_life": Range(0, 1e6, above=True),
        "width": Range(0, 1, below=True),
        "high_only": (True, False),
        "threshold": Range(1, 1e6),
    },
)
def fipo(
    logprobs: Array,
    old_logprobs: Array,
    ratio: Array,
    advantages: Array,
    mask: Array,
    *,
    dual: float,
    half_life: float = 32.0,
    width: float = 0.2,
    high_only: bool = True,
    threshold: float = 10.0,
) -> Array:
    """FIPO: advantages by how much more probable the rest of the completion became.

        d   = l - l_old, within ±20; 0 where it is above ln(dual)
        F_t = sum over k >= t of 2^(-(k - t) / half_life) d_k
        f   = exp(F) in [1, 1 + width], or from 1 - width unless high_only
        f   = f in [1 - width, 1]   where A < 0 and r > threshold
        A'  = A f

    arXiv 2603.19835. No gradient flows through f; half_life near 0 or width 0 is DAPO.

    Args:
      logprobs, old_logprobs: [B, T] float32, nats.
      ratio, advantages, dual: as in `ppo`.
      mask: [B, T] bool.
      half_life: tokens.
      width: of the range of f on either side of 1.
      high_only: f is at least 1.
      threshold: ratio; 10 in the recipe of 32B, 4 by default in the code.

    Returns:
      [B, T] float32.
    """
    moved = jax.lax.stop_gradient(jnp.clip(logprobs - old_logprobs, -20, 20))
    counts = mask & (moved <= (math.log(dual) if dual else math.inf))
    future = _discounted(jnp.where(counts, moved, 0), 2 ** (-1 / half_life))
    lowest = 1.0 if high_only else 1 - width
    factor = jnp.clip(jnp.exp(jnp.clip(future, -20, 20)), lowest, 1 + width)
    far = (advantages < 0) & (jax.lax.stop_gradient(ratio) > threshold)
    factor = jnp.where(far, jnp.clip(factor, 1 - width, 1), factor)
    return advantages * factor


def _discounted(x: Array, gamma: float) -> Array:
    """y_t = x_t + gamma * y_(t+1) along the second axis."""

    def join(later, earlier):
        decay, total = earlier
        return later[0] * decay, total + decay * later[1]

    numbers = jnp.full_like(x, gamma), x
    return jax.lax.associative_scan(join, numbers, reverse=True, axis=1)[1]


@stages.declare(by_rows=True, across_rows=False)
def one_dual_clipped(
    ratio: Array, advantages: Array, mask: Array, *, dual: float
) -> tuple[Array, Array]:
    """FIPO's code: completions of which the dual clip acts on two tokens are left out.

    Args:
      ratio, advantages, dual: as in `ppo`.
      mask: [B, T] bool.
    """
    acts = (advantages < 0) & (jax.lax.stop_gradient(ratio) > dual) & (dual > 0)
    kept = mask & (masked.count(acts & mask, axis=1) < 2)[:, None]
    return kept, kept


STAGES = {
    "algo.shaping": {"fipo": fipo},
    "algo.mask": {"one_dual_clipped": one_dual_clipped},
}
METHODS = {
    "fipo": row.Row(
        {
            **row.DAPO,
            "algo.shaping": {"name": "fipo"},
            "algo.clip.dual": 10.0,
            "algo.mask": {"name": "one_dual_clipped"},
        },
        source="arXiv 2603.19835, and its published code",
        open="whether completions with more than one dual-clipped token are left out, "
        "as in the official code alone: algo.mask.name",
    ),
}
