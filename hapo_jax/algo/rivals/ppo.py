"""PPO with a learned value: generalised advantages, whitened over the batch."""

import jax

from hapo_jax.algo import critics, masked, row, stages
from hapo_jax.algo.ranges import Range

Array = jax.Array


@stages.declare(
    by_rows=True,
    silent_at_zero=False,
    options={"gamma": Range(0, 1), "lam": Range(0, 1)},
)
def gae(
    rewards: Array,
    old_values: Array,
    mask: Array,
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
) -> Array:
    """Generalised advantages of a critic's values, whitened over all tokens.

        delta_t = r_t + gamma * V_{t+1} - V_t
        A_t     = delta_t + gamma * lam * A_{t+1},  then (A - mean) / sqrt(var + 1e-8)

    arXiv 1506.02438, Eq. (16), and verl. The reward is that of the last token. The
    critic of algo.critic learns the returns of the same gamma and lam.

    Args:
      rewards, old_values, mask, gamma, lam: see `critics.gae_advantages`.

    Returns:
      [B, T] float32, 0 outside the mask.
    """
    found = critics.gae_advantages(rewards, old_values, mask, gamma=gamma, lam=lam)
    return masked.whiten(found, mask)


STAGES = {"algo.advantage": {"gae": gae}}
METHODS = {
    "ppo": row.Row(
        {
            **row.GRPO,
            "algo.aggregation": {"name": "token_mean"},
            "algo.advantage": {"name": "gae"},
            "algo.critic": {"name": "value_head"},
        },
        source="arXiv 1707.06347, Eq. (7), (9), and verl",
        status="part",
        open="policy and values share a network: algo.critic.strength says how much "
        "the value loss weighs; gamma and lam as in verl",
    ),
}
