"""ReMax."""

import jax.numpy as jnp
import numpy as np

from hapo_jax.algo import advantages
from hapo_jax.algo.rivals import remax


def _remax(case):
    rewards = case.inputs["token_level_rewards"].sum(axis=1)
    baselines = case.inputs["reward_baselines"]
    return {
        "advantages": remax.remax(rewards, baselines, case.mask),
        "returns": advantages.returns_to_go(rewards, case.mask, gamma=1.0),
    }


GOLDEN = {"remax": _remax}


def test_by_hand():
    mask = jnp.array([[True, True, False], [True, False, False]])
    numbers = jnp.array([1.0, 0.5]), jnp.array([0.25, 1.0])
    found = remax.remax(*numbers, mask)
    np.testing.assert_array_equal(found, [[0.75, 0.75, 0], [-0.5, 0, 0]])


def test_a_baseline_of_zero_leaves_the_rewards():
    rewards, mask = jnp.array([1.0, -2.0]), jnp.ones((2, 3), bool)
    found = remax.remax(rewards, jnp.zeros(2), mask)
    np.testing.assert_array_equal(found, [[1.0] * 3, [-2.0] * 3])
