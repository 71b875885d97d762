"""DPPO."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo.rivals import dppo

# Probabilities of old policy, sampler and current one, and advantages.
OLD = np.array([[0.5, 0.5, 0.1], [0.5, 0.5, 0.1]])
BEHAVIOR = np.array([[0.5, 0.7, 0.1], [0.5, 0.35, 0.1]])
NEW = np.array([[0.6, 0.8, 0.01], [0.6, 0.2, 0.01]])
ADVANTAGES = np.array([[2.0] * 3, [-1.0] * 3])
POLICIES = {"old": OLD, "behavior": BEHAVIOR}


def run(new=NEW, old=OLD, behavior=BEHAVIOR, advantages=ADVANTAGES, **options):
    """(surrogate, gradient of the summed loss in log-probs)."""
    width = jnp.full(new.shape, options.pop("width", 0.25))
    float32 = (jnp.asarray(np.log(x), jnp.float32) for x in (new, old, behavior))
    logprobs, *others = float32

    def total(logprobs):
        found = dppo.dppo(
            logprobs,
            *others,
            jnp.asarray(advantages, jnp.float32),
            width,
            width,
            **options,
        )
        return found.loss.sum(), found

    grad, found = jax.grad(total, has_aux=True)(logprobs)
    return found, grad


def test_by_hand():
    """0.8 against 0.5 for A > 0 and 0.2 against it for A < 0 are too far; 0.01 is not.

    A small probability may fall to a tenth: PPO would clip its ratio of 0.1.
    """
    found, grad = run()
    np.testing.assert_array_equal(found.clipped_high, [[0, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(found.clipped_low, [[0, 0, 0], [0, 1, 0]])
    expected = np.array([[-2 * 1.2, 0, -2 * 0.1], [1.2, 0, 0.1]])
    np.testing.assert_allclose(grad, expected, rtol=1e-5)
    np.testing.assert_allclose(found.loss, expected * np.log(NEW), rtol=1e-5)
    found, grad = run(base="behavior", weight="ratio")
    assert not found.clipped_high.any() and not found.clipped_low.any()
    expected = -ADVANTAGES * NEW / BEHAVIOR
    np.testing.assert_allclose(found.loss, expected, rtol=1e-5)
    np.testing.assert_allclose(grad, expected, rtol=1e-5)


def test_the_detached_weight_has_a_cap():
    _, grad = run(cap=1.1)
    np.testing.assert_allclose(grad[0], [-2.2, 0, -0.2], rtol=1e-5)
    _, grad = run(cap=1.1, weight="ratio")
    np.testing.assert_allclose(grad[0], [-2.4, 0, -0.2], rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("base", ["old", "behavior"])
@pytest.mark.parametrize(("divergence", "width"), [("tv", 0.2), ("kl", 0.05)])
def test_slow_loop_agrees(divergence, width, base, seed):
    rng = np.random.default_rng(seed)
    new, old, behavior = rng.uniform(0.01, 0.99, (3, 4, 5))
    advantages = rng.choice([-1.0, 0.0, 2.0], (4, 5))
    expected, dropped = np.zeros((4, 5)), 0
    for i in np.ndindex(4, 5):
        p, q, a = new[i], {"old": old, "behavior": behavior}[base][i], advantages[i]
        if divergence == "tv":
            distance = abs(p - q)
        else:
            distance = q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
        if a * (p - q) > 0 and distance > width:
            dropped += 1
        else:
            expected[i] = -a * min(p / q, 20)
    assert 0 < dropped < 20
    found, grad = run(
        new, old, behavior, advantages, divergence=divergence, base=base, width=width
    )
    np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=1e-6)
    assert (found.clipped_low | found.clipped_high).sum() == dropped


def test_a_wide_region_is_the_plain_ratio():
    found, grad = run(width=1.0, weight="ratio")
    np.testing.assert_allclose(grad, -ADVANTAGES * NEW / OLD, rtol=1e-5)
    np.testing.assert_array_equal(found.loss, grad)
