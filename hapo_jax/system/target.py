"""The platform that programs are made for.

It is that of JAX's default backend, but where programs are compiled for hardware that
is not there (`plan.py`). What depends on the platform asks here: attention kernels,
the compute dtype, the widths of rows, the size of memory.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple

import jax


class Target(NamedTuple):
    """Hardware that is not there.

    Attributes:
      platform: "tpu" or "gpu".
      device_bytes: memory of one device.
    """

    platform: str
    device_bytes: int


_target: contextvars.ContextVar[Target | None] = contextvars.ContextVar(
    "target", default=None
)


def platform() -> str:
    """ "cpu", "gpu" or "tpu"."""
    target = _target.get()
    return jax.default_backend() if target is None else target.platform


def device_bytes() -> int | None:
    """Memory of a device that is not there; None where programs run here."""
    target = _target.get()
    return None if target is None else target.device_bytes


def training_options() -> dict[str, str] | None:
    """Options of XLA's compiler for programs whose weights lie over `fsdp`.

    A TPU's compiler would cut each product into as many steps as there are shares of
    its weight, to send one share while it multiplies by another. Steps that narrow
    leave the multipliers half idle, and each reads and writes the sum of those before:
    2.7 times the bytes of a 1.5B model's update over 32 shares. Without it a layer's
    weights are gathered as a whole while another product runs.
    """
    if platform() != "tpu":
        return None
    return {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}


@contextlib.contextmanager
def compile_for(target: Target) -> Iterator[None]:
    """Programs traced inside are made for `target`."""
    token = _target.set(target)
    try:
        yield
    finally:
        _target.reset(token)
