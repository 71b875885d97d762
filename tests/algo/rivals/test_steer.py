"""STEER."""

import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo.rivals import steer


def _random(seed):
    rng = np.random.default_rng(seed)
    shape = 4, 6
    mask = np.arange(6) < rng.integers(1, 7, 4)[:, None]
    logprobs = np.log(rng.uniform(0.01, 1, shape))
    old = logprobs + rng.normal(scale=0.2, size=shape)
    advantages = rng.choice([-1.0, 0.5], (4, 1)) * np.ones(shape)
    numbers = logprobs, np.minimum(old, 0), rng.uniform(0, 2, shape), advantages
    return *(jnp.asarray(x, jnp.float32) for x in numbers), jnp.asarray(mask)


@pytest.mark.parametrize("form", ["exp", "linear"])
@pytest.mark.parametrize("seed", range(3))
def test_slow_loop_agrees(seed, form):
    numbers = _random(seed)
    logprobs, old, nats, advantages, mask = (np.asarray(x, np.float64) for x in numbers)
    places = [tuple(place) for place in np.argwhere(mask)]
    change = {}
    for place in places:
        p = min(max(np.exp(logprobs[place]), 1e-8), 1 - 1e-8)
        inner = p * (1 - p) * (np.log(p) + nats[place])
        change[place] = abs(advantages[place] / np.exp(old[place]) * inner)
    most, least = max(change.values()), min(change.values())
    shaped = steer.steer(*numbers, form=form)
    for place in places:
        if form == "exp":
            k = -np.log(0.8) / max(most, 0.02)
            weight = min(max(np.exp(-k * change[place]), 0.8), 1)
        else:
            weight = 1.2 - 0.4 * (change[place] - least) / (most - least)
        expected = advantages[place] * weight
        np.testing.assert_allclose(shaped[place], expected, rtol=1e-4)


def test_by_hand():
    """p = 1/2 and H = ln 2: nothing changes; the most changing token has 0.8."""
    half = jnp.full((1, 3), jnp.log(0.5))
    nats = jnp.array([[np.log(2), np.log(2) + 1, np.log(2) + 2]], jnp.float32)
    numbers = half, half, nats, jnp.ones((1, 3)), jnp.ones((1, 3), bool)
    # Changes 0, 0.5 and 1.
    shaped = steer.steer(*numbers)
    np.testing.assert_allclose(shaped, [[1, 0.8**0.5, 0.8]], rtol=1e-5)
    shaped = steer.steer(*numbers, form="linear")
    np.testing.assert_allclose(shaped, [[1.2, 1.0, 0.8]], rtol=1e-5)


def test_improbable_tokens_by_hand():
    """Below 1e-8 under both policies p / p_old is 1, so that the token changes the
    entropy by ln 1e8 = 18.4; the other one, p = 1/2, changes it by 1/2."""
    logprobs = jnp.array([[-60.0, np.log(0.5)]])
    nats = jnp.array([[0.0, np.log(2) + 1]])
    ones = jnp.ones((1, 2))
    shaped = steer.steer(logprobs, logprobs, nats, ones, ones > 0)
    expected = [[0.8, 0.8 ** (0.5 / np.log(1e8))]]
    np.testing.assert_allclose(shaped, expected, rtol=1e-5)


def test_equal_changes_have_the_middle_of_the_linear_weights():
    one = jnp.ones((1, 2))
    half = jnp.full((1, 2), jnp.log(0.5))
    shaped = steer.steer(half, half, one, one, one > 0, form="linear", lowest=0.6)
    np.testing.assert_allclose(shaped, [[0.9, 0.9]], rtol=1e-6)


def test_a_lowest_weight_near_1_is_dapo():
    numbers = _random(0)
    shaped = steer.steer(*numbers, lowest=1 - 1e-7)
    np.testing.assert_allclose(shaped, numbers[3], rtol=1e-6)
