"""Adaptive entropy: a bonus while there is too little of it, of a size that adapts."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import masked, row, stages
from hapo_jax.algo.ranges import Range

Array = jax.Array


def _init(*, initial: float) -> dict[str, Array]:
    """`applied`: to the updates of this step; `coefficient`: c of the next one."""
    return {"coefficient": jnp.float32(initial), "applied": jnp.float32(0)}


def _update(
    values, state, *, target: float, step: float, least: float, most: float
) -> dict[str, Array]:
    c = state["coefficient"]
    low = masked.mean(values["old_entropy"], values["mask"]) <= target
    return {
        "coefficient": jnp.clip(c + jnp.where(low, step, -step), least, most),
        "applied": jnp.where(low, c, 0),
    }


@stages.declare(
    silent_at_zero=False,
    options={
        "target": Range(0, 20),
        "step": Range(0, 1_000),
        "initial": Range(0, 1_000),
        "least": Range(0, 1_000),
        "most": Range(0, 1_000),
    },
    init=_init,
    update=_update,
)
def adaptive_entropy(
    current_entropy: Array,
    state: dict[str, Array],
    *,
    target: float = 0.2,
    step: float = 0.005,
    initial: float = 0.0,
    least: float = 0.0,
    most: float = 1.0,
) -> Array:
    """A bonus for entropy, as long as there is too little of it: Skywork-OR1.

        -c_k H  where e_k <= target, else 0;   c_{k+1} = c_k + step, or c_k - step

    arXiv 2505.22312, adaptive entropy control. e_k is the mean entropy of the tokens
    of step k under the policy that starts it; c moves up where that is at most target.

    Args:
      current_entropy: [B, T] float32, nats, of the current policy; differentiable.
      state: see `_init`.
      target: nats.
      step: of c, once per step; loss per nat.
      initial: c of the first step.
      least, most: bounds of c.
    """
    return -state["applied"] * current_entropy


STAGES = {"algo.regulariser": {"adaptive_entropy": adaptive_entropy}}
METHODS = {
    "adaptive_entropy": row.Row(
        {**row.DAPO, "algo.regulariser": {"name": "adaptive_entropy"}},
        source="arXiv 2505.22312, adaptive entropy control, on DAPO",
        open="TRL moves c with every update, by the entropy of the one before; here "
        "it moves once per step",
    ),
}
