"""Supervised losses against loops, by hand, and at their limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax import sft
from hapo_jax.algo import stages, supervised
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


H = np.array([[0.1, 2.0, 0.0], [3.5, 0.7, 1.3]])  # nats
R = np.array([[1, 2, 1], [1, 30, 7]])


def slow_ranktuner(p, nats, rank, *, base):
    """The weight, with the entropy in bits as the paper writes it."""
    s = 2 ** (nats / np.log(2)) / 4 + 1
    K = 1 / np.log2(max(rank, s) + 1) ** 2
    return (p if base == "p" else 1.0) * (p * s) ** -K


@pytest.mark.parametrize("base", ["p", "one"])
@pytest.mark.parametrize("detach", [True, False])
def test_ranktuner_against_a_loop(base, detach):
    """A weight that is not detached adds its own slope, by finite differences."""
    loss = functools.partial(supervised.ranktuner, base=base, detach=detach)
    numbers = [jnp.asarray(x, jnp.float32) for x in (np.log(P), H, R)]
    grad = jax.grad(lambda x: loss(x, *numbers[1:]).loss.sum())(numbers[0])
    for i, j in np.ndindex(P.shape):
        weight = functools.partial(
            slow_ranktuner, nats=H[i, j], rank=R[i, j], base=base
        )
        nats = np.log(P[i, j])
        slope = -weight(P[i, j])
        if not detach:
            ends = [weight(np.exp(nats + d)) * (nats + d) for d in (1e-6, -1e-6)]
            slope = -(ends[0] - ends[1]) / 2e-6
        found = loss(*numbers).loss[i, j]
        np.testing.assert_allclose(found, -weight(P[i, j]) * nats, rtol=1e-5)
        np.testing.assert_allclose(grad[i, j], slope, rtol=1e-4, atol=1e-6)


def test_ranktuner_by_hand():
    """H of 2 bits: s = 2. A token of p = 1/2 and rank 1 has S = 1, whatever K is; one
    of p = 1/8 and rank 3 has K = 1/4 and S = (1/4)^(-1/4) = sqrt(2)."""
    nats = jnp.full((1, 2), 2 * np.log(2), jnp.float32)
    p, rank = jnp.array([[0.5, 0.125]]), jnp.array([[1.0, 3.0]])
    found = supervised.ranktuner(jnp.log(p), nats, rank, base="one").loss
    expected = [[np.log(2), np.sqrt(2) * np.log(8)]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


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
    ones = jnp.ones(mask.shape)  # entropies, and every rank is 2
    given_to = {"logprobs": nats, "entropy": ones, "rank": 2 * ones}
    reads, _ = stages.signature(supervised.LOSSES[name])
    losses = supervised.LOSSES[name](*(given_to[n] for n in reads)).loss
    expected = losses[mask].mean()
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert np.all(np.isfinite(grad)) and np.all(grad[~mask] == 0)
