"""Clip-Cov: a few of the tokens that drive the entropy down are left out, by lot."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import masked, row, selections, stages
from hapo_jax.algo.ranges import FINITE, Range

Array = jax.Array


@stages.declare(
    by_rows=True,
    options={"share": Range(0, 1), "above": FINITE, "below": FINITE},
)
def clip_cov(
    source_logprobs: Array,
    old_logprobs: Array,
    advantages: Array,
    clip_low: Array,
    clip_high: Array,
    random: Array,
    mask: Array,
    *,
    share: float = 2e-4,
    above: float = 1.0,
    below: float = 5.0,
) -> tuple[Array, Array]:
    """Clip-Cov: leaves out tokens drawn among those of high covariance.

        cov   = (A - mean A) * (l - mean l)
        drawn = max(1, floor(share * N)) of the tokens with above < cov < below that PPO
                does not clip, or all of them if they are fewer

    arXiv 2505.22617, with the constants of its code. Denominators stay.

    Args:
      source_logprobs: [B, T] float32, nats, l, of the policy that algo.entropy.source
        names; so is the ratio that PPO would clip, which is 1 for the old policy.
      old_logprobs: [B, T] float32, nats.
      advantages, clip_low, clip_high: as in `ppo`.
      random: [B, T] float32, uniform in [0, 1).
      mask: [B, T] bool.
      share: of the N tokens, at most four decimals.
      above, below: band of the covariance.

    Returns:
      (mask without what was drawn, mask).
    """
    cov = selections.covariance(source_logprobs, advantages, mask)
    ratio = jnp.exp(jnp.clip(source_logprobs - old_logprobs, -20, 20))
    clipped = (advantages < 0) & (ratio < 1 - clip_low)
    clipped |= (advantages > 0) & (ratio > 1 + clip_high)
    eligible = mask & (cov > above) & (cov < below) & ~clipped
    drawn = masked.top(-random, eligible, masked.share(mask, share))
    return mask & ~drawn, mask


STAGES = {"algo.mask": {"clip_cov": clip_cov}}
METHODS = {
    "clip_cov": row.Row(
        {
            **row.DAPO,
            "algo.mask": {"name": "clip_cov"},
            "algo.clip.low": 1.0,
            "algo.clip.high": 1.0,
        },
        source="arXiv 2505.22617, and the recipe of its code",
        open=f"{row.STATISTICS}, as in its code",
    ),
}
