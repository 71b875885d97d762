"""Advantage reweighting and Lopti: improbable tokens do not decide alone."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import row, stages
from hapo_jax.algo.ranges import Range

Array = jax.Array


@stages.declare(options={"alpha": Range(0, 1)})
def by_probability(
    old_logprobs: Array, advantages: Array, *, alpha: float = 0.3
) -> Array:
    """A' = A * (alpha * p_old + 1 - alpha).

    arXiv 2505.12929: gradients of improbable tokens are the largest, and would decide.
    alpha = 0 changes nothing.

    Args:
      old_logprobs: [B, T] float32, nats.
      advantages: [B, T] float32.
      alpha: share of the weight that the probability has.

    Returns:
      [B, T] float32.
    """
    return advantages * (alpha * jnp.exp(old_logprobs) + (1 - alpha))


STAGES = {"algo.shaping": {"by_probability": by_probability}}
# Of all recipes of the published code.
_GRPO = {
    **row.GRPO,
    "algo.clip.high": 0.24,
    "algo.clip.dual": 10.0,
    "algo.aggregation": {"name": "token_mean"},
    "algo.kl.strength": 1e-3,
}
_LOPTI = {**_GRPO, "algo.phases": {"name": "low_probability_first"}}
_SOURCE = "arXiv 2505.12929, and its published code"
METHODS = {
    "advantage_reweighting": row.Row(
        {**_GRPO, "algo.shaping": {"name": "by_probability", "alpha": 0.2}},
        source=_SOURCE,
    ),
    "lopti": row.Row(
        _LOPTI,
        source=_SOURCE,
        open="the bound of the first pass, algo.phases.below: 0.5 in the paper, 0.4 in "
        "the published recipe without reweighting",
    ),
    "advantage_reweighting_lopti": row.Row(
        {**_LOPTI, "algo.shaping": {"name": "by_probability", "alpha": 0.3}},
        source=_SOURCE,
    ),
}
