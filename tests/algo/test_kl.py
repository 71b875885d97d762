import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import kl

REFERENCE = jnp.array([-1.0, -1.0, -1.0])
LOGPROBS = REFERENCE + jnp.array([1.0, 0.0, -1.0])
E = np.e


@pytest.mark.parametrize(
    ("estimator", "value", "grad"),
    [
        ("k1", [1, 0, -1], [1, 1, 1]),
        ("abs", [1, 0, 1], [1, 0, -1]),
        ("k2", [0.5, 0, 0.5], [1, 0, -1]),
        ("k3", [1 / E, 0, E - 2], [1 - 1 / E, 0, 1 - E]),
        ("k1+", [1, 0, -1], [1, 0, -1]),
        ("abs+", [1, 0, 1], [1, 0, -1]),
        ("k3+", [1 / E, 0, E - 2], [1, 0, -1]),
    ],
)
def test_by_hand(estimator, value, grad):
    def divergence(logprobs):
        return kl.estimate(logprobs, REFERENCE, estimator=estimator)

    np.testing.assert_allclose(divergence(LOGPROBS), value, atol=1e-6)
    actual = jax.grad(lambda x: divergence(x).sum())(LOGPROBS)
    np.testing.assert_allclose(actual, grad, atol=1e-6)


def test_k3_is_finite_with_log_ratios_of_a_hundred():
    far = REFERENCE + jnp.array([100.0, -100.0, 0.0])

    def divergence(logprobs):
        return kl.estimate(logprobs, REFERENCE, estimator="k3").sum()

    value, grad = jax.value_and_grad(divergence)(far)
    assert value == 20.0  # each side at the cap of 10
    np.testing.assert_array_equal(grad, [0.0, 0.0, 0.0])


def test_no_gradient_through_the_reference():
    grad = jax.grad(lambda x: kl.estimate(LOGPROBS, x, estimator="k2").sum())(REFERENCE)
    np.testing.assert_array_equal(grad, [0.0, 0.0, 0.0])


def test_unknown_estimator_is_refused():
    with pytest.raises(ValueError, match="estimator='k4'"):
        kl.estimate(LOGPROBS, REFERENCE, estimator="k4")
