"""ACPO."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import entropy
from hapo_jax.algo.rivals import acpo
from tests import golden, tiny
from tests.algo import test_method

MASK = jnp.array([[True, True, True], [True, True, False]])
P = jnp.array([[0.1, 0.15, 0.5], [0.95, 1.0, 0.1]])
RATIO = jnp.array([[0.5, 1.5, 3.0], [1.0, 1.2, 99.0]])


def widths(**options):
    return acpo.by_ratio_spread(
        jnp.log(P), RATIO, MASK, low=0.2, high=0.3, **{"spread": 3.0, **options}
    )


def test_by_hand():
    """Fifths: deviations 0.5 of two tokens, 0 of one alone, 0.1 of two up to 1."""
    low, high = widths()
    own = np.array([[1.5, 1.5, 0.0], [0.3, 0.3, np.nan]])
    where = np.asarray(MASK)
    # A deviation of 0 is the root of 1e-8, times 3.
    np.testing.assert_allclose(low[where], 0.2 + own[where], atol=4e-4)
    np.testing.assert_allclose(high[where], 0.3 + own[where], atol=4e-4)
    low, high = widths(widest=1.0)
    assert low.max() == high.max() == 1.0
    low, high = widths(bins=1)
    assert np.ptp(np.asarray(low)[where]) == 0


def test_without_spread_it_is_the_plain_range():
    low, high = widths(spread=0.0)
    np.testing.assert_array_equal(low, np.full((2, 3), np.float32(0.2)))
    np.testing.assert_array_equal(high, np.full((2, 3), np.float32(0.3)))


@pytest.mark.parametrize("seed", range(3))
def test_slow_loop_agrees(seed):
    """Loss and gradient of the whole method, in float64."""
    tokens, _, _, _ = test_method._batch(seed)
    rng = np.random.default_rng(seed)
    advantages = rng.choice([-1.0, 1.0], 6)[:, None] * np.ones((6, 5))
    tokens = tokens._replace(advantages=jnp.asarray(advantages, jnp.float32))
    new, old = (
        np.asarray(x, np.float64) for x in (tokens.logprobs, tokens.old_logprobs)
    )
    mask, ratio, p = np.asarray(tokens.mask), np.exp(new - old), np.exp(new)
    loss, grad = 0.0, np.zeros((6, 5))
    for i, t in zip(*np.nonzero(mask), strict=True):
        b = min(int(p[i, t] * 5), 4)
        alike = [
            ratio[j, s]
            for j, s in zip(*np.nonzero(mask), strict=True)
            if min(int(p[j, s] * 5), 4) == b
        ]
        width = min(0.2 + 3 * np.sqrt(np.var(alike) + 1e-8), 3)
        sign, r = advantages[i, t], ratio[i, t]
        bounded = min(max(r, 1 - width), 1 + width)
        value, slope = max(-sign * r, -sign * bounded), -sign * r
        if -sign * bounded > -sign * r:
            slope = 0.0
        if sign < 0 and r > 3:
            value, slope = 3.0, 0.0
        weight = 1 / mask[i].sum() / 6
        loss, grad[i, t] = loss + value * weight, slope * weight
    made, stats = tiny.method("acpo"), entropy.initial_stats()
    assert made.across_rows
    actual, actual_grad, _ = golden.value_and_grad(made, tokens, stats)
    np.testing.assert_allclose(actual, loss, rtol=1e-5)
    np.testing.assert_allclose(actual_grad, grad, rtol=1e-4, atol=1e-7)


def test_no_gradient_flows_through_the_range():
    def total(logprobs):
        ratio = jnp.exp(logprobs - jnp.log(P))
        both = acpo.by_ratio_spread(logprobs, ratio, MASK, low=0.2, high=0.3)
        return sum(x.sum() for x in both)

    np.testing.assert_array_equal(jax.grad(total)(jnp.log(P)), np.zeros((2, 3)))
