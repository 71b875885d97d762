"""What is fastest differs between platforms; this is the one place that knows.

Measured on CPUs (`benchmarks/README.md`). The values for accelerators follow from how
they work and were not measured: their decode step reads all weights whatever the number
of rows, so fewer rows gain less, and each program takes long to compile.

The order of keys [B, K, C, S] and values [B, K, S, C] is the same everywhere: both
products of decode attention then read memory in order. So are the unrolled layers and
the order of weights in `model/decoding.py`.
"""

from typing import NamedTuple

from hapo_jax.system import target


class Tuning(NamedTuple):
    """Attributes:
    chunks_ahead: chunks that are dispatched before the flags of an earlier one are
      read. An accelerator would wait for the host otherwise; a CPU has nothing to
      overlap with.
    fewest_rows: that decode together; below, rows that have finished stay.
    sizes_per_doubling: numbers of rows and of cache columns from one to its double, 1
      or 2. Each pair of numbers that occurs costs a compilation.
    writes_last: when a decode step writes keys and values, see `decoding.step`. A TPU
      copies a layer's cache into its fast memory to read it; written before, it would
      be copied back as a whole. Others, written after, would copy it first.
    spare_rows: there may be rows that nobody needs, for a number with many halves.
    """

    chunks_ahead: int
    fewest_rows: int
    sizes_per_doubling: int
    writes_last: bool
    spare_rows: bool = False


def of_target() -> Tuning:
    """Of the platform that programs are made for."""
    name = target.platform()
    if name == "cpu":
        return Tuning(
            chunks_ahead=0,
            fewest_rows=2,
            sizes_per_doubling=2,
            writes_last=False,
        )
    return Tuning(
        chunks_ahead=1,
        fewest_rows=8,
        sizes_per_doubling=1,
        writes_last=name == "tpu",
        spare_rows=True,
    )
