"""FIPO."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import losses
from hapo_jax.algo.rivals import fipo


def _random(seed):
    rng = np.random.default_rng(seed)
    shape = 5, 7
    mask = np.arange(7) < rng.integers(1, 8, 5)[:, None]
    old = -rng.uniform(0, 3, shape)
    new = old + rng.normal(scale=1.0, size=shape)
    advantages = rng.choice([-1.0, 1.0], (5, 1)) * np.ones(shape)
    numbers = (jnp.asarray(x, jnp.float32) for x in (new, old, advantages))
    new, old, advantages = numbers
    ratio = losses.importance_ratio(new, old, limit=20.0)
    return new, old, ratio, advantages, jnp.asarray(mask)


@pytest.mark.parametrize("high_only", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_slow_loop_agrees(seed, high_only):
    numbers = _random(seed)
    new, old, ratio, advantages, mask = (np.asarray(x, np.float64) for x in numbers)
    shaped = fipo.fipo(
        *numbers, dual=3.0, half_life=4.0, high_only=high_only, threshold=1.5
    )
    for i, t in np.argwhere(mask):
        future = 0.0
        for k in range(t, int(mask[i].sum())):
            moved = new[i, k] - old[i, k]
            if moved <= np.log(3.0):
                future += 2 ** (-(k - t) / 4) * moved
        factor = np.clip(np.exp(future), 1.0 if high_only else 0.8, 1.2)
        if advantages[i, t] < 0 and ratio[i, t] > 1.5:
            factor = np.clip(factor, 0.8, 1.0)
        np.testing.assert_allclose(shaped[i, t], advantages[i, t] * factor, rtol=1e-4)


def test_by_hand():
    """Log-ratios ln 1.1, ln 1.1 and ln 0.5, half-life 1: exponents add up halved."""
    new = jnp.log(jnp.array([[1.1, 1.1, 0.5]]))
    numbers = new, jnp.zeros((1, 3)), jnp.exp(new), jnp.ones((1, 3))
    mask = jnp.ones((1, 3), bool)
    options = dict(dual=10.0, half_life=1.0, width=0.5)
    shaped = fipo.fipo(*numbers, mask, **options, high_only=False)
    expected = [1.1 * 1.1**0.5 * 0.5**0.25, 1.1 * 0.5**0.5, 0.5]
    np.testing.assert_allclose(shaped, [expected], rtol=1e-5)
    # The completion ends before the last token, or it counts as far.
    short = fipo.fipo(*numbers, mask.at[0, 2].set(False), **options)
    np.testing.assert_allclose(short[0, :2], [1.1**1.5, 1.1], rtol=1e-5)


def test_equal_policies_and_width_0_are_dapo():
    new, old, ratio, advantages, mask = _random(0)
    same = fipo.fipo(old, old, jnp.ones_like(ratio), advantages, mask, dual=10.0)
    np.testing.assert_array_equal(same, advantages)
    flat = fipo.fipo(new, old, ratio, advantages, mask, dual=10.0, width=0.0)
    np.testing.assert_array_equal(flat, advantages)


def test_no_gradient_flows_through_the_factor():
    new, old, ratio, advantages, mask = _random(0)

    def total(new):
        return fipo.fipo(new, old, ratio, advantages, mask, dual=10.0).sum()

    assert not jax.grad(total)(new).any()


def test_two_dual_clipped_tokens_leave_a_completion_out():
    ratio = jnp.array([[11.0, 11.0, 1.0], [11.0, 1.0, 1.0], [11.0, 11.0, 1.0]])
    advantages = jnp.array([[-1.0], [-1.0], [1.0]]) * jnp.ones((3, 3))
    mask = jnp.ones((3, 3), bool)
    kept, counted = fipo.one_dual_clipped(ratio, advantages, mask, dual=10.0)
    np.testing.assert_array_equal(kept, [[False] * 3, [True] * 3, [True] * 3])
    np.testing.assert_array_equal(counted, kept)
    assert fipo.one_dual_clipped(ratio, advantages, mask, dual=0.0)[0].all()
