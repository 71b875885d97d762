import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import clipping

SCORE = jnp.array([[-1.0, -0.5, 0.0], [0.0, 0.5, 1.0]])


@pytest.mark.parametrize(
    ("strength", "low", "high"),
    [
        (
            1.0,
            [[0.4, 0.3, 0.2], [0.2, 0.2, 0.2]],
            [[0.28, 0.28, 0.28], [0.28, 0.42, 0.56]],
        ),
        (
            0.5,
            [[0.3, 0.25, 0.2], [0.2, 0.2, 0.2]],
            [[0.28, 0.28, 0.28], [0.28, 0.35, 0.42]],
        ),
        (0.0, np.full((2, 3), 0.2), np.full((2, 3), 0.28)),
    ],
)
def test_by_hand(strength, low, high):
    actual = clipping.by_score(SCORE, low=0.2, high=0.28, strength=strength)
    np.testing.assert_allclose(actual, (low, high), rtol=1e-6)


def test_sign_confident_tokens_widen_the_left_and_uncertain_ones_the_right():
    low, high = clipping.by_score(SCORE, low=0.2, high=0.28, strength=1.0)
    assert low[0, 0] > low[0, 2] and high[0, 0] == high[0, 2]
    assert high[1, 2] > high[1, 0] and low[1, 2] == low[1, 0]
