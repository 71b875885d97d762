"""OTB: a baseline of least variance for every token."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import advantages, masked, row, stages

Array = jax.Array


@stages.declare(
    by_rows=True,
    silent_at_zero=False,
    options={"singleton": advantages.SINGLETONS, "zero_tail": (True, False)},
)
def otb(
    rewards: Array,
    old_logprobs: Array,
    old_square_sum: Array,
    mask: Array,
    group_ids: Array,
    *,
    singleton: str = "zero",
    zero_tail: bool = True,
) -> Array:
    """Optimal token baseline, weighted by how much each completion was left to chance.

        A_t = R - B_t,   B_t = sum of R W_t / sum of W_t,   W_t = sum_{j <= t} w_j
        w_j = 1 - 2 π_j + sum over the vocabulary of π²

    arXiv 2602.07078, as in verl. Sums are over the completions of the group that are at
    least t long. w is the squared norm of the gradient of log π_j in the logits. From
    rewards minus the group's mean, which changes nothing but that equal rewards give 0.

    Args:
      rewards, mask, group_ids: see `advantages`.
      old_logprobs: [B, T] float32, nats.
      old_square_sum: [B, T] float32, in (0, 1].
      singleton: what a group of one gets.
      zero_tail: where the longest completion is alone B is 0; or it is R, and A is 0.
    """
    centred, size = advantages.centre(rewards, group_ids)
    energy = jnp.maximum(1 - 2 * jnp.exp(old_logprobs) + old_square_sum, 0)
    weight = jnp.cumsum(jnp.where(mask, energy, 0), axis=1)
    weight = jnp.where(mask, weight, 0)
    total = advantages.group_sum(weight, group_ids)
    weighted = advantages.group_sum(weight * centred[:, None], group_ids)
    found = centred[:, None] - weighted / (total + masked.EPSILON)
    if zero_tail:
        alone = advantages.group_sum(mask.astype(jnp.float32), group_ids) == 1
        found = jnp.where(alone, rewards[:, None], found)
    single = rewards if singleton == "verl" else jnp.zeros_like(rewards)
    found = jnp.where((size == 1)[:, None], single[:, None], found)
    return jnp.where(mask, found, 0)


STAGES = {"algo.advantage": {"otb": otb}}
METHODS = {
    "otb": row.Row(
        {
            **row.GRPO,
            "algo.advantage": {"name": "otb"},
            "algo.aggregation": {"name": "token_mean"},
        },
        source="arXiv 2602.07078; verl's optimal_token_baseline",
        open="what the longest completion of a group gets beyond the second longest: "
        "algo.advantage.zero_tail, which verl has had on and off",
    ),
}
