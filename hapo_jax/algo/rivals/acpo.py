"""ACPO: the clip range follows how far ratios scatter among tokens as probable."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import masked, row, stages
from hapo_jax.algo.ranges import Range

Array = jax.Array

# Added to the variance, as in its code.
VARIANCE_EPSILON = 1e-8


@stages.declare(
    by_rows=True,
    options={
        "bins": Range(1, 1_000, whole=True),
        "spread": Range(0, 1_000),
        "widest": Range(0, 1_000, above=True),
    },
)
def by_ratio_spread(
    logprobs: Array,
    ratio: Array,
    mask: Array,
    *,
    low: float,
    high: float,
    bins: int = 5,
    spread: float = 3.0,
    widest: float = 3.0,
) -> tuple[Array, Array]:
    """ACPO: a range per bin of the token's probability, wider where ratios scatter.

        width = min(base + spread * std of r over the bin, widest)

    By its code: bins of equal width over π in [0, 1], the population deviation, over
    the micro-batch, so that how a mini-batch is cut changes the loss. Widths above 1
    have no lower bound.

    Args:
      logprobs: [B, T] float32, nats, current policy.
      ratio: [B, T] float32; no gradient flows through it here.
      mask: [B, T] bool.
      low, high: the base, below and above 1.
      bins: how many.
      spread: weight of the deviation; 0 gives the plain range.
      widest: largest width.
    """
    p = jnp.exp(jnp.minimum(jax.lax.stop_gradient(logprobs), 0))
    own = jnp.minimum((p * bins).astype(jnp.int32), bins - 1)
    deviation = jnp.zeros_like(p)
    for index in range(bins):
        inside = mask & (own == index)
        variance = (
            jnp.square(masked.std(jax.lax.stop_gradient(ratio), inside))
            + VARIANCE_EPSILON
        )
        deviation = jnp.where(inside, jnp.sqrt(variance), deviation)
    wider = spread * deviation
    return jnp.minimum(low + wider, widest), jnp.minimum(high + wider, widest)


STAGES = {"algo.clip_range": {"by_ratio_spread": by_ratio_spread}}
METHODS = {
    "acpo": row.Row(
        {
            **row.GRPO,
            "algo.clip_range": {"name": "by_ratio_spread"},
            "algo.clip.dual": 3.0,
        },
        source="the code of ACPO",
        open="statistics are of a micro-batch, as in its code, for they are of the "
        "current policy",
    ),
}
