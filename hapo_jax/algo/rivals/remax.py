"""ReMax: the reward of a greedy completion is the baseline."""

import jax

from hapo_jax.algo import advantages, row, stages

Array = jax.Array


@stages.declare(by_rows=True, silent_at_zero=False)
def remax(rewards: Array, baselines: Array, mask: Array) -> Array:
    """ReMax: A = R - reward of the prompt's greedy completion.

    arXiv 2310.10505. Needs rollout.greedy_baseline, whose tokens count as
    sampled. Equal rewards of a group may have an advantage.

    Args:
      rewards: [B] float32.
      baselines: [B] float32.
      mask: [B, T] bool.

    Returns:
      [B, T] float32.
    """
    return advantages.per_token(rewards - baselines, mask)


STAGES = {"algo.advantage": {"remax": remax}}
METHODS = {
    "remax": row.Row(
        {
            **row.GRPO,
            "algo.advantage": {"name": "remax"},
            "algo.surrogate": {"name": "reinforce"},
            "algo.aggregation": {"name": "token_mean"},
            "rollout.greedy_baseline": True,
        },
        source="arXiv 2310.10505",
        open="the mean is over tokens, as in verl; the paper's is over completions of "
        "their sums, algo.aggregation=seq_mean_token_sum",
    ),
}
