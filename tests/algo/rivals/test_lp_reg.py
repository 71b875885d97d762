"""Lp-Reg, against a loop over tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import batch_loss
from tests import tiny
from tests.algo import given

B, T = 6, 40
GROUP_IDS = jnp.array([0, 0, 0, 3, 3, 3], jnp.int32)
REWARDS = jnp.array([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])


def batch(seed=0):
    """Rows and current log-probs; a fourth of the proxies is -inf."""
    rng = np.random.default_rng(seed)
    mask = np.arange(T) < rng.integers(T // 2, T + 1, B)[:, None]
    old = -rng.uniform(0.05, 5, (B, T)).astype(np.float32)
    cut = old + rng.uniform(0.02, 0.4, (B, T)).astype(np.float32)
    cut[rng.random((B, T)) < 0.25] = -np.inf
    now = old + rng.normal(scale=0.3, size=(B, T)).astype(np.float32)
    zeros = jnp.zeros((B, T))
    tokens = given.Tokens(
        *(jnp.asarray(now), None, jnp.asarray(old), zeros, zeros, None, zeros),
        mask=jnp.asarray(mask),
    )
    rows = given.rows(tokens, REWARDS, GROUP_IDS)
    return rows._replace(old_cut_logprobs=jnp.asarray(cut)), jnp.asarray(now)


def loss(made, rows, now):
    state = made.update_state(rows, made.init_state())
    constants = made.constants(rows, state)
    numerator, denominator, _ = batch_loss.rows_loss(
        made, {"logprobs": now}, constants, state
    )
    return numerator / denominator, constants["advantages"]


def slow(rows, now, advantages, *, share, coefficient, pool):
    """Loss and its gradient by the formula; `pool` are the log-probs that say what is
    rare. The clip range of 1 and 9 bounds a positive advantage at a ratio of 10."""
    rows = jax.tree.map(np.asarray, rows)
    mask, A, now = rows.mask, np.asarray(advantages), np.asarray(now, np.float64)
    worse = mask & (A < 0)
    k = int(np.floor(worse.sum() * share + 1e-9))
    rare = np.zeros_like(mask)
    if k > 1:
        places = np.argwhere(worse)
        order = np.argsort(np.asarray(pool)[worse], kind="stable")[:k]
        rare[tuple(places[order].T)] = True
    value, grad, pulled = 0.0, np.zeros(mask.shape), 0
    for i, t in zip(*np.nonzero(mask), strict=True):
        ratio = np.exp(now[i, t] - rows.old_logprobs[i, t])
        clipped = A[i, t] > 0 and ratio > 10
        value -= A[i, t] * (10 if clipped else ratio)
        grad[i, t] -= 0 if clipped else A[i, t] * ratio
        if rare[i, t] and now[i, t] < rows.old_cut_logprobs[i, t]:
            d = rows.old_cut_logprobs[i, t] - now[i, t]
            value += coefficient * (np.exp(d) - d - 1)
            grad[i, t] += coefficient * (1 - np.exp(d))
            pulled += 1
    return value / mask.sum(), grad / mask.sum(), pulled


def made_with(share, source="old", coefficient=1.0):
    return tiny.method(
        "lp_reg",
        selection={"name": "rare_failures", "share": share},
        regulariser={"name": "lp_reg", "coefficient": coefficient},
        entropy_source=source,
    )


@pytest.mark.parametrize("source", ["old", "current"])
@pytest.mark.parametrize("share", [0.3, 0.05, 0.01])
def test_slow_loop_agrees(source, share):
    """A share of 1 % is less than two of these tokens, and pulls none."""
    made = made_with(share, source, coefficient=2.0)
    assert made.by_rows == (source == "current")
    rows, now = batch()
    (value, advantages), grad = jax.value_and_grad(
        lambda x: loss(made, rows, x), has_aux=True
    )(now)
    expected, expected_grad, pulled = slow(
        *(rows, now, advantages),
        share=share,
        coefficient=2.0,
        pool=rows.old_logprobs if source == "old" else now,
    )
    assert (pulled > 0) == (share > 0.01)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-4, atol=1e-6)


def test_by_hand():
    """Of the failure's three tokens the two rarest, one of which the proxy lacks.

    On-policy, A = ±1 / (std 0.7071): the policy's loss is 0 in sum. Proxy e^2 times as
    likely: k3 = e^2 - 2 - 1.
    """
    made = made_with(0.7)
    old = jnp.array([[-1.0, -1.0, -1.0], [-4.0, -3.0, -1.0]])
    mask = jnp.ones((2, 3), bool)
    zeros = jnp.zeros((2, 3))
    tokens = given.Tokens(old, None, old, zeros, zeros, None, zeros, mask)
    rows = given.rows(tokens, jnp.array([1.0, 0.0]), jnp.array([0, 0]))
    rows = rows._replace(
        old_cut_logprobs=jnp.array([[0.0, 0.0, 0.0], [-jnp.inf, -1.0, 0.0]])
    )
    selected = made.constants(rows, made.init_state())["selected"]
    np.testing.assert_array_equal(selected, [[0, 0, 0], [1, 1, 0]])
    value, grad = jax.value_and_grad(lambda x: loss(made, rows, x)[0])(old)
    np.testing.assert_allclose(value, (np.e**2 - 3) / 6, rtol=1e-5)
    A = 0.5 / (np.sqrt(0.5) + 1e-6)
    expected = np.array([[-A, -A, -A], [A, A + 1 - np.e**2, A]]) / 6
    np.testing.assert_allclose(grad, expected, rtol=1e-5)


def test_without_rare_tokens_it_is_ppo_with_its_clip_range():
    rows, now = batch()
    off = made_with(0.0)
    assert off.old_outputs == {"cut_logprobs"} and off.silent_at_zero
    wide = dict(clip_low=1.0, clip_high=9.0, aggregation="token_mean")
    plain = tiny.method("grpo", kl_strength=0.0, **wide)
    assert loss(off, rows, now)[0] == loss(plain, rows, now)[0]
