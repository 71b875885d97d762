"""Sums, means, extremes and order statistics under a mask.

Every function selects with `where` before it multiplies or adds, so that NaN or inf
in the padding of `x` reaches neither a value nor the gradient in `x`. An empty mask
gives 0, never NaN.
Reductions are plain sums and extremes: over a sharded batch each is one scalar
all-reduce, and nothing is gathered or sorted.
"""

import fractions
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

Array = jax.Array

# The one guard against division by zero. Denominators that carry a meaning of their
# own (a group's standard deviation, say) take theirs as an argument.
EPSILON = 1e-8

# Of a quantile: its square stays below 2**31.
_MAX_DENOMINATOR = 10_000


def sum(x: Array, mask: Array, axis: int | None = None) -> Array:
    """Sum of the elements of `x` where `mask` is True; 0 for an empty mask."""
    return jnp.sum(jnp.where(mask, x, 0), axis=axis)


def count(mask: Array, axis: int | None = None) -> Array:
    """Number of True elements, counted in int32 (exact), returned as float32."""
    return jnp.sum(mask, axis=axis, dtype=jnp.int32).astype(jnp.float32)


def mean(x: Array, mask: Array, axis: int | None = None) -> Array:
    """Mean of the elements of `x` where `mask` is True; 0 for an empty mask."""
    return sum(x, mask, axis) / jnp.maximum(count(mask, axis), 1)


def std(x: Array, mask: Array) -> Array:
    """Population standard deviation over all masked elements; 0 for an empty mask."""
    centred = jnp.where(mask, x, 0) - mean(x, mask)
    return jnp.sqrt(mean(jnp.square(centred), mask))


def min(x: Array, mask: Array) -> Array:
    """Smallest masked element; 0 for an empty mask."""
    return jnp.where(jnp.any(mask), jnp.min(jnp.where(mask, x, jnp.inf)), 0)


def max(x: Array, mask: Array) -> Array:
    """Largest masked element; 0 for an empty mask."""
    return jnp.where(jnp.any(mask), jnp.max(jnp.where(mask, x, -jnp.inf)), 0)


def whiten(x: Array, mask: Array) -> Array:
    """(x - mean) / sqrt(var + EPSILON) over all masked elements, 0 outside the mask.

    The variance is unbiased (divided by N - 1). Equal elements, or fewer than two of
    them, give exactly 0: rounding in the mean must not be blown up by 1/sqrt(EPSILON).

    Args:
      x: float32 of any shape.
      mask: bool, the shape of x.

    Returns:
      float32 of the shape of x.
    """
    chex.assert_equal_shape([x, mask])
    centred = jnp.where(mask, x, 0) - mean(x, mask)
    freedom = jnp.maximum(count(mask) - 1, 1)
    variance = sum(jnp.square(centred), mask) / freedom
    spread = min(x, mask) < max(x, mask)
    return jnp.where(mask & spread, centred * jax.lax.rsqrt(variance + EPSILON), 0)


def quantile(x: Array, mask: Array, q: float) -> Array:
    """Exact order statistic of the masked elements, without sorting or gathering.

        quantile = sorted(x[mask])[round_half_even(q * (N - 1))],  N = sum(mask)

    Sets the bits of the answer from the highest to the lowest, on the order-preserving
    unsigned image of float32: a bit stays set while at most `index` elements lie below
    the candidate. That is 32 counts, each a scalar all-reduce over a sharded batch.

    Args:
      x: float32 of any shape, finite where masked.
      mask: bool, the shape of x.
      q: in [0, 1], a Python float that stands for a fraction with a denominator of at
        most 10 000 (any number of four decimals does), so that q * (N - 1) is rounded
        exactly however large N is; float32 would be off from 2**24 on.

    Returns:
      float32 scalar, bit for bit an element of x; 0 for an empty mask.

    Raises:
      ValueError: q is outside [0, 1] or no such fraction.
    """
    return order_statistic(x, mask, order_index(size(mask), q))


def order_statistic(x: Array, mask: Array, index: Array) -> Array:
    """sorted(x[mask])[index], without sorting or gathering.

    Args:
      x: float32 of any shape, finite where masked.
      mask: bool, the shape of x.
      index: int32 scalar in [0, sum(mask)).

    Returns:
      float32 scalar, bit for bit an element of x; 0 for an empty mask.
    """
    chex.assert_equal_shape([x, mask])
    chex.assert_type(x, jnp.float32)
    image = ordered_bits(x)
    bits = largest_bits(
        lambda bits: jnp.sum(mask & (image < bits), dtype=jnp.int32) <= index
    )
    return jnp.where(jnp.any(mask), from_ordered_bits(bits), jnp.float32(0))


def top(x: Array, mask: Array, count: Array) -> Array:
    """Which masked elements are the `count` largest; of equal ones the first.

    Args:
      x: float32 of any shape, finite where masked.
      mask: bool, the shape of x.
      count: int32 scalar >= 0; all of them if there are fewer.

    Returns:
      bool of the shape of x.
    """
    total = size(mask)
    threshold = order_statistic(x, mask, jnp.maximum(total - count, 0))
    above, equal = mask & (x > threshold), mask & (x == threshold)
    place = jnp.cumsum(equal.reshape(-1), dtype=jnp.int32).reshape(x.shape)
    return above | equal & (place <= count - size(above))


def share(mask: Array, q: float, *, least: int = 1) -> Array:
    """floor(q * N), at least `least`, int32; for q see `quantile`."""
    whole, _, _ = share_of(size(mask), q)
    return jnp.maximum(whole, least)


def size(mask: Array) -> Array:
    """Number of True elements, int32 scalar."""
    return jnp.sum(mask, dtype=jnp.int32)


def order_index(count: Array, q: float, *, rounding: str = "half_even") -> Array:
    """q * (N - 1) as an index among N sorted elements, int32.

    Args:
      count: N, int32, traced.
      q: see `quantile`.
      rounding: "half_even", "down" or "up". An element is at least the quantile by
        linear interpolation just if it is at least that of "up", and at most it just
        if it is at most that of "down".
    """
    floor, rest, denominator = share_of(count - 1, q)
    if rounding == "half_even":
        half = 2 * rest == denominator
        up = (2 * rest > denominator) | (half & (floor % 2 == 1))
        return floor + up.astype(jnp.int32)
    assert rounding in ("down", "up"), rounding
    return floor + (rest > 0) * (rounding == "up")


def share_of(count: Array, q: float) -> tuple[Array, Array, int]:
    """(whole part, numerator of the rest, its denominator) of q * count, exactly.

    Args:
      count: int32, traced.
      q: see `quantile`.

    Raises:
      ValueError: q is outside [0, 1] or no such fraction.
    """
    if not 0 <= q <= 1:
        raise ValueError(f"{q=} must be in [0, 1].")
    share = fractions.Fraction(q).limit_denominator(_MAX_DENOMINATOR)
    if float(share) != q:
        raise ValueError(
            f"{q=} must be a fraction whose denominator is at most "
            f"{_MAX_DENOMINATOR}; round it to four decimals."
        )
    numerator, denominator = share.numerator, share.denominator
    # count = whole * denominator + part keeps every product below 2**31.
    whole, part = jnp.divmod(count, denominator)
    floor, rest = jnp.divmod(part * numerator, denominator)
    return whole * numerator + floor, rest, denominator


_SIGN = 0x80000000


def largest_bits(holds: Callable[[Array], Array], shape: tuple[int, ...] = ()) -> Array:
    """The largest uint32 that `holds`, by setting its bits from the highest down.

    Args:
      holds: uint32 of `shape` -> bool of `shape`; true up to some number, false beyond.
      shape: of independent searches.
    """

    def set_bit(step, found):
        candidate = found | (jnp.uint32(1) << (31 - step).astype(jnp.uint32))
        return jnp.where(holds(candidate), candidate, found)

    nothing = jnp.zeros(shape, jnp.uint32)
    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(32), set_bit, nothing)


def ordered_bits(x: Array) -> Array:
    """uint32 with the order of float32: negative numbers reversed, below positive."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    sign = jnp.uint32(_SIGN)
    return jnp.where(bits & sign != 0, ~bits, bits | sign)


def from_ordered_bits(bits: Array) -> Array:
    """Inverse of `ordered_bits`."""
    sign = jnp.uint32(_SIGN)
    bits = jnp.where(bits & sign != 0, bits & ~sign, ~bits)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)
