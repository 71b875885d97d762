"""What the chips can do, and topologies of them that are not there.

Figures as published at cloud.google.com/tpu/docs (v4, v5e, v5p, v6e), but typed in by
hand and seen by no machine here: check them against the data sheet before a decision
hangs on them. Prices, per chip and hour on demand, change and can be negotiated: edit
them, or give `--price`.
"""

from typing import NamedTuple

import jax
from jax.experimental import topologies

from hapo_jax.learner import flops
from hapo_jax.system.errors import Refused

_GIB = 2**30


class Chip(NamedTuple):
    """Attributes:
    hbm_bytes: memory that programs may use.
    hbm_rate: bytes per second to and from it.
    ici_rate: bytes per second that a chip sends to all its neighbours together.
    price: US dollars per hour.
    host: shape of the chips of one host in a larger slice.
    options: of `topologies.get_topology_desc`.
    """

    hbm_bytes: int
    hbm_rate: float
    ici_rate: float
    price: float
    host: str
    options: dict


# The memory lies a little below the data sheet's 32, 16, 95, 32 GB: v5e's is what the
# compiler grants, the others follow it. ICI: Gbit/s per chip, half of it in each
# direction.
CHIPS = {
    "v4": Chip(
        hbm_bytes=int(31.75 * _GIB),
        hbm_rate=1228e9,
        ici_rate=2400e9 / 16,
        price=3.22,
        host="2x2x1",
        options={"chip_config_name": "megacore"},
    ),
    "v5e": Chip(
        hbm_bytes=int(15.75 * _GIB),
        hbm_rate=819e9,
        ici_rate=1600e9 / 16,
        price=1.20,
        host="2x2",
        options={},
    ),
    "v5p": Chip(
        hbm_bytes=int(95.74 * _GIB),
        hbm_rate=2765e9,
        ici_rate=4800e9 / 16,
        price=4.20,
        host="2x2x1",
        options={},
    ),
    "v6e": Chip(
        hbm_bytes=int(31.25 * _GIB),
        hbm_rate=1640e9,
        ici_rate=3584e9 / 16,
        price=2.70,
        host="2x2",
        options={},
    ),
}


class Topology(NamedTuple):
    """A slice of chips that is not there.

    Attributes:
      name: as given, such as "v5e:8x8".
      chip: what each can do.
      devices: for programs to be compiled for.
      host_devices: of one host, which samples on its own. They are of another, smaller
        slice, since some slices take only programs for all of their devices.
      peak_flops: of one device, bfloat16.
    """

    name: str
    chip: Chip
    devices: list
    host_devices: list
    peak_flops: float


def topology(name: str) -> Topology:
    """The topology of a name like "v5e:8x8" or "v5p:4x4x4".

    Raises:
      Refused: the name is not understood, the compiler knows no such slice, or
        libtpu, which holds the compiler, is missing.
    """
    kind, _, shape = name.partition(":")
    if kind not in CHIPS or not shape:
        raise Refused(
            f"--topology={name!r} must be a chip and a shape, such as v5e:8x8 or "
            f"v5p:4x4x4; there are {', '.join(CHIPS)}."
        )
    chip = CHIPS[kind]
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=name, **chip.options
        )
    except (RuntimeError, NotImplementedError, jax.errors.JaxRuntimeError) as error:
        if "libtpu" in str(error).lower():
            raise Refused(
                "libtpu, which holds the compiler for TPUs, is missing; install "
                f"hapo_jax[plan]. ({error})"
            ) from error
        raise Refused(
            f"--topology={name!r}: the compiler knows no such slice; v5e and v6e are "
            f"grids such as 4x4 and 8x8, v4 and v5p cubes such as 2x2x4. ({error})"
        ) from error
    devices = host = list(found.devices)
    if len({device.process_index for device in devices}) > 1:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{kind}:{chip.host}", **chip.options
        )
        host = list(found.devices)
    peak = flops.data_sheet(devices[0].device_kind)
    assert peak is not None, devices[0].device_kind
    return Topology(
        name=name, chip=chip, devices=devices, host_devices=host, peak_flops=peak
    )
