"""Supervised losses against loops, by hand, and at their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax import sft
from hapo_jax.algo import supervised
from tests.algo import given

P = np.array([[0.5, 0.25, 1.0], [0.9, 0.1, 0.01]])


def slow(name, p):
    """(loss, its derivative in log p), one token at a time, in float64."""
    weight = {"uniform": 1.0, "dft": p, "phi": p * (1 - p)}[name]
    return -weight * np.log(p), -weight


@pytest.mark.parametrize("name", ["uniform", "dft", "phi"])
def test_slow_loop_agrees(name):
    logprobs = jnp.asarray(np.log(P), jnp.float32)
    function = supervised.LOSSES[name]
    grad = jax.grad(lambda x: function(x).loss.sum())(logprobs)
    expected = np.array([[slow(name, p) for p in row] for row in P])
    same = dict(rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(function(logprobs).loss, expected[..., 0], **same)
    np.testing.assert_allclose(grad, expected[..., 1], **same)


def test_phi_by_hand():
    """p of 1/2, 1/4 and 1 weigh 1/4, 3/16 and 0."""
    found = supervised.phi(jnp.log(jnp.array([[0.5, 0.25, 1.0]]))).loss
    expected = [[np.log(2) / 4, 3 / 16 * np.log(4), 0]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("name", supervised.LOSSES)
def test_a_method_of_it_counts_every_token_and_reads_no_reward(name):
    """Each token of the mask weighs in the mean, whatever its reward; padding is NaN,
    and a log-prob of -100 is finite."""
    made = sft.likelihood({"name": name})
    assert not made.by_rows and not made.silent_at_zero
    mask = jnp.array([[True, True, False], [True, True, True]])
    nats = jnp.where(mask, jnp.asarray(np.log(P), jnp.float32).at[1, 2].set(-100), 0)
    numbers = jnp.where(mask, 1.0, jnp.nan)
    tokens = given.Tokens(
        jnp.where(mask, nats, jnp.nan), numbers, *[numbers] * 3, None, numbers, mask
    )

    def mean(logprobs):
        numerator, denominator, _ = given.loss(
            made, tokens._replace(logprobs=logprobs), made.init_state()["entropy"]
        )
        return numerator / denominator

    value, grad = jax.value_and_grad(mean)(tokens.logprobs)
    expected = supervised.LOSSES[name](nats).loss[mask].mean()
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert np.all(np.isfinite(grad)) and np.all(grad[~mask] == 0)
