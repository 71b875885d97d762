"""GPG: the plain policy gradient, corrected for groups that teach nothing."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import advantages, masked, row, stages

Array = jax.Array

CORRECTIONS = ("official", "verl", "none")


@stages.declare(
    by_rows=True,
    options={"correction": CORRECTIONS, "singleton": advantages.SINGLETONS},
)
def gpg(
    rewards: Array,
    mask: Array,
    group_ids: Array,
    *,
    correction: str = "official",
    scale_by_std: bool = False,
    singleton: str = "zero",
) -> Array:
    """GPG: A = c * (R - mean_G), whose factor c is one number for the whole batch.

        official:  c = groups / groups whose rewards differ
        verl:      c = completions / completions whose reward is not 0

    arXiv 2504.02546 and its code, which divides the loss by 1/c: here c is in the
    advantage, so that a token's loss stays its own. verl's counts completions: those of
    groups that are all right among them, those that are wrong in mixed groups not, and
    all where rewards are -1 and 1. Dynamic sampling leaves mixed groups, and c is 1.

    Args:
      rewards, mask, group_ids: see `advantages`.
      correction: how c is found; "none" for 1.
      scale_by_std: divide by the deviation of the group as `advantages.grpo` does.
      singleton: what a group of one gets.

    Returns:
      [B, T] float32.
    """
    plain = advantages.grpo(
        rewards, mask, group_ids, scale_by_std=scale_by_std, singleton=singleton
    )
    filled = jnp.any(mask, axis=1)  # rows without tokens only fill the batch up
    if correction == "verl":
        informative = masked.count(filled & (rewards != 0))
        factor = masked.count(filled) / jnp.maximum(informative, 1)
    elif correction == "official":
        centred, size = advantages.centre(rewards, group_ids)
        differ = advantages.group_max(jnp.abs(centred), group_ids) > 0
        mixed = masked.sum(differ / size, filled)
        factor = masked.sum(1 / size, filled) / jnp.where(mixed > 0, mixed, 1)
    else:
        factor = 1.0
    return factor * plain


STAGES = {"algo.advantage": {"gpg": gpg}}
METHODS = {
    "gpg": row.Row(
        {
            **row.GRPO,
            "algo.advantage": {"name": "gpg"},
            "algo.surrogate": {"name": "reinforce"},
            "algo.aggregation": {"name": "token_mean"},
        },
        source="arXiv 2504.02546 and its code",
        open="whose factor: algo.advantage.correction. Its code also samples until a "
        "share of the groups is mixed; rollout.dynamic_sampling keeps mixed ones alone",
    ),
}
