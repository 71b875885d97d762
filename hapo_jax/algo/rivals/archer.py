"""Archer: uncertain tokens are free, confident ones are held to the reference."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import clipping, masked, row, stages
from hapo_jax.algo.ranges import Range

Array = jax.Array


@stages.declare(by_rows=True, across_rows=False, options={"quantile": Range(0, 1)})
def confident(entropy: Array, mask: Array, *, quantile: float = 0.8) -> Array:
    """Archer: the confident tokens of each completion, for a mean over them alone.

        selected = n / n_confident  if H <= quantile of H over the completion, else 0

    arXiv 2507.15778. A loss that is `selected` times a KL, and then a mean over the n
    tokens of the completion, is the mean over its n_confident tokens. The quantile is
    by linear interpolation.

    Args:
      entropy: [B, T] float32, nats, of the policy that algo.entropy.source names.
      mask: [B, T] bool.
      quantile: as in `by_row_entropy`.
    """
    low = clipping.confident(entropy, mask, quantile)
    share = masked.count(mask, axis=1) / jnp.maximum(masked.count(low, axis=1), 1)
    return jnp.where(low, share[:, None], 0)


STAGES = {"algo.selection": {"confident": confident}}
METHODS = {
    "archer": row.Row(
        {
            **row.DAPO,
            "algo.entropy.source": "current",
            "algo.clip_range": {
                "name": "by_row_entropy",
                "wide_low": 0.5,
                "wide_high": 0.5,
            },
            "algo.clip.high": 0.2,
            "algo.clip.dual": 10.0,
            "algo.selection": {"name": "confident"},
            "algo.regulariser": {"name": "selected_reference", "strength": 1e-3},
            "algo.aggregation": {"name": "seq_mean_token_mean"},
        },
        source="arXiv 2507.15778",
        open="means of a completion's tokens, of all for the surrogate and of the "
        "confident for the KL, as in the paper; its code has means of a micro-batch, "
        "which is one completion",
    ),
}
