"""SAPO."""

import jax
import jax.numpy as jnp
import numpy as np

from hapo_jax.algo import entropy
from hapo_jax.algo.rivals import sapo
from tests import golden, tiny


def _sapo(case):
    fields, settings = golden.sampler(case)
    tokens = golden.tokens(case, **fields)
    made = tiny.method("sapo", **settings, **golden.aggregation(case))
    value, grad, sums = golden.value_and_grad(made, tokens, entropy.initial_stats())
    return {"loss": value, "grad_log_prob": grad, **golden.clip_metrics(sums, tokens)}


GOLDEN = {"sapo": _sapo}

RATIO = jnp.array([[1.0, 3.0, 1e9], [1.0, 0.5, 1e-9]])
ADVANTAGES = jnp.array([[2.0, 2.0, 2.0], [-1.0, -1.0, 0.0]])


def test_loss_and_gradient_by_hand():
    """tau 2 and 4: gates 2 σ(2 (r - 1)) and σ(4 (r - 1)), gradients A 4 σ (1 - σ)."""

    def total(ratio):
        found = sapo.sapo(ratio, ADVANTAGES, tau_positive=2.0, tau_negative=4.0)
        assert not (found.clipped_low | found.clipped_high | found.dual_clipped).any()
        return found.loss.sum(), found.loss

    grad, loss = jax.grad(total, has_aux=True)(RATIO)
    low, high = 1 / (1 + np.exp(2)), 1 / (1 + np.exp(-4))  # σ(-2), σ(4)
    np.testing.assert_allclose(
        loss, [[-2.0, -4 * high, -4.0], [0.5, low, 0.0]], rtol=1e-6
    )
    slopes = 4 * high * (1 - high), 4 * low * (1 - low)
    expected = [[-2.0, -2 * slopes[0], 0.0], [1.0, slopes[1], 0.0]]
    np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-7)


def test_slow_temperatures_are_the_unclipped_ratio():
    def slope(ratio):
        found = sapo.sapo(ratio, ADVANTAGES, tau_positive=1e-3, tau_negative=1e-3)
        return found.loss.sum()

    near = jnp.array([[1.0, 3.0, 5.0], [1.0, 0.5, 0.1]])
    np.testing.assert_allclose(jax.grad(slope)(near), -ADVANTAGES, rtol=1e-4)
