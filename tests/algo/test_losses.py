import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import losses, masked

ONES = jnp.ones((1, 6))
# below, on and inside, on and above the range [0.75, 1.5]; far above
RATIO = jnp.array([[0.5, 0.75, 1.0, 1.5, 2.0, 8.0]])


def _ppo(advantage, dual):
    def total(ratio):
        surrogate = losses.ppo(
            ratio, advantage * ONES, 0.25 * ONES, 0.5 * ONES, dual=dual
        )
        return surrogate.loss.sum(), surrogate

    grad, surrogate = jax.grad(total, has_aux=True)(RATIO)
    return surrogate, grad


@pytest.mark.parametrize(
    ("advantage", "dual", "bounded", "active"),
    [
        (2.0, 0.0, [0.5, 0.75, 1.0, 1.5, 1.5, 1.5], [1, 1, 1, 1, 0, 0]),
        (-2.0, 0.0, [0.75, 0.75, 1.0, 1.5, 2.0, 8.0], [0, 1, 1, 1, 1, 1]),
        (-2.0, 3.0, [0.75, 0.75, 1.0, 1.5, 2.0, 3.0], [0, 1, 1, 1, 1, 0]),
        (2.0, 3.0, [0.5, 0.75, 1.0, 1.5, 1.5, 1.5], [1, 1, 1, 1, 0, 0]),
        (0.0, 3.0, [1.0] * 6, [0] * 6),
    ],
    ids=["positive", "negative", "negative_dual", "positive_dual", "zero"],
)
def test_surrogate_and_gradient_by_hand(advantage, dual, bounded, active):
    """The gradient is 0 where a bound acts and -A elsewhere, edges included."""
    surrogate, grad = _ppo(advantage, dual)
    np.testing.assert_array_equal(surrogate.loss, -advantage * np.array([bounded]))
    np.testing.assert_array_equal(grad, -advantage * np.array([active]))
    clipped = surrogate.clipped_low | surrogate.clipped_high | surrogate.dual_clipped
    if advantage:
        np.testing.assert_array_equal(clipped, np.array([active]) == 0)
    else:
        assert not clipped.any()


def test_surrogate_is_the_maximum_of_ppo():
    rng = np.random.default_rng(0)
    ratio = jnp.asarray(rng.uniform(0, 5, (4, 6)), jnp.float32)
    advantages = jnp.asarray(rng.normal(size=(4, 6)), jnp.float32)
    low, high = jnp.full((4, 6), 0.2), jnp.full((4, 6), 0.28)
    plain = np.maximum(-advantages * ratio, -advantages * np.clip(ratio, 0.8, 1.28))
    dual = np.where(advantages < 0, np.minimum(plain, -advantages * 3), plain)
    for bound, expected in ((0.0, plain), (3.0, dual)):
        actual = losses.ppo(ratio, advantages, low, high, dual=bound).loss
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_ratio_is_clamped_and_equal_log_probs_give_exactly_one():
    old = jnp.array([[-1.0, -100.0, 0.0]])
    new = jnp.array([[-1.0, 0.0, -100.0]])
    ratio = losses.importance_ratio(new, old, limit=20.0)
    np.testing.assert_allclose(ratio, np.exp([[0.0, 20.0, -20.0]]), rtol=1e-6)
    assert ratio[0, 0] == 1
    grad = jax.grad(lambda x: losses.importance_ratio(x, old, limit=20.0).sum())(new)
    np.testing.assert_array_equal(grad, [[1.0, 0.0, 0.0]])


LOSS = jnp.array([[1.0, 2.0, jnp.nan], [3.0, jnp.inf, jnp.nan], [jnp.nan] * 3])
MASK = jnp.array([[True, True, False], [True, False, False], [False] * 3])
TABLE = [
    ("token_mean", {}, 6.0, 3.0),
    ("token_mean_micro", {}, 4.0, 2.0),
    ("seq_mean_token_mean", {}, 4.5, 2.0),
    ("seq_mean_token_sum", {}, 6.0, 2.0),
    ("seq_mean_token_sum_norm", {"scale_tokens": 4}, 1.5, 2.0),
    ("token_sum", {}, 6.0, 0.0),
]


def _parts(aggregate, options, loss, mask):
    """(numerator, denominator) as the objective makes them."""
    weights, denominator = aggregate(mask, **options)
    return masked.sum(loss * weights, mask), denominator


@pytest.mark.parametrize(("name", "options", "numerator", "denominator"), TABLE)
def test_aggregation_by_hand_with_an_empty_row(name, options, numerator, denominator):
    aggregate = losses.AGGREGATIONS[name]
    for compile_ in (lambda f: f, jax.jit):
        actual = compile_(functools.partial(_parts, aggregate, options))(LOSS, MASK)
        np.testing.assert_allclose(actual, (numerator, denominator), rtol=1e-6)
    empty = _parts(aggregate, options, LOSS, jnp.zeros_like(MASK))
    np.testing.assert_array_equal(empty, (0.0, 0.0))


def test_table_names_every_aggregation():
    assert {row[0] for row in TABLE} == losses.AGGREGATIONS.keys()


@pytest.mark.parametrize("name", losses.AGGREGATIONS)
def test_parts_add_up_over_micro_batches(name):
    """All but `token_mean_micro`, whose loss depends on the cut by design."""
    options = {"scale_tokens": 7} if name == "seq_mean_token_sum_norm" else {}
    aggregate = losses.AGGREGATIONS[name]
    parts_of = functools.partial(_parts, aggregate, options)
    whole = parts_of(LOSS, MASK)
    parts = [parts_of(LOSS[i : i + 1], MASK[i : i + 1]) for i in range(3)]
    total = [sum(part) for part in zip(*parts, strict=True)]
    if name == "token_mean_micro":
        assert not np.allclose(total[0], whole[0])
    else:
        np.testing.assert_allclose(total, whole, rtol=1e-6)


@pytest.mark.parametrize("name", losses.AGGREGATIONS)
def test_gradient_is_finite_with_nan_in_padding(name):
    options = {"scale_tokens": 7} if name == "seq_mean_token_sum_norm" else {}
    aggregate = losses.AGGREGATIONS[name]
    grad = jax.grad(lambda x: _parts(aggregate, options, x, MASK)[0])(LOSS)
    grad = np.asarray(grad)
    assert np.isfinite(grad).all()
    np.testing.assert_array_equal(grad != 0, MASK)


def test_on_policy_the_plain_policy_gradient_is_that_of_the_ratio():
    """With the loss of -A log π beside it, by hand."""
    old = jnp.array([[-1.0, -2.0, -0.5]])
    advantage = jnp.array([[2.0, -1.0, 0.0]])
    width = jnp.full((1, 3), 0.2)

    def clipped(logprobs):
        ratio = losses.importance_ratio(logprobs, old, limit=20.0)
        return losses.ppo(ratio, advantage, width, width, dual=0.0).loss.sum()

    def plain(logprobs):
        found = losses.reinforce(logprobs, advantage)
        assert not (found.clipped_low | found.clipped_high | found.dual_clipped).any()
        return found.loss.sum()

    assert plain(old) == 2.0 * 1.0 - 1.0 * 2.0
    np.testing.assert_array_equal(jax.grad(plain)(old), -advantage)
    np.testing.assert_array_equal(jax.grad(clipped)(old), -advantage)
    # Off-policy PPO's is cut, and this one's is not.
    np.testing.assert_array_equal(jax.grad(plain)(old + 1), -advantage)
