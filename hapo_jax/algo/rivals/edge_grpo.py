"""EDGE-GRPO: advantages divided by how uncertain the completion was."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import advantages as advantages_lib
from hapo_jax.algo import masked, row, stages
from hapo_jax.algo.ranges import Range

Array = jax.Array

_BOUND = Range(1, 1e6, above=True, also=0)


@stages.declare(by_rows=True, options={"bound": _BOUND})
def edge(
    advantages: Array,
    entropy: Array,
    mask: Array,
    group_ids: Array,
    *,
    bound: float = 0.0,
) -> Array:
    """EDGE-GRPO: confident completions have larger advantages of either sign.

        A' = A / P',   P' = P / (mean of P over the group),   P the mean entropy

    arXiv 2507.21848, Eq. (3), (6) and (7). All entropies 0 leave A as it is.

    Args:
      advantages: [B, T] float32.
      entropy: [B, T] float32, nats; of the policy before the updates, as groups are
        not whole in a micro-batch.
      mask: [B, T] bool.
      group_ids: [B] int32.
      bound: P' is kept in [1 / bound, bound]; 0 for no bound. A line of the public
        code that is commented out has 10.

    Returns:
      [B, T] float32.
    """
    own = masked.mean(entropy, mask, axis=1)
    filled = jnp.any(mask, axis=1).astype(jnp.float32)
    mean = advantages_lib.group_mean(own, group_ids, filled)
    return _divided(advantages, own, mean, bound)


@stages.declare(by_rows=True, options={"bound": _BOUND, "detach": (False, True)})
def edge_code(
    advantages: Array,
    current_entropy: Array,
    mask: Array,
    *,
    detach: bool = False,
    bound: float = 0.0,
) -> Array:
    """EDGE-GRPO by its code: by the current policy, among all completions at hand.

        A' = A / P',   P' = P / sg(mean of P),   P the sum of entropies

    The code has the mean over the padded length for P, which gives the same P'. The
    loss has a gradient through P: that of a right completion makes it uncertain.

    Args:
      advantages, mask, bound: as in `edge`.
      current_entropy: [B, T] float32, nats; differentiable.
      detach: no gradient through P.

    Returns:
      [B, T] float32.
    """
    own = masked.sum(current_entropy, mask, axis=1)
    own = jax.lax.stop_gradient(own) if detach else own
    mean = masked.mean(jax.lax.stop_gradient(own), jnp.any(mask, axis=1))
    return _divided(advantages, own, mean, bound)


def _divided(advantages: Array, own: Array, mean: Array, bound: float) -> Array:
    """advantages / (own / mean), with the quotient of [B] numbers >= 0 in its bound."""
    relative = (own + masked.EPSILON) / (mean + masked.EPSILON)
    if bound:
        relative = jnp.clip(relative, 1 / bound, bound)
    return advantages / relative[:, None]


STAGES = {"algo.shaping": {"edge": edge, "edge_code": edge_code}}
_GRPO = {**row.GRPO, "algo.aggregation": {"name": "token_mean"}}
_OPEN = "guided error correction is rollout.correction, and off"
METHODS = {
    "edge_grpo": row.Row(
        {**_GRPO, "algo.shaping": {"name": "edge"}},
        source="arXiv 2507.21848, Eq. (3), (6), (7)",
        open=_OPEN,
    ),
    "edge_grpo_code": row.Row(
        {**_GRPO, "algo.shaping": {"name": "edge_code"}},
        source="the published code of arXiv 2507.21848",
        open=f"{_OPEN}; what the code gathers from all processes is a micro-batch here",
    ),
}
