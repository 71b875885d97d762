import jax
import jax.numpy as jnp
import numpy as np

from hapo_jax.algo import shaping

# Zone (0.875, 1.125) at widths of 0.25, all exactly representable.
WIDTH = jnp.full((2, 3), 0.25)
RATIO = jnp.array([[0.875, 1.0, 1.125], [0.5, 1.0, 2.0]])


def _redistribute(score, strength=1.0, low=WIDTH, high=WIDTH):
    advantages = jnp.full((2, 3), 2.0)
    score = jnp.full((2, 3), score)
    return shaping.redistribute(advantages, score, RATIO, low, high, strength=strength)


def test_uncertain_tokens_grow_outside_the_open_zone():
    """The edges of the zone count as outside."""
    expected = [[3.0, 2.0, 3.0], [3.0, 2.0, 3.0]]
    np.testing.assert_array_equal(_redistribute(0.5), expected)


def test_confident_tokens_shrink_inside_the_open_zone():
    expected = [[2.0, 1.0, 2.0], [2.0, 1.0, 2.0]]
    np.testing.assert_array_equal(_redistribute(-0.5), expected)
    np.testing.assert_array_equal(_redistribute(-1.0)[:, 1], [0.0, 0.0])


def test_strength_scales_the_change():
    expected = [[2.5, 2.0, 2.5], [2.5, 2.0, 2.5]]
    np.testing.assert_array_equal(_redistribute(0.5, strength=0.5), expected)


def test_score_or_strength_zero_changes_nothing():
    np.testing.assert_array_equal(_redistribute(0.0), np.full((2, 3), 2.0))
    np.testing.assert_array_equal(_redistribute(0.7, strength=0.0), np.full((2, 3), 2))


def test_wider_range_widens_the_zone():
    actual = _redistribute(0.5, high=jnp.full((2, 3), 0.5))  # up to 1.25
    np.testing.assert_array_equal(actual[0], [3.0, 2.0, 2.0])


def test_no_gradient_through_the_ratio():
    def total(ratio):
        score = jnp.full((2, 3), 0.5)
        return shaping.redistribute(
            ratio, score, ratio, WIDTH, WIDTH, strength=1.0
        ).sum()

    # What remains is the derivative in the advantages: 1 or 1 + score.
    expected = [[1.5, 1.0, 1.5], [1.5, 1.0, 1.5]]
    np.testing.assert_array_equal(jax.grad(total)(RATIO), expected)
