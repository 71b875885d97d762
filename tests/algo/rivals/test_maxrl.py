"""MaxRL."""

import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import advantages
from hapo_jax.algo.rivals import maxrl

MASK = jnp.arange(3)[None, :] < jnp.array([3, 1, 2, 3, 0, 1])[:, None]
GROUPS = jnp.array([0, 0, 0, 0, 4, 4], jnp.int32)


def found(rewards):
    return np.asarray(maxrl.maxrl(jnp.asarray(rewards, jnp.float32), MASK, GROUPS))


def test_by_hand():
    """One of four is right, and one of two: A of the right ones is 3 and 1."""
    expected = np.array([3, -1, -1, -1, -1, 1])[:, None] * np.asarray(MASK)
    np.testing.assert_allclose(found([1, 0, 0, 0, 0, 1]), expected, rtol=1e-5)


@pytest.mark.parametrize("rewards", [np.zeros(6), np.ones(6), np.full(6, 1.1)])
def test_equal_rewards_give_exactly_zero(rewards):
    np.testing.assert_array_equal(found(rewards), np.zeros((6, 3)))


def test_a_mean_that_is_not_positive_gives_zero():
    actual = found([-1, 1, -1, 1, -0.5, 0.25])
    np.testing.assert_array_equal(actual, np.zeros((6, 3)))


@pytest.mark.parametrize("seed", range(3))
def test_slow_loop_agrees(seed):
    """Every completion by itself, in float64."""
    rng = np.random.default_rng(seed)
    rewards = rng.integers(0, 2, 6).astype(np.float32)
    expected = np.zeros((6, 3))
    for i in range(6):
        group = [rewards[j] for j in range(6) if GROUPS[j] == GROUPS[i]]
        mean = sum(group) / len(group)
        if 0 < mean < 1:
            expected[i] = (rewards[i] - mean) / (mean + 1e-6)
    expected = np.where(MASK, expected, 0)
    np.testing.assert_allclose(found(rewards), expected, rtol=1e-5, atol=1e-7)


def test_it_is_the_group_advantage_over_its_mean():
    rewards = jnp.array([1.0, 0, 0, 0, 0, 1])
    plain = advantages.dr_grpo(rewards, MASK, GROUPS)
    share = np.array([0.25] * 4 + [0.5] * 2)[:, None]
    np.testing.assert_allclose(found(rewards), plain / (share + 1e-6), rtol=1e-6)
