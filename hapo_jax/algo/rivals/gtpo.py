"""GTPO: rewards per token, from the entropies of the group at a position."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import advantages, masked, row, stages
from hapo_jax.algo.ranges import Range

Array = jax.Array


@stages.declare(
    by_rows=True,
    options={
        "outcome": Range(0, 1_000),
        "entropy_bonus": Range(0, 1_000),
        "norm_set": ("group", "polarity"),
    },
)
def gtpo(
    scores: Array,
    old_entropy: Array,
    mask: Array,
    group_ids: Array,
    *,
    outcome: float = 1.0,
    entropy_bonus: float = 0.1,
    norm_set: str = "group",
) -> Array:
    """GTPO: rewards per token, by the entropies of the group at the same position.

    arXiv 2508.04349, Eq. (3) to (7), see `gtpo_rewards`, and then normalised to mean 0
    and deviation 1 over tokens. The paper leaves open over which: with "polarity" only
    those of right, or of wrong, completions, and then the sign of the outcome is lost.

    Args:
      scores, old_entropy, mask, group_ids: see the module; entropies in nats.
      outcome, entropy_bonus: alpha_1 and alpha_2 of the paper.
      norm_set: "group", all tokens of the group, or "polarity".

    Returns:
      [B, T] float32; 0 for a group that is all right or all wrong.
    """
    shaped = gtpo_rewards(
        scores,
        old_entropy,
        mask,
        group_ids,
        outcome=outcome,
        entropy_bonus=entropy_bonus,
    )
    right = scores > 0.5
    ids = group_ids if norm_set == "group" else group_ids * 2 + right
    size = 2 * len(scores)

    def mean(x):
        """[B, 1], over the tokens of the set that each row belongs to."""
        total = jax.ops.segment_sum(masked.sum(x, mask, axis=1), ids, size)
        count = jax.ops.segment_sum(masked.count(mask, axis=1), ids, size)
        return (total / jnp.maximum(count, 1))[ids][:, None]

    centred = shaped - mean(shaped)
    std = jnp.sqrt(mean(jnp.square(centred)))
    share = advantages.group_mean(
        right.astype(jnp.float32), group_ids, jnp.ones_like(scores)
    )
    mixed = (share > 0) & (share < 1)
    return jnp.where(mask & mixed[:, None], centred / (std + advantages.STD_EPSILON), 0)


def gtpo_rewards(
    scores: Array,
    old_entropy: Array,
    mask: Array,
    group_ids: Array,
    *,
    outcome: float,
    entropy_bonus: float,
) -> Array:
    """The token rewards of `gtpo` before they are normalised, [B, T] float32.

        right:   outcome + entropy_bonus * n_t * H   / sum of H   over the right
        wrong:  -outcome - entropy_bonus * n_t * 1/H / sum of 1/H over the wrong

    sums and the number n_t are over the completions of the group, right or wrong as
    the token's own, that are at least t long.
    """
    right = scores > 0.5
    nats = jnp.where(mask, old_entropy, 0)
    measure = jnp.where(right[:, None], nats, 1 / (nats + masked.EPSILON))
    measure = jnp.where(mask, measure, 0)
    ids = group_ids * 2 + right

    def alike(x):
        """[B, T], summed over completions of the group with the same outcome."""
        return jax.ops.segment_sum(x, ids, 2 * len(scores))[ids]

    share = measure / (alike(measure) + masked.EPSILON)
    value = outcome + entropy_bonus * share * alike(mask.astype(jnp.float32))
    return jnp.where(mask, jnp.where(right[:, None], value, -value), 0)


STAGES = {"algo.advantage": {"gtpo": gtpo}}
METHODS = {
    "gtpo": row.Row(
        {**row.DAPO, "algo.advantage": {"name": "gtpo"}},
        source="arXiv 2508.04349, Eq. (3) to (7)",
        open="over which tokens rewards are normalised: algo.advantage.norm_set",
    ),
}
