"""OTB, against a loop over completions and positions."""

import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo.rivals import otb


def slow(rewards, old_logprobs, square_sum, mask, group_ids, *, zero_tail):
    """verl's function by its formula, in float64; a group of one gets 0 here."""
    found = np.zeros(mask.shape)
    pi = np.exp(np.where(mask, old_logprobs, 0).astype(np.float64))
    for i, t in zip(*np.nonzero(mask), strict=True):
        group = np.flatnonzero(group_ids == group_ids[i])
        if len(group) == 1:
            continue
        alive = [j for j in group if mask[j, t]]
        W = {
            j: sum(1 - 2 * pi[j, s] + square_sum[j, s] for s in range(t + 1))
            for j in alive
        }
        baseline = sum(rewards[j] * W[j] for j in alive) / sum(W.values())
        alone = len(alive) == 1
        found[i, t] = rewards[i] - (0 if alone and zero_tail else baseline)
    return found


def batch(seed=0):
    rng = np.random.default_rng(seed)
    lengths = np.array([5, 2, 4, 0, 3, 5, 4])
    mask = np.arange(5) < lengths[:, None]
    old = np.log(rng.uniform(0.05, 0.9, mask.shape)).astype(np.float32)
    p = np.exp(old)
    square_sum = p**2 + rng.uniform(0, 1, mask.shape) * (1 - p) ** 2
    rewards = rng.normal(size=len(lengths)).astype(np.float32)
    group_ids = np.array([0, 0, 0, 3, 3, 3, 6], np.int32)
    return rewards, old, square_sum.astype(np.float32), mask, group_ids


@pytest.mark.parametrize("zero_tail", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_slow_loop_agrees(seed, zero_tail):
    rewards, old, square_sum, mask, group_ids = batch(seed)
    old = np.where(mask, old, 0)  # as the method cleans it
    found = otb.otb(
        *map(jnp.asarray, (rewards, old, square_sum, mask, group_ids)),
        zero_tail=zero_tail,
    )
    expected = slow(rewards, old, square_sum, mask, group_ids, zero_tail=zero_tail)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_by_hand():
    """Two completions, right and wrong, of 3 and 2 tokens.

    With π = 1/2 and Σπ² = 1/2 a token's energy is 1/2, with π = 1/4 and Σπ² = 1/4 it
    is 3/4. W: 1/2, 1, 3/2 and 3/4, 3/2. So B is 1/2 / (5/4) = 0.4 and 1 / (5/2) = 0.4;
    the last token is alone, and gets all of its reward.
    """
    old = jnp.log(jnp.array([[0.5, 0.5, 0.5], [0.25, 0.25, 1.0]]))
    square_sum = jnp.array([[0.5, 0.5, 0.5], [0.25, 0.25, 7.0]])
    mask = jnp.array([[True, True, True], [True, True, False]])
    given = jnp.array([1.0, 0.0]), old, square_sum, mask, jnp.zeros(2, jnp.int32)
    expected = [[0.6, 0.6, 1.0], [-0.4, -0.4, 0.0]]
    np.testing.assert_allclose(otb.otb(*given), expected, rtol=1e-6)
    expected[0][2] = 0.0
    found = otb.otb(*given, zero_tail=False)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_equal_chances_are_the_mean_of_the_group():
    """Where all completions are alike but for their reward, B is the group's mean."""
    rewards, old, *_, group_ids = batch()
    same = np.full(old.shape, -1.0, np.float32), np.full(old.shape, 0.2, np.float32)
    mask = np.ones(old.shape, bool)
    found = otb.otb(*map(jnp.asarray, (rewards, *same, mask, group_ids)))
    means = np.array([rewards[group_ids == g].mean() for g in group_ids])
    expected = np.where(group_ids == 6, 0, rewards - means)[:, None] + 0 * old
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_certain_tokens_and_equal_rewards_are_exact():
    """π = 1 has no energy at all, and rounding must not make it negative."""
    ones, zeros = jnp.ones((2, 3)), jnp.zeros((2, 3))
    ids, mask = jnp.zeros(2, jnp.int32), jnp.ones((2, 3), bool)
    found = otb.otb(jnp.array([1.0, 0.0]), zeros, ones * (1 - 6e-8), mask, ids)
    np.testing.assert_allclose(found, [[0.5] * 3, [-0.5] * 3], rtol=1e-6)
    equal = otb.otb(jnp.array([0.1, 0.1]), zeros - 1, ones / 2, mask, ids)
    np.testing.assert_array_equal(equal, zeros)


@pytest.mark.parametrize(("singleton", "expected"), [("zero", 0.0), ("verl", 2.0)])
def test_a_group_of_one(singleton, expected):
    found = otb.otb(
        jnp.array([2.0]),
        jnp.array([[-1.0, -1.0]]),
        jnp.array([[0.5, 0.5]]),
        jnp.array([[True, False]]),
        jnp.array([0]),
        singleton=singleton,
    )
    np.testing.assert_array_equal(found, [[expected, 0.0]])
