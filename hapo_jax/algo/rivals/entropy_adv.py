"""Entropy-Adv: a bonus of the entropy on every token's advantage."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import row, stages
from hapo_jax.algo.ranges import Range

Array = jax.Array


@stages.declare(
    options={"alpha": Range(0, 1_000), "kappa": Range(1, 1e6, above=True)},
)
def entropy_adv(
    advantages: Array, entropy: Array, *, alpha: float = 0.4, kappa: float = 2.0
) -> Array:
    """Entropy-Adv: uncertain tokens gain advantage, whatever its sign.

        A' = A + min(alpha * H, |A| / kappa)

    arXiv 2506.14758, the shaped advantage. As kappa > 1, no sign changes: a wrong
    completion is punished less where the policy was uncertain. The paper sets alpha to
    0.4 with GRPO and 0.1 with PPO.

    Args:
      advantages: [B, T] float32.
      entropy: [B, T] float32, nats, of the policy that algo.entropy.source names.
      alpha: per nat; 0 leaves advantages as they are.
      kappa: the bonus is at most 1 / kappa of the advantage.

    Returns:
      [B, T] float32.
    """
    bonus = alpha * jnp.maximum(entropy, 0)  # rounding may leave it below 0
    return advantages + jnp.minimum(bonus, jnp.abs(advantages) / kappa)


STAGES = {"algo.shaping": {"entropy_adv": entropy_adv}}
METHODS = {
    "entropy_adv": row.Row(
        {
            **row.DAPO,
            "algo.shaping": {"name": "entropy_adv"},
            "algo.entropy.source": "current",
            "rollout.dynamic_sampling": False,
        },
        source="arXiv 2506.14758, the shaped advantage; no official code was found",
        open="alpha: 0.4 with GRPO, 0.1 with PPO",
    ),
}
