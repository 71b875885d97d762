"""Advantage reweighting."""

import jax.numpy as jnp
import numpy as np

from hapo_jax.algo.rivals import advantage_reweighting
from tests import tiny


def test_by_hand():
    old = jnp.log(jnp.array([[1.0, 0.5, 0.1], [1.0, 0.5, 0.1]]))
    advantages = jnp.array([[1.0, 1.0, 1.0], [-2.0, -2.0, -2.0]])
    shaped = advantage_reweighting.by_probability(old, advantages, alpha=0.4)
    factor = np.array([[1.0, 0.8, 0.64]])
    np.testing.assert_allclose(shaped, advantages * factor, rtol=1e-6)
    same = advantage_reweighting.by_probability(old, advantages, alpha=0.0)
    np.testing.assert_array_equal(same, advantages)


def test_lopti_has_two_passes():
    assert [tiny.method(name).phases for name in advantage_reweighting.METHODS] == [
        1,
        2,
        2,
    ]
