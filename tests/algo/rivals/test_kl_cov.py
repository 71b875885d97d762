"""KL-Cov."""

import jax
import jax.numpy as jnp
import numpy as np

from hapo_jax.algo import entropy, masked
from hapo_jax.algo.rivals import kl_cov
from tests import golden, tiny


def _kl_cov(case):
    fields, settings = golden.sampler(case)
    if "loss_agg_mode" in case.config:
        settings |= golden.aggregation(case)
    # The later code takes a share, which its archives leave at 0.1.
    share = round(case.config.get("k_percent", 10.0) / 100, 4)
    made = tiny.method(
        "kl_cov",
        selection={"name": "top_covariance", "share": share},
        surrogate={"name": "kl_cov", "strength": case.config.get("ppo_kl_coef", 1.0)},
        entropy_source="current",
        **settings,
    )
    tokens = golden.tokens(case, **fields)
    value, grad, _ = golden.value_and_grad(made, tokens, entropy.initial_stats())
    return value, grad, jnp.abs(tokens.logprobs - tokens.old_logprobs)


def _of_verl(case):
    value, grad, distance = _kl_cov(case)
    mean = masked.mean(distance, case.mask)
    return {"loss": value, "grad_log_prob": grad, "ppo_kl": mean}


def _original(case):
    value, grad, distance = _kl_cov(case)
    mean = masked.mean(distance, case.mask)
    return {"loss": value, "grad_log_prob": grad, "ppo_kl_abs": mean}


GOLDEN = {"kl_cov": _of_verl, "kl_cov_original": _original}


def test_selection_by_hand():
    """Means of A and l are 0 and -2 over the four tokens of the mask."""
    logprobs = jnp.array([[-1.0, -3.0, -9.0], [-1.5, -2.5, 0.0]])
    advantages = jnp.array([[1.0, 1.0, 7.0], [-1.0, -1.0, 7.0]])
    mask = jnp.array([[True, True, False], [True, True, False]])
    # cov is 1, -1, -0.5 and 0.5.
    for share, expected in (
        (0.1, [[1, 0, 0], [0, 0, 0]]),
        (0.5, [[1, 0, 0], [0, 1, 0]]),
        (1.0, [[1, 1, 0], [1, 1, 0]]),
    ):
        found = kl_cov.top_covariance(logprobs, advantages, mask, share=share)
        np.testing.assert_array_equal(found, expected)


def test_loss_by_hand():
    """The pull has the sign of the log-ratio, and none at 0 or where unselected."""
    new = jnp.array([[-0.5, -1.5, -1.0, -2.0]])
    old = jnp.full((1, 4), -1.0)
    selected = jnp.array([[2.0, 2.0, 2.0, 0.0]])

    def losses(new):
        zeros = jnp.zeros((1, 4))
        return kl_cov.kl_cov(new, old, zeros, zeros, selected, strength=0.5).loss

    np.testing.assert_allclose(losses(new), [[0.5, 0.5, 0, 0]], rtol=1e-6)
    slopes = jax.grad(lambda new: losses(new).sum())(new)
    np.testing.assert_allclose(slopes, [[1, -1, 0, 0]], rtol=1e-6)
