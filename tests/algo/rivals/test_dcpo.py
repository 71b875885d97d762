"""DCPO."""

import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import advantages
from hapo_jax.algo.rivals import dcpo

MASK = jnp.ones((4, 2), bool)
GROUPS = jnp.array([0, 0, 2, 2], jnp.int32)


def _step(state, rewards, prompts=(1, 1, 0, 0)):
    """(advantages [B] of a step, its state)."""
    rewards = jnp.array(rewards, jnp.float32)
    prompts = jnp.array(prompts, jnp.int32)
    values = {"rewards": rewards, "prompt_ids": prompts, "mask": MASK}
    state = dcpo.update(values, state)
    found = dcpo.dcpo(rewards, MASK, GROUPS, prompts, state)
    np.testing.assert_array_equal(found[:, 0], found[:, 1])
    return np.asarray(found[:, 0]), state


def test_the_first_batch_of_a_prompt_is_grpo():
    rewards = jnp.array([1.0, 0.0, 0.5, 0.5])
    found, state = _step(dcpo.init(3), rewards)
    expected = advantages.grpo(rewards, MASK, GROUPS)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(state.times, [1, 1, 0])


def test_the_second_batch_by_hand():
    """Prompt 1: rewards 1, 0 and then 1, 1. Pooled mean 0.75 and variance 5/16; of the
    second batch alone nothing, so both mixtures are half of 0.25 / sqrt(5/16)."""
    _, state = _step(dcpo.init(3), [1.0, 0.0, 0.5, 0.5])
    found, state = _step(state, [1.0, 1.0, 0.5, 0.5])
    expected = 0.5 * 0.25 / np.sqrt(5 / 16)
    np.testing.assert_allclose(found, [expected, expected, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(state.mean, [0.5, 0.75, 0], rtol=1e-6)
    np.testing.assert_allclose(state.std, [0, np.sqrt(5 / 16), 0], rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_slow_loop_agrees(seed):
    rng = np.random.default_rng(seed)
    state, history = dcpo.init(3), {}
    for _ in range(4):
        prompts = np.repeat(rng.choice(3, 2, replace=False), 2)
        rewards = rng.choice([0.0, 0.5, 1.0], 4)
        found, state = _step(state, rewards, prompts)
        for first in (0, 2):
            own, prompt = rewards[first : first + 2], int(prompts[first])
            mean, std = own.mean(), own.std(ddof=1)
            i, m, s = history.get(prompt, (0, 0.0, 0.0))
            if i:
                variance = i * s**2 + std**2 + i / (i + 1) * (mean - m) ** 2
                ever = (m * i + mean) / (i + 1), np.sqrt(variance / (i + 1))
            else:
                ever = mean, std
            history[prompt] = (i + 1, *ever)
            for row in (first, first + 1):
                a = (rewards[row] - mean) / std if std else 0.0
                b = (rewards[row] - ever[0]) / ever[1] if ever[1] else 0.0
                w = 1 / (i + 1)
                expected = min(w * b + (1 - w) * a, w * a + (1 - w) * b, key=abs)
                np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-6)


def test_rows_that_fill_up_belong_to_no_prompt():
    _, state = _step(dcpo.init(3), [1.0, 0.0, 9.0, 9.0], (2, 2, -1, -1))
    np.testing.assert_array_equal(state.times, [0, 0, 1])
    np.testing.assert_array_equal(state.mean, [0, 0, 0.5])


def test_clip_range_by_hand():
    """p = 1: sqrt(0.2) and sqrt(2.12). Up to p = 0.8 the lower bound is 1/2."""
    old = jnp.log(jnp.array([[1.0, 0.5, 1e-4]]))
    low, high = dcpo.by_old_probability(old, low=0.2, high=0.28)
    np.testing.assert_allclose(1 - low, [[(1 + 0.2**0.5) / 2, 0.5, 0.5]], rtol=1e-5)
    upper = [(1 + 2.12**0.5) / 2, (1 + 3.24**0.5) / 2, 10]
    np.testing.assert_allclose(1 + high, [upper], rtol=1e-5)
    # What the bounds come from.
    ratio, p = 1 + high[0, :2], jnp.array([1.0, 0.5])
    np.testing.assert_allclose(ratio * (ratio - 1) * p, [0.28, 0.28], rtol=1e-5)
    far, _ = dcpo.by_old_probability(jnp.array([[-1e4]]), low=0.2, high=0.28)
    assert far == 0.5
