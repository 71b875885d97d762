"""A learned value per token: what it is fitted to, and by which loss.

The values come from a head beside the policy's own (`learner/value_head.py`). Whatever
the advantages are, it learns the returns of `algo.advantage`'s gamma and lam.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from hapo_jax.algo import stages
from hapo_jax.algo.ranges import Range

Array = jax.Array


class ValueLoss(NamedTuple):
    """Attributes:
    loss: [B, T] float32, times its strength.
    clipped: [B, T] bool, the clip acts; the gradient is 0 there.
    """

    loss: Array
    clipped: Array


@stages.declare(
    silent_at_zero=False,
    options={"strength": Range(0, 1e6, above=True), "clip": Range(0, 1e6)},
)
def value_head(
    values: Array,
    old_values: Array,
    returns: Array,
    *,
    strength: float = 0.1,
    clip: float = 0.5,
) -> ValueLoss:
    """A linear head on the states that predict the tokens; its loss trains both.

        L = strength / 2 * max((V - G)^2, (V' - G)^2)
        V' = clip(V, V_old - clip, V_old + clip)

    arXiv 1707.06347 and verl. Tokens are weighted as in the policy's loss. The paper
    leaves open how much the loss weighs where policy and values share a network: 1 in
    its Atari runs, 0.1 in TRL, apart in verl.

    Args:
      values: [B, T] float32, of the current head; differentiable.
      old_values: [B, T] float32, before the step's updates.
      returns: [B, T] float32, see `returns`.
      strength: of the loss.
      clip: of a value, per update of the rollout; 0: none.

    Returns:
      ValueLoss.
    """
    chex.assert_equal_shape([values, old_values, returns])
    error = jnp.square(values - returns)
    clipped = jnp.zeros(values.shape, bool)
    if clip:
        bounded = jnp.clip(values, old_values - clip, old_values + clip)
        bounded_error = jnp.square(bounded - returns)
        clipped = bounded_error > error
        error = jnp.maximum(error, bounded_error)
    return ValueLoss(strength / 2 * error, clipped)


@stages.declare()
def none(mask: Array) -> ValueLoss:
    """No critic."""
    return ValueLoss(jnp.zeros(mask.shape, jnp.float32), jnp.zeros(mask.shape, bool))


CRITICS: dict[str, Callable[..., ValueLoss]] = {"none": none, "value_head": value_head}


@stages.declare(by_rows=True)
def returns(
    rewards: Array, old_values: Array, mask: Array, *, gamma: float, lam: float
) -> Array:
    """What a value is fitted to: G = V_old + A, A of `gae_advantages`.

    Args:
      rewards: [B] float32.
      old_values: [B, T] float32.
      mask: [B, T] bool.
      gamma, lam: see `gae_advantages`.

    Returns:
      [B, T] float32, 0 outside the mask.
    """
    advantages = gae_advantages(rewards, old_values, mask, gamma=gamma, lam=lam)
    return jnp.where(mask, advantages + old_values, 0)


def gae_advantages(
    rewards: Array, old_values: Array, mask: Array, *, gamma: float, lam: float
) -> Array:
    """Generalised advantages before they are whitened.

        delta_t = r_t + gamma * V_{t+1} - V_t
        A_t     = delta_t + gamma * lam * A_{t+1}

    arXiv 1506.02438, Eq. (16). The reward is that of the last token of the mask. t + 1
    is the next token of the mask, as in verl since 2026: what lies between is skipped.

    Args:
      rewards: [B] float32, one per completion.
      old_values: [B, T] float32.
      mask: [B, T] bool.
      gamma, lam: discounts per token, in [0, 1].

    Returns:
      [B, T] float32, 0 outside the mask.
    """
    chex.assert_rank([rewards, old_values, mask], [1, 2, 2])
    chex.assert_equal_shape([old_values, mask])
    left = jnp.cumsum(mask[:, ::-1], axis=1)[:, ::-1]
    reward = jnp.where(mask & (left == 1), rewards[:, None], 0)
    values = jnp.where(mask, old_values, 0)

    def step(after, now):
        next_value, next_advantage = after
        reward, value, present = now
        advantage = reward + gamma * next_value - value + gamma * lam * next_advantage
        after = (
            jnp.where(present, value, next_value),
            jnp.where(present, advantage, next_advantage),
        )
        return after, jnp.where(present, advantage, 0)

    zeros = jnp.zeros_like(rewards)
    _, found = jax.lax.scan(
        step, (zeros, zeros), (reward.T, values.T, mask.T), reverse=True
    )
    return found.T
