"""Pass@k: the best completion of a group alone learns, by its lead over the second."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import advantages, row, stages

Array = jax.Array


@stages.declare(by_rows=True)
def passk(
    rewards: Array, mask: Array, group_ids: Array, *, scale_by_std: bool = True
) -> Array:
    """Pass@k: the lead of a group's best completion over the second; 0 for all others.

        A = (R - second best reward) / (std_G + 1e-6)   if R is the group's best alone

    arXiv 2503.19595, with k the size of the group, as in verl. With rewards of 0 and 1
    only a completion that is the one right one of its group learns anything. A group
    of one has no second, and 0.

    Args:
      rewards, mask, group_ids: see `advantages`.
      scale_by_std: divide by the deviation of a sample, as `advantages.grpo`.

    Returns:
      [B, T] float32.
    """
    best = rewards == advantages.group_max(rewards, group_ids)
    alone = advantages.group_sum(best.astype(jnp.float32), group_ids) == 1
    second = advantages.group_max(jnp.where(best, -jnp.inf, rewards), group_ids)
    centred, size = advantages.centre(rewards, group_ids)
    lead = jnp.where(best & alone & (size > 1), rewards - second, 0)
    if scale_by_std:
        std = advantages.group_std(centred, size, group_ids)
        lead = lead / (std + advantages.STD_EPSILON)
    return advantages.per_token(lead, mask)


STAGES = {"algo.advantage": {"passk": passk}}
METHODS = {
    "passk": row.Row(
        {
            **row.GRPO,
            "algo.advantage": {"name": "passk"},
            "algo.aggregation": {"name": "token_mean"},
        },
        source="arXiv 2503.19595",
        open="with PPO's clipped ratio and the deviation, as in verl: "
        "algo.advantage.scale_by_std",
    ),
}
