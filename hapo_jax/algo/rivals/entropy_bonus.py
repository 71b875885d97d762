"""A bonus for the entropy of the policy, of a fixed size."""

import jax

from hapo_jax.algo import row, stages
from hapo_jax.algo.ranges import Range

Array = jax.Array


@stages.declare(silent_at_zero=False, options={"coefficient": Range(0, 1_000)})
def entropy_bonus(current_entropy: Array, *, coefficient: float = 0.001) -> Array:
    """A bonus for entropy: -coefficient * H.

    arXiv 1602.01783, §4. H is the entropy of the current policy's untempered
    distribution at the token.

    Args:
      current_entropy: [B, T] float32, nats; differentiable.
      coefficient: loss per nat.
    """
    return -coefficient * current_entropy


STAGES = {"algo.regulariser": {"entropy_bonus": entropy_bonus}}
METHODS = {
    "entropy_bonus": row.Row(
        {**row.DAPO, "algo.regulariser": {"name": "entropy_bonus"}},
        source="arXiv 1602.01783, §4, on DAPO",
        status="part",
        open="algo.regulariser.coefficient: 0.001 is what verl had as its default; the "
        "paper's 0.01 is for a few actions, not a vocabulary",
    ),
}
