"""Forking tokens: the loss is of the most uncertain 20 % alone."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import masked, row, stages
from hapo_jax.algo.ranges import Range

Array = jax.Array


@stages.declare(
    by_rows=True,
    options={
        "share": Range(0, 1, above=True),
        "rule": ("quantile", "top_ceil", "top_floor"),
        "denominator": ("selected", "all"),
    },
)
def forking(
    entropy: Array,
    mask: Array,
    *,
    share: float = 0.2,
    rule: str = "quantile",
    denominator: str = "selected",
) -> tuple[Array, Array]:
    """Forking tokens: the share of tokens with the highest entropy.

        kept = H >= tau,   tau the (1 - share) quantile of H over the batch

    arXiv 2506.01939, Eq. (4). With algo.entropy.source "old" tau is that of the whole
    batch. With "current", as in its code, it is that of each micro-batch, and how a
    mini-batch is cut changes the loss. Equal entropies may keep more than the share.

    Args:
      entropy: [B, T] float32, nats, of the policy that algo.entropy.source names.
      mask: [B, T] bool.
      share: of the tokens, at most four decimals.
      rule: "quantile" by linear interpolation, as TRL; "top_ceil", the highest
        ceil(share * N), as the paper's code; "top_floor", as other code. At least one.
      denominator: "selected", the mean over what is kept, as the paper; or "all"
        tokens, as TRL.
    """
    if rule == "quantile":
        index = masked.order_index(
            masked.size(mask), round(1 - share, 4), rounding="up"
        )
    else:
        count = masked.size(mask)
        whole, rest, _ = masked.share_of(count, share)
        top = whole + (rest > 0) if rule == "top_ceil" else whole
        index = count - jnp.maximum(top, 1)
    kept = mask & (entropy >= masked.order_statistic(entropy, mask, index))
    return kept, kept if denominator == "selected" else mask


STAGES = {"algo.mask": {"forking": forking}}
METHODS = {
    "forking": row.Row(
        {**row.DAPO, "algo.mask": {"name": "forking"}},
        source="arXiv 2506.01939, Eq. (4)",
        open="which tokens count in the mean: algo.mask.denominator",
    ),
}
