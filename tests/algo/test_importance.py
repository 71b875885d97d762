import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import importance

RATIO = jnp.array([[0.5, 1.0, 4.0], [2.0, 0.25, 1.0]])
MASK = jnp.array([[True, True, True], [True, True, False]])


def _weights(**options):
    defaults = {"level": "token", "outside": "clip", "floor": 0.0, "cap": 2.0}
    old = jnp.where(MASK, jnp.log(RATIO), jnp.nan)
    return importance.weights(old, jnp.zeros((2, 3)), MASK, **{**defaults, **options})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[0.5, 1, 2], [2, 0.25, 0]]),
        ({"floor": 0.5}, [[0.5, 1, 2], [2, 0.5, 0]]),
        ({"outside": "zero"}, [[0.5, 1, 0], [2, 0.25, 0]]),
        ({"outside": "zero", "floor": 0.4}, [[0.5, 1, 0], [2, 0, 0]]),
        ({"level": "sequence"}, [[2, 2, 2], [0.5, 0.5, 0]]),
        ({"level": "sequence", "cap": 1.5}, [[1.5] * 3, [0.5, 0.5, 0]]),
        # (0.5 * 1 * 2)^(1/3) and (2 * 0.25)^(1/2)
        ({"level": "geometric"}, [[1, 1, 1], [2**-0.5, 2**-0.5, 0]]),
        (
            {"normalize": True},
            np.array([[0.5, 1, 2], [2, 0.25, 0]]) / (5.75 / 5),
        ),
        (
            {"level": "sequence", "normalize": True},
            np.array([[2, 2, 2], [0.5, 0.5, 0]]) / 1.25,
        ),
    ],
)
def test_by_hand(options, expected):
    # The clamp at a bound of 2 and log(2) differ in the last bit of float32.
    np.testing.assert_allclose(_weights(**options), expected, rtol=1e-6)


def test_equal_policies_weigh_exactly_one():
    same = jnp.array([[-1.3, -0.2, -7.0], [-2.0, -0.1, jnp.nan]])
    weights = importance.weights(
        same, same, MASK, level="token", outside="clip", floor=0.0, cap=2.0
    )
    np.testing.assert_array_equal(weights, MASK.astype(jnp.float32))


def test_finite_for_huge_ratios_and_when_all_are_dropped():
    old = jnp.full((2, 3), 100.0)
    weights = importance.weights(
        old,
        -old,
        MASK,
        level="sequence",
        outside="zero",
        floor=0.5,
        cap=2.0,
        normalize=True,
    )
    np.testing.assert_array_equal(weights, np.zeros((2, 3)))


def test_no_gradient():
    def total(old):
        return importance.weights(
            old, old, MASK, level="token", outside="clip", floor=0.0, cap=2.0
        ).sum()

    np.testing.assert_array_equal(jax.grad(total)(RATIO), np.zeros((2, 3)))


@pytest.mark.parametrize("options", [{"level": "group"}, {"outside": "drop"}])
def test_unknown_names_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options.values()))):
        _weights(**options)
