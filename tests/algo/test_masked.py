import fractions

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hapo_jax.algo import masked

X = jnp.array([[1.0, -2.0, jnp.nan], [4.0, jnp.inf, 3.0]])
MASK = jnp.array([[True, True, False], [True, False, True]])
QUANTILE = jax.jit(masked.quantile, static_argnums=2)


@pytest.fixture(params=[jax.jit, lambda f: f], ids=["jit", "eager"])
def variant(request):
    return request.param


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (masked.sum, 6.0),
        (masked.mean, 1.5),
        (masked.std, np.std([1.0, -2.0, 4.0, 3.0])),
        (masked.min, -2.0),
        (masked.max, 4.0),
    ],
)
def test_by_hand_with_nan_and_inf_in_padding(variant, function, expected):
    np.testing.assert_allclose(variant(function)(X, MASK), expected, rtol=1e-6)
    assert variant(function)(X, jnp.zeros_like(MASK)) == 0


def test_per_row():
    np.testing.assert_array_equal(masked.sum(X, MASK, axis=1), [-1.0, 7.0])
    np.testing.assert_array_equal(masked.mean(X, MASK, axis=1), [-0.5, 3.5])
    np.testing.assert_array_equal(masked.count(MASK, axis=1), [2.0, 2.0])


def test_count_is_exact_beyond_float32():
    """Adding ones in float32 would stop at 2**24."""
    assert masked.count(jnp.ones(2**24 + 2, bool)) == 2**24 + 2


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (masked.mean, [[0.25, 0.25, 0.0], [0.25, 0.0, 0.25]]),
        # d std / d x = (x - mean) / (N std)
        (masked.std, np.array([[-0.5, -3.5, 0], [2.5, 0, 1.5]]) / 4 / np.sqrt(5.25)),
    ],
)
def test_gradient_is_finite_with_nan_in_padding(function, expected):
    np.testing.assert_allclose(jax.grad(function)(X, MASK), expected, rtol=1e-6)


def test_whiten_by_hand_and_degenerate():
    values = np.array([1.0, -2.0, 4.0, 3.0])
    expected = (values - 1.5) / values.std(ddof=1)
    actual = np.asarray(masked.whiten(X, MASK))
    np.testing.assert_allclose(actual[np.asarray(MASK)], expected, rtol=1e-6)
    np.testing.assert_array_equal(actual[~np.asarray(MASK)], 0)
    # 0.1 is not a float32: its mean rounds, and 1/sqrt(1e-8) would show it.
    equal = jnp.full((2, 3), 0.1)
    np.testing.assert_array_equal(masked.whiten(equal, MASK), np.zeros((2, 3)))
    one = jnp.zeros((2, 3), bool).at[0, 0].set(True)
    np.testing.assert_array_equal(masked.whiten(X, one), np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("values", "q", "expected"),
    [
        ([3.0, 1.0, 2.0], 0.0, 1.0),
        ([3.0, 1.0, 2.0], 1.0, 3.0),
        ([4.0, 1.0, 2.0, 3.0], 0.5, 3.0),  # 1.5 rounds to the even 2
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 0.5, 3.0),  # 2.5 rounds to the even 2
        ([-1.0, -3.0, 2.0, -2.0, 0.0], 0.8, 0.0),  # 3.2 rounds to 3
        ([7.0], 0.8, 7.0),
        ([2.0, 2.0, 2.0, 1.0], 0.8, 2.0),
    ],
)
def test_quantile_by_hand(variant, values, q, expected):
    x = jnp.array([[*values, jnp.nan]])
    mask = jnp.array([[True] * len(values) + [False]])
    assert variant(lambda x, m: masked.quantile(x, m, q))(x, mask) == expected


def test_quantile_of_nothing_is_zero():
    assert masked.quantile(X, jnp.zeros_like(MASK), 0.8) == 0


@pytest.mark.parametrize("q", [-0.1, 1.1, float("nan"), 0.12345678])
def test_quantile_refuses(q):
    with pytest.raises(ValueError, match=rf"q={q} must be"):
        masked.quantile(X, MASK, q)


def _order_statistic(values: np.ndarray, q: float) -> float:
    """By sorting; the index is exactly rational and `round` is half-to-even."""
    share = fractions.Fraction(q).limit_denominator(10_000)
    return np.sort(values)[round(share * (len(values) - 1))]


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, (5, 7), elements=st.floats(width=32, allow_nan=False)),
    hnp.arrays(bool, (5, 7)),
    st.sampled_from([0.0, 0.3, 0.5, 0.8, 0.9999, 1.0]),
)
def test_quantile_is_the_sorted_element(x, mask, q):
    actual = QUANTILE(jnp.asarray(x), jnp.asarray(mask), q)
    expected = _order_statistic(x[mask], q) if mask.any() else 0
    assert actual == expected


@pytest.mark.parametrize("size", [2, 5, 6, 2**24 + 6, 2**31 - 1])
@pytest.mark.parametrize("q", [0.0, 0.5, 0.8, 1 / 3, 0.9999, 1.0])
def test_order_index_is_exact_for_any_size(size, q):
    share = fractions.Fraction(q).limit_denominator(10_000)
    expected = round(share * (size - 1))
    assert int(masked.order_index(jnp.int32(size), q)) == expected


def test_quantile_of_a_sharded_batch_without_gathering(mesh8):
    """Equal to a sort, and the program sends scalars only."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 33)).astype(np.float32)
    mask = rng.random((16, 33)) < 0.7
    spec = jax.sharding.PartitionSpec(("data", "fsdp"), None)
    rows = jax.sharding.NamedSharding(mesh8((4, 2, 1)), spec)
    lowered = jax.jit(
        lambda x, mask: masked.quantile(x, mask, 0.8), in_shardings=(rows, rows)
    ).lower(x, mask)
    program = lowered.compile()
    assert program(jax.device_put(x, rows), jax.device_put(mask, rows)) == (
        _order_statistic(x[mask], 0.8)
    )
    text = program.as_text()
    assert "all-reduce" in text
    for operation in ("all-gather", "all-to-all", "collective-permute", " sort("):
        assert operation not in text, operation


def test_top_takes_the_first_of_equal_ones(variant):
    x = jnp.array([[1.0, 3.0, 3.0], [jnp.nan, 3.0, 2.0]])
    mask = jnp.array([[True, True, True], [False, True, True]])
    for count, expected in (
        (0, [[0, 0, 0], [0, 0, 0]]),
        (2, [[0, 1, 1], [0, 0, 0]]),
        (4, [[0, 1, 1], [0, 1, 1]]),
        (9, [[1, 1, 1], [0, 1, 1]]),
    ):
        found = variant(masked.top)(x, mask, jnp.int32(count))
        np.testing.assert_array_equal(found, np.array(expected, bool))
        assert not variant(masked.top)(x, mask & False, jnp.int32(count)).any()


def test_share_is_rounded_down_and_at_least_one():
    for count, expected in ((0, 1), (4, 1), (5, 1), (9, 1), (10, 2)):
        assert masked.share(jnp.arange(20) < count, 0.2) == expected
    assert masked.share(jnp.arange(20) < 3, 0.2, least=0) == 0
