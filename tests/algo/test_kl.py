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


def test_k3r_is_k3_times_the_ratio():
    """Its gradient has that of the ratio, too: at d = 1 and ratio 2."""

    def divergence(logprobs):
        ratio = 2 * jnp.exp(logprobs - LOGPROBS)
        return kl.estimate(logprobs, REFERENCE, estimator="k3r", ratio=ratio)

    k3 = np.array([1 / E, 0, E - 2])
    np.testing.assert_allclose(divergence(LOGPROBS), 2 * k3, atol=1e-6)
    actual = jax.grad(lambda x: divergence(x).sum())(LOGPROBS)
    slope = np.array([1 - 1 / E, 0, 1 - E])
    np.testing.assert_allclose(actual, 2 * (k3 + slope), rtol=1e-5, atol=1e-6)


def test_k3r_on_samples_of_the_old_policy_has_the_gradient_of_the_reverse_kl():
    """Summed over four tokens in the proportions in which the old policy draws them."""
    logits, old, reference = (
        jax.nn.log_softmax(x)
        for x in jnp.array(
            [[0.3, -1.0, 0.5, 0.0], [0.0, 0.2, 0.0, 1.0], [1.0, 0, 0, 0]]
        )
    )

    def expected(logits):
        new = jax.nn.log_softmax(logits)
        ratio = jnp.exp(new - old)
        found = kl.estimate(new, reference, estimator="k3r", ratio=ratio)
        return jnp.sum(jnp.exp(old) * found)

    def exact(logits):
        new = jax.nn.log_softmax(logits)
        return jnp.sum(jnp.exp(new) * (new - reference))

    actual, slope = jax.value_and_grad(expected)(logits)
    value, exact_slope = jax.value_and_grad(exact)(logits)
    np.testing.assert_allclose(actual, value, rtol=1e-5)
    np.testing.assert_allclose(slope, exact_slope, rtol=1e-4, atol=1e-6)


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
