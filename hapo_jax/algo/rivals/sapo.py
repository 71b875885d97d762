"""SAPO: a soft gate in place of the clip."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import row, stages
from hapo_jax.algo.losses import Surrogate
from hapo_jax.algo.ranges import Range

Array = jax.Array


@stages.declare(
    options={
        "tau_positive": Range(0, 1_000, above=True),
        "tau_negative": Range(0, 1_000, above=True),
    }
)
def sapo(
    ratio: Array,
    advantages: Array,
    *,
    tau_positive: float = 1.0,
    tau_negative: float = 1.05,
) -> Surrogate:
    """SAPO: a sigmoid of the ratio, whose gradient fades away from 1.

        L = -A * 4 / tau * sigmoid(tau * (r - 1)),   tau = tau_positive   if A > 0
                                                           tau_negative   otherwise

    arXiv 2511.20347. At r = 1 the gradient is that of -A * r; no bound acts anywhere.

    Args:
      ratio: [B, T] float32, differentiable.
      advantages: [B, T] float32.
      tau_positive, tau_negative: how fast the gradient fades, by the sign of A.
    """
    tau = jnp.where(advantages > 0, jnp.float32(tau_positive), tau_negative)
    gate = 4 / tau * jax.nn.sigmoid(tau * (ratio - 1))
    never = jnp.zeros(ratio.shape, bool)
    return Surrogate(-advantages * gate, never, never, never)


STAGES = {"algo.surrogate": {"sapo": sapo}}
METHODS = {
    "sapo": row.Row(
        {**row.GRPO, "algo.surrogate": {"name": "sapo"}}, source="arXiv 2511.20347"
    ),
}
