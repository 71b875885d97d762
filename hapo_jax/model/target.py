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


@contextlib.contextmanager
def compile_for(target: Target) -> Iterator[None]:
    """Programs traced inside are made for `target`."""
    token = _target.set(target)
    try:
        yield
    finally:
        _target.reset(token)
