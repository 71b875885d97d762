"""GSPO."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import entropy, losses
from hapo_jax.algo.rivals import gspo
from tests import golden, tiny
from tests.algo import given


def _gspo(case):
    fields, settings = golden.sampler(case)
    tokens, stats = golden.tokens(case, **fields), entropy.initial_stats()
    # The archive's ranges are a hundred times the paper's, so that both ends act.
    settings |= {"clip_low": 0.03, "clip_high": 0.04, **golden.aggregation(case)}
    value, grad, sums = golden.value_and_grad(
        tiny.method("gspo_token", **settings), tokens, stats
    )
    if not fields:  # the weights of tokens would be spread over the completion
        by_row = golden.value_and_grad(tiny.method("gspo", **settings), tokens, stats)
        for actual, expected in zip(by_row, (value, grad), strict=False):
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    return {
        "loss": value,
        "grad_log_prob": grad,
        **golden.clip_metrics(sums, tokens),
    }


GOLDEN = {"gspo": _gspo}

OLD = jnp.array([[-1.0, -2.0, -3.0], [-1.0, -1.0, -1.0]])
NEW = OLD + jnp.log(jnp.array([[2.0, 4.0, 1.0], [0.5, 9.0, 9.0]]))
MASK = jnp.array([[True, True, True], [True, False, False]])


@pytest.mark.parametrize("ratio", [gspo.gspo, gspo.gspo_token])
def test_ratio_by_hand(ratio):
    """The geometric means of 2, 4, 1 and of 0.5, and the gradients at column 0."""
    value = ratio(NEW, OLD, MASK, limit=10.0)
    np.testing.assert_allclose(value, [[2.0] * 3, [0.5] * 3], rtol=1e-6)
    grad = jax.grad(lambda x: ratio(x, OLD, MASK, limit=10.0)[:, 0].sum())(NEW)
    first = [2 / 3] * 3 if ratio is gspo.gspo else [2.0, 0, 0]
    np.testing.assert_allclose(grad, [first, [0.5, 0, 0]], rtol=1e-6)


def test_the_mean_is_bounded():
    far = OLD + 100.0
    np.testing.assert_allclose(
        gspo.gspo(far, OLD, MASK, limit=10.0), np.full((2, 3), np.exp(10.0)), rtol=1e-6
    )
    grad = jax.grad(lambda x: gspo.gspo(x, OLD, MASK, limit=10.0).sum())(far)
    np.testing.assert_array_equal(grad, np.zeros((2, 3)))


@pytest.mark.parametrize("ratio", [gspo.gspo, gspo.gspo_token])
def test_completions_of_one_token_have_the_ratio_of_the_token(ratio):
    new, old, mask = (x.reshape(6, 1) for x in (NEW, OLD, jnp.ones((2, 3), bool)))
    expected = losses.importance_ratio(new, old, limit=10.0)
    np.testing.assert_allclose(ratio(new, old, mask, limit=10.0), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["gspo", "gspo_token"])
def test_loss_of_two_completions_by_hand(name):
    """s = 2 is cut at 1.5 for A = 1; s = 0.5 stays for A = 3, of one token."""
    tokens = given.Tokens(
        logprobs=NEW,
        entropy=None,
        old_logprobs=OLD,
        old_entropy=jnp.ones((2, 3)),
        behavior_logprobs=OLD,
        reference_logprobs=None,
        advantages=jnp.array([[1.0] * 3, [3.0] * 3]),
        mask=MASK,
    )
    made = tiny.method(name, clip_low=0.25, clip_high=0.5)
    value, grad, _ = golden.value_and_grad(made, tokens, entropy.initial_stats())
    np.testing.assert_allclose(value, -(1.5 + 3 * 0.5) / 2, rtol=1e-6)
    expected = [[0, 0, 0], [-0.75, 0, 0]]
    np.testing.assert_allclose(grad, expected, rtol=1e-6, atol=1e-7)
