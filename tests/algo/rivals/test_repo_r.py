"""REPO-R."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo.rivals import repo_r


def test_by_hand():
    """zeta = 0.5; -4 nats would turn the sign of a negative advantage."""
    logprobs = jnp.array([[-1.0, -4.0], [-1.0, -4.0]])
    advantages = jnp.array([[2.0, 2.0], [-2.0, -2.0]])
    shaped = repo_r.repo_r(logprobs, advantages, jnp.float32(0.5))
    np.testing.assert_allclose(shaped, [[3, 6], [-1, 0]], rtol=1e-6)
    shaped = repo_r.repo_r(logprobs, advantages, jnp.float32(-0.5))
    np.testing.assert_allclose(shaped, [[1, 0], [-3, -6]], rtol=1e-6)


def test_zeta_0_is_dapo_and_no_gradient_flows():
    logprobs, advantages = jnp.array([[-1.0, -3.0]]), jnp.array([[1.0, -1.0]])
    np.testing.assert_array_equal(
        repo_r.repo_r(logprobs, advantages, jnp.float32(0)), advantages
    )

    def total(logprobs):
        return repo_r.repo_r(logprobs, advantages, jnp.float32(0.5)).sum()

    assert not jax.grad(total)(logprobs).any()


@pytest.mark.parametrize(
    ("zeta", "nats", "expected"),
    [
        (1e-3, 0.1, 2e-3),  # too little entropy: more of what raises it
        (1e-3, 0.5, 5e-4),
        (-1e-3, 0.1, -5e-4),
        (-1e-3, 0.5, -2e-3),
        (0.04, 0.1, 0.05),
        (1.5e-4, 0.5, 1e-4),
        (1e-4, 0.5, -1e-4),
        (-1e-4, 0.1, 1e-4),
        (0.0, 0.1, 0.0),
    ],
)
def test_the_controller(zeta, nats, expected):
    values = {"old_entropy": jnp.full((1, 2), nats), "mask": jnp.ones((1, 2), bool)}
    moved = repo_r.update(values, jnp.float32(zeta), target=0.3)
    np.testing.assert_allclose(moved, expected, rtol=1e-5)
    fixed = repo_r.update(values, jnp.float32(zeta), target=0.0)
    np.testing.assert_array_equal(fixed, jnp.float32(zeta))
