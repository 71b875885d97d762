"""Pass@k advantages."""

import jax.numpy as jnp
import numpy as np

from hapo_jax.algo.rivals import passk
from tests import golden

GOLDEN = {
    "grpo_passk": lambda case: {
        "advantages": passk.passk(
            *golden.completions(case),
            scale_by_std=case.config.get("norm_adv_by_std_in_grpo", True),
        )
    }
}

MASK = jnp.array([[True, False]] * 8)
GROUPS = jnp.array([0, 1, 0, 1, 0, 1, 6, 7], jnp.int32)


def found(rewards, **options):
    rewards = jnp.asarray(rewards, jnp.float32)
    return np.asarray(passk.passk(rewards, MASK, GROUPS, **options))


def test_by_hand():
    """Group 0 has 1, 4, 7; group 1 has two that are best; two groups are of one."""
    rewards = [1, 5, 4, 5, 7, 0, 3, -2]
    expected = np.zeros((8, 2))
    expected[4, 0] = 3.0
    np.testing.assert_array_equal(found(rewards, scale_by_std=False), expected)
    np.testing.assert_allclose(found(rewards), expected / 3, rtol=1e-5)


def test_only_a_single_right_completion_learns():
    assert not found(np.ones(8)).any()
    learns = found([1, 1, 0, 1, 0, 0, 0, 0]) != 0
    np.testing.assert_array_equal(np.flatnonzero(learns.any(axis=1)), [0])
