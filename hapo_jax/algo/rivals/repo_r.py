"""REPO-R: advantages by the probability of the token, driven by the entropy."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import masked, row, stages
from hapo_jax.algo.ranges import Range

Array = jax.Array

# Of the controller: where |zeta| stays, and from where the sign turns.
LEAST, MOST = 1e-4, 0.05


def update(values, state: Array, target: float) -> Array:
    """The step's zeta: towards the entropy's target by a factor of 2.

    With the sign that raises the entropy, |zeta| doubles below the target and is halved
    above it; with the other sign the other way; at LEAST, halving turns the sign.
    """
    mean = masked.mean(values["old_entropy"], values["mask"])
    raises = jnp.where(mean < target, 1.0, -1.0)
    size = jnp.abs(state)
    grown = raises * jnp.minimum(2 * size, MOST)
    shrunk = -raises * jnp.maximum(size / 2, LEAST)
    smaller = jnp.where(size > LEAST, shrunk, raises * LEAST)
    moved = jnp.where(state * raises > 0, grown, smaller)
    moves = (target > 0) & (mean != target) & (state != 0)
    return jnp.where(moves, moved, state)


@stages.declare(
    options={"zeta": Range(-MOST, MOST), "target": Range(0, 100)},
    init=lambda zeta: jnp.float32(zeta),
    update=update,
)
def repo_r(
    logprobs: Array,
    advantages: Array,
    state: Array,
    *,
    zeta: float = 1e-3,
    target: float = 0.3,
) -> Array:
    """REPO-R: improbable tokens gain from both signs of the advantage.

        A' = max(0, A * (1 - zeta l))   for A > 0
        A' = min(0, A * (1 + zeta l))   for A < 0

    arXiv 2603.11682, appendix D.2. After each rollout zeta is doubled or halved towards
    the target of the mean entropy, and turns its sign where it is smallest.

    Args:
      logprobs: [B, T] float32, nats, l, of the current policy; no gradient.
      advantages: [B, T] float32.
      state: the step's zeta.
      zeta: of the first step; 0 stays 0 and is DAPO.
      target: nats, of the mean entropy under the policy before the updates; 0 keeps
        zeta.

    Returns:
      [B, T] float32.
    """
    push = state * jax.lax.stop_gradient(logprobs)
    scaled = jnp.where(advantages > 0, 1 - push, 1 + push)
    return advantages * jnp.maximum(scaled, 0)


STAGES = {"algo.shaping": {"repo_r": repo_r}}
METHODS = {
    "repo_r": row.Row(
        {**row.DAPO, "algo.shaping": {"name": "repo_r"}},
        source="arXiv 2603.11682, appendix D.2; no official code was found",
    ),
}
