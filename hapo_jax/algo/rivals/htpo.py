"""HTPO: another loss by difficulty, correctness and entropy."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import losses, masked, row, stages
from hapo_jax.algo.losses import Surrogate
from hapo_jax.algo.ranges import Range

Array = jax.Array


@stages.declare(
    by_rows=True,
    across_rows=False,
    options={
        "sign": ("code", "reversed"),
        "hard_below": Range(0, 2),
        "high_share": Range(0, 1),
        "low_tail": Range(0, 1),
        "high_tail": Range(0, 1),
    },
)
def htpo(
    ratio: Array,
    advantages: Array,
    clip_low: Array,
    clip_high: Array,
    entropy: Array,
    mask: Array,
    correct: Array,
    group_accuracy: Array,
    *,
    dual: float,
    sign: str = "code",
    hard_below: float = 0.6,
    high_share: float = 0.2,
    low_tail: float = 0.006,
    high_tail: float = 0.02,
) -> Surrogate:
    """HTPO: PPO on confident tokens, bounded gradients on uncertain ones.

    A token is uncertain if its entropy is among the floor(high_share * n) highest of
    its completion, a prompt hard if fewer than hard_below of its group are right. With
    q = r / sg(r), of value 1:

        right, hard, uncertain:  +A (1 + high) q  if r > 1 + high
                                 +A q / sg(r)     if r < 1 - low,   else -A r
        wrong, uncertain:        +A (1 - low) q   if r < 1 - low,   else -A r
        otherwise                PPO

    and then the dual clip of `ppo`. Nothing is learnt, though it counts, of right hard
    tokens below the k-th lowest entropy of the confident ones, k = max(1,
    floor(low_tail * n)); nor of right easy ones among the max(1, floor(high_tail * n))
    highest of the uncertain.

    arXiv 2605.08283, by its code. There +A, which pushes a right token further away,
    stands where -A would be expected; "reversed" has -A.

    Args:
      ratio, advantages, clip_low, clip_high, dual: as in `ppo`.
      entropy: [B, T] float32, nats, of the policy that algo.entropy.source names.
      mask, correct: [B, T] bool.
      group_accuracy: [B, T] float32 in [0, 1].
      sign: of the bounded gradients.
      hard_below: accuracy.
      high_share, low_tail, high_tail: shares, at most four decimals.
    """
    high, tail_low, tail_high = jax.vmap(
        lambda *x: _parts(*x, high_share, low_tail, high_tail)
    )(entropy, mask)
    low, hard = mask & ~high, group_accuracy < hard_below
    plain = losses.ppo(ratio, advantages, clip_low, clip_high, dual=0.0)
    fixed = jax.lax.stop_gradient(ratio)
    below, above = fixed < 1 - clip_low, fixed > 1 + clip_high
    right_hard, wrong = high & correct & hard, high & ~correct
    is_plain = low | (high & correct & ~hard)
    clipped_low = jnp.where(is_plain, plain.clipped_low, below)
    clipped_high = jnp.where(is_plain, plain.clipped_high, above & right_hard)

    up = advantages if sign == "code" else -advantages
    bound = jnp.where(above, 1 + clip_high, 1 / fixed)
    bound = jnp.where(wrong, 1 - clip_low, bound)
    bounded = jnp.where(right_hard, below | above, wrong & below)
    loss = jnp.where(bounded, up * bound * (ratio / fixed), -advantages * ratio)
    loss = jnp.where(is_plain, plain.loss, loss)
    unlearnt = (correct & hard & tail_low) | (correct & ~hard & tail_high)
    loss = jnp.where(unlearnt, 0, loss)
    ceiling = -advantages * dual
    dual_clipped = (advantages < 0) & (loss > ceiling) & (dual > 0)
    loss = jnp.where(dual_clipped, ceiling, loss)
    return Surrogate(loss, clipped_low, clipped_high, dual_clipped)


def _parts(
    entropy: Array,
    mask: Array,
    high_share: float,
    low_tail: float,
    high_tail: float,
) -> tuple[Array, Array, Array]:
    """Of a completion, [T] bool: uncertain, the tail below, the tail above."""

    def highest(x, mask, share):
        """The k-th highest of x, k = max(1, floor(share * n))."""
        index = masked.size(mask) - masked.share(mask, share)
        return masked.order_statistic(x, mask, jnp.maximum(index, 0))

    high = mask & (entropy >= highest(entropy, mask, high_share))
    low = mask & ~high
    tail_low = low & (-entropy > highest(-entropy, low, low_tail))
    return high, tail_low, high & (entropy >= highest(entropy, high, high_tail))


STAGES = {"algo.surrogate": {"htpo": htpo}}
METHODS = {
    "htpo": row.Row(
        {
            **row.DAPO,
            "algo.surrogate": {"name": "htpo"},
            "algo.clip.dual": 10.0,
            "algo.entropy.source": "current",
        },
        source="arXiv 2605.08283, by its published code",
        open="the sign of bounded gradients, which looks like an error of the code: "
        "algo.surrogate.sign",
    ),
}
