"""MaxRL: hard problems weigh more, towards the likelihood of being right."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import advantages, row, stages

Array = jax.Array

# Added to a group's mean reward, as in the paper's code.
MEAN_EPSILON = 1e-6


@stages.declare(by_rows=True)
def maxrl(rewards: Array, mask: Array, group_ids: Array) -> Array:
    """MaxRL: A = (R - mean_G) / (mean_G + 1e-6).

    arXiv 2602.02710, whose rewards are 0 and 1: the mean is the share that is right,
    and the expected gradient that of a truncated series of log of it. A group whose
    mean is not positive, as penalties can make it, has 0. A group of one has 0.

    Args:
      rewards, mask, group_ids: see `advantages`.

    Returns:
      [B, T] float32.
    """
    centred, _ = advantages.centre(rewards, group_ids)
    mean = rewards - centred
    scaled = centred / jnp.where(mean > 0, mean + MEAN_EPSILON, 1)
    return advantages.per_token(jnp.where(mean > 0, scaled, 0), mask)


STAGES = {"algo.advantage": {"maxrl": maxrl}}
METHODS = {
    "maxrl": row.Row(
        {
            **row.GRPO,
            "algo.advantage": {"name": "maxrl"},
            "algo.aggregation": {"name": "token_mean"},
            "reward.wrong": 0.0,
        },
        source="arXiv 2602.02710",
        open="the loss around the advantage: PPO's clipped ratio, over all tokens",
    ),
}
