"""Edge cases that every method must define, one test per rule."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import advantages, entropy, rewards
from tests import tiny
from tests.algo import given

B, T = 4, 3
MASK = jnp.arange(T)[None, :] < jnp.array([3, 2, 1, 3])[:, None]
GROUP = jnp.array([0, 0, 1, 1], jnp.int32)
STATS = entropy.EntropyStats(*(jnp.float32(x) for x in (-1.0, 1.0, 1.0, -2.0)))
METHODS = ("hapo", "hapo_public", "dapo", "grpo", "dr_grpo")


@functools.cache
def _make(method, **changes):
    return tiny.method(method, **changes)


def _tokens(mask=MASK, log_ratio=0.1, **fields):
    rng = np.random.default_rng(0)
    old = jnp.asarray(-rng.uniform(0.1, 3, (B, T)), jnp.float32)
    nats = jnp.asarray(rng.uniform(0.01, 2, (B, T)), jnp.float32)
    numbers = {
        "logprobs": old + log_ratio,
        "entropy": nats,
        "old_logprobs": old,
        "old_entropy": nats,
        "behavior_logprobs": old - 0.05,
        "reference_logprobs": old + 0.05,
        "advantages": jnp.asarray(rng.normal(size=(B, T)), jnp.float32),
        "mask": mask,
    }
    return given.Tokens(**{**numbers, **fields})


@functools.cache
def _compiled(made):
    def mean(logprobs, tokens):
        tokens = tokens._replace(logprobs=logprobs)
        numerator, denominator, sums = given.loss(made, tokens, STATS)
        return numerator / jnp.where(denominator == 0, 1, denominator), sums

    return jax.jit(jax.value_and_grad(mean, has_aux=True))


def _loss_and_grad(made, tokens):
    (value, sums), grad = _compiled(made)(tokens.logprobs, tokens)
    return value, grad, sums


def _assert_finite(*trees):
    for leaf in jax.tree.leaves(trees):
        assert np.isfinite(leaf).all()


GROUPED = ("grpo", "dr_grpo", "rloo", "opo", "reinforce_pp_baseline")


@pytest.mark.parametrize("name", [*GROUPED, "hapo_token_group", "hapo_public"])
def test_zero_variance_group(name):
    """1.1 is no float32: the rounded mean would leave 1e-7 over a deviation of 1e-7."""
    functions = {
        **advantages.ADVANTAGES,
        "hapo_token_group": advantages.hapo_token_group,
        "hapo_public": lambda *args: advantages.hapo_token_group(*args, fallback=5.0),
    }
    for mask in (MASK, jnp.ones((B, T), bool)):
        equal = functions[name](jnp.full(B, -1.1), mask, jnp.zeros(B, jnp.int32))
        np.testing.assert_array_equal(equal, np.zeros((B, T)))


@pytest.mark.parametrize("reward", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("method", METHODS)
def test_all_correct_or_all_wrong(method, reward):
    """Advantages are exactly 0, and so is the gradient of the policy loss."""
    made = _make(method, kl_strength=0.0)
    adapted = given.advantages(made, jnp.full(B, reward), MASK, GROUP)
    np.testing.assert_array_equal(adapted, np.zeros((B, T)))
    value, grad, _ = _loss_and_grad(made, _tokens(advantages=adapted))
    assert value == 0
    np.testing.assert_array_equal(grad, np.zeros((B, T)))


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "opo"])
def test_group_of_one(name):
    function = advantages.ADVANTAGES[name]
    numbers = jnp.array([2.0, -1.0, 0.5, 1.0]), MASK, jnp.arange(B, dtype=jnp.int32)
    np.testing.assert_array_equal(function(*numbers), np.zeros((B, T)))
    raw = jnp.where(MASK, numbers[0][:, None], 0)
    verl = function(*numbers, singleton="verl")
    np.testing.assert_allclose(verl, raw, rtol=2e-6)  # grpo divides by 1 + 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_empty_row(method):
    """Present or absent, a row without tokens gives the same loss and gradient."""
    made = _make(method)
    mask = MASK.at[3].set(False)
    value, grad, _ = _loss_and_grad(made, _tokens(mask))
    without = jax.tree.map(lambda x: x[:3], _tokens(mask))
    expected, expected_grad, _ = _loss_and_grad(made, without)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(grad[:3], expected_grad, rtol=1e-6)
    np.testing.assert_array_equal(grad[3], np.zeros(T))


@pytest.mark.parametrize("method", METHODS)
def test_empty_micro_batch(method):
    made, nothing = _make(method), jnp.zeros((B, T), bool)
    value, grad, sums = _loss_and_grad(made, _tokens(nothing))
    assert value == 0
    np.testing.assert_array_equal(grad, np.zeros((B, T)))
    assert all((total == 0).all() for total in sums.values())
    fitted = given.fit(made, _tokens().old_entropy, nothing, STATS)
    np.testing.assert_array_equal(fitted, STATS)


@pytest.mark.parametrize("quantile", [0.0, 1.0], ids=["none_below", "none_above"])
def test_no_token_on_one_side_of_the_pivot(quantile):
    nats = _tokens().old_entropy
    stats = entropy.fit(nats, MASK, quantile=quantile, floor=1e-8, previous=STATS)
    extreme = stats.min_score if quantile == 0 else stats.max_score
    assert extreme == 0
    score = np.asarray(entropy.score(nats, stats, floor=1e-8))[np.asarray(MASK)]
    assert (score >= 0).all() if quantile == 0 else (score <= 0).all()
    # Another batch may have tokens there: they have no scale, and score 0.
    beyond = jnp.exp(stats.quantile + jnp.array([-5.0, 5.0]))
    there = entropy.score(beyond, stats, floor=1e-8)[0 if quantile == 0 else 1]
    assert there == 0


@pytest.mark.parametrize("spread", entropy.SPREADS)
def test_all_entropies_equal(spread):
    nats = jnp.full((B, T), 0.1)
    stats = entropy.fit(
        nats, MASK, quantile=0.8, floor=1e-8, spread=spread, previous=STATS
    )
    score = entropy.score(nats, stats, floor=1e-8)
    np.testing.assert_array_equal(score, np.zeros((B, T)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", METHODS)
def test_non_finite_outside_the_mask(method, bad):
    """Values and gradients are bit for bit those of clean padding."""
    made = _make(method, importance_mode="token")
    clean = _tokens()
    per_token = (
        *("logprobs", "entropy", "old_logprobs", "old_entropy", "advantages"),
        *("behavior_logprobs", "reference_logprobs"),
    )
    poisoned = clean._replace(
        **{name: jnp.where(MASK, getattr(clean, name), bad) for name in per_token}
    )
    expected = _loss_and_grad(made, clean)
    actual = _loss_and_grad(made, poisoned)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    _assert_finite(actual)
    stats = given.fit(made, poisoned.old_entropy, MASK, STATS)
    np.testing.assert_array_equal(
        stats, given.fit(made, clean.old_entropy, MASK, STATS)
    )


@pytest.mark.parametrize("log_ratio", [100.0, -100.0])
@pytest.mark.parametrize("method", METHODS)
def test_huge_log_ratio(method, log_ratio):
    """Clamped at 20 before exp. The public code has no clamp, and NaN gradients."""
    made = _make(method, clip_log_ratio=20.0)
    _assert_finite(_loss_and_grad(made, _tokens(log_ratio=log_ratio)))
    if method == "hapo_public":
        faithful = _make(method)
        value, grad, _ = _loss_and_grad(faithful, _tokens(log_ratio=100.0))
        assert np.isnan(grad).any() and not np.isnan(value)


def test_truncated_response():
    """The reward stays as scored, plus the penalty; the mask keeps all tokens."""
    lengths = jnp.array([10, 8, 4, 10])
    scored = jnp.array([1.0, 1.0, 1.0, -1.0])
    penalty = rewards.overlong_penalty(
        lengths, max_tokens=10, buffer_tokens=4, factor=1.0
    )
    np.testing.assert_array_equal(scored + penalty, [0.0, 0.5, 1.0, -2.0])


@pytest.mark.parametrize("method", METHODS)
def test_everything_at_once(method):
    """Empty rows, equal groups, huge ratios of both signs and NaN in padding."""
    made = _make(method, clip_log_ratio=20.0, importance_mode="sequence")
    mask = MASK.at[1].set(False)
    signs = jnp.array([100.0, -100.0, 0.0])
    for reward, order in itertools.product((0.0, 1.0), ((0, 1, 2), (1, 0, 2))):
        numbers = jnp.array([reward, 0.0, 1.0, 1.0])
        adapted = given.advantages(made, numbers, mask, GROUP)
        tokens = _tokens(mask, advantages=adapted)
        logprobs = tokens.old_logprobs + signs[jnp.array(order)][None, :]
        tokens = tokens._replace(logprobs=jnp.where(mask, logprobs, jnp.nan))
        _assert_finite(_loss_and_grad(made, tokens), adapted)
