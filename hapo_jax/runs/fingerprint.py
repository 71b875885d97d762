"""One number per array that tells whether its bits are those that were saved.

Compression and transport notice missing bytes; a changed byte in a file of floats is
another valid file of floats. `checkpoint.py` stores these numbers with a state and
compares them after reading it back; runs and evaluations tell by them which weights
they began with.
"""

import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


@jax.jit
def of_array(x: Array) -> Array:
    """A uint32 that changes with any bit of x and with the place of any element.

        sum_i mix(bits_i + mix(i))  mod 2^32,    i the row-major index mod 2^32

    `mix` is a bijection of uint32, so a change of one element always shows, and any
    other with probability 1 - 2^-32. Sums of integers do not depend on their order: the
    number is the same on every mesh, and each device reads its own part only.

    Args:
      x: array of booleans, integers or real floats of any shape and sharding.

    Returns:
      [] uint32.
    """
    bits = _bits(x)
    index = jnp.zeros(bits.shape, jnp.uint32)
    for axis, size in enumerate(bits.shape):
        along = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        index = index * np.uint32(size) + along
    return jnp.sum(_mix(bits + _mix(index)), dtype=jnp.uint32)


def of_arrays(arrays: Mapping[str, Array]) -> dict[str, int]:
    """One number per array, from one program.

    A program per array would have dozens in flight at a time, whose sums over devices
    then wait for each other: on simulated devices, which share a few threads, for ever.
    """
    found = jax.device_get(_of_arrays(dict(arrays)))
    return {name: int(value) for name, value in found.items()}


def of_weights(params) -> str:
    """A checksum of a policy's parameters, wherever they were read from."""
    leaves = jax.tree.leaves(params)
    found = of_arrays({f"{i:06d}": leaf for i, leaf in enumerate(leaves)})
    marks = np.array([found[name] for name in sorted(found)], np.uint32)
    return f"{zlib.crc32(marks.tobytes()):08x}"


@jax.jit
def _of_arrays(arrays: dict[str, Array]) -> dict[str, Array]:
    return {name: of_array(x) for name, x in arrays.items()}


def _bits(x: Array) -> Array:
    """The bit patterns of x as uint32; elements of 8 bytes become two."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


def _mix(x: Array) -> Array:
    """Spreads every bit over the word: the finalizer of MurmurHash3, invertible."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
