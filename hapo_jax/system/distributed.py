"""Several processes, one program: who they are, and what passes between them.

Every process runs the whole of `train.py`. Devices form one mesh, over which the
learner works; sampling and grading belong to a process and its own devices. What a
process knows alone (its completions, a signal) travels through `gather`, so that all
take the same decisions from the same numbers. With one process nothing here does
anything. `watch.py` notices processes that end.
"""

import contextlib
import os
import pathlib
import secrets

import jax
import numpy as np
from jax._src.clusters import cloud_tpu_cluster
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from hapo_jax.system import npz
from hapo_jax.system.errors import Refused

# XLA ends a process this long after it has heard from another for the last time, with
# a message about tasks; `watch.py` is to speak before.
_HEARTBEAT_TIMEOUT_S = 90
# A run that went well has waited for all already; one that failed waits for nobody.
_SHUTDOWN_TIMEOUT_S = 10
# Messages are padded to a power of two from here on: each size is compiled for once.
_SMALLEST_MESSAGE = 2**14
# Bytes from all processes that lie on a device at a time; the rest waits on the host.
_MOST_ON_DEVICE = 2**28


def initialize(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins the other processes, if there are any; before the first use of a device.

    Without arguments, Slurm (more than one task in the step) and TPU pods tell JAX
    themselves who is who.

    Args:
      coordinator: host:port that process 0 listens on.
      num_processes: how many there are.
      process_id: which one this is, from 0.

    Raises:
      Refused: some of the three are missing, or out of range.
    """
    given = {
        "coordinator": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise Refused(
            f"{', '.join(missing)} missing: --coordinator, --num_processes and "
            "--process_id come together, or not at all where Slurm or a TPU pod tells."
        )
    if missing and not environment_has_several():
        return
    if not missing and not 0 <= process_id < num_processes:
        raise Refused(
            f"--process_id={process_id} must be from 0 to --num_processes - 1 = "
            f"{num_processes - 1}."
        )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # `interrupt.py` handles SIGTERM; two handlers would stop at different steps.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT_S,
        shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT_S,
    )


def environment_has_several() -> bool:
    """Whether Slurm or a TPU pod started more than this process."""
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return True
    if jax.config.jax_platforms == "cpu":  # on a TPU host, but not for its chips
        return False
    # As `jax.distributed.initialize` finds out; it does not say so without joining.
    clusters = (cloud_tpu_cluster.GceTpuCluster, cloud_tpu_cluster.GkeTpuCluster)
    return any(c.is_env_present() and c.get_process_count() > 1 for c in clusters)


def is_first() -> bool:
    """This process writes files and speaks to the user."""
    return jax.process_index() == 0


def share(count: int) -> slice:
    """This process's part of `count` things in order; parts differ by at most one."""
    index, total = jax.process_index(), jax.process_count()
    return slice(count * index // total, count * (index + 1) // total)


def of_first(value: bool) -> bool:
    """What process 0 says; all must call it."""
    return bool(gather({"value": np.int32(value)})[0]["value"])


def gather(arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """What every process gave, in their order; all must call this at the same point.

    Through the devices' own network. Shapes may differ between processes.

    Args:
      arrays: NumPy arrays of any shapes and plain dtypes, under the same names; less
        than 2 GiB in all.
    """
    if jax.process_count() == 1:
        return [arrays]
    message = npz.pack(arrays)
    sizes = multihost_utils.process_allgather(np.int32(len(message)))
    longest = int(sizes.max())
    piece = max(_SMALLEST_MESSAGE, 1 << (longest - 1).bit_length())
    piece = min(piece, _MOST_ON_DEVICE // jax.process_count())
    padded = np.zeros(-(-longest // piece) * piece, np.uint8)
    padded[: len(message)] = message
    pieces = [
        multihost_utils.process_allgather(padded[first : first + piece])
        for first in range(0, len(padded), piece)
    ]
    everyone = np.concatenate(pieces, axis=1)
    return [npz.unpack(row[:size]) for size, row in zip(sizes, everyone)]


def check_shared(folder: pathlib.Path) -> None:
    """Makes sure that a folder is the same one for all processes; makes it if absent.

    Else every process would go on from checkpoints of its own, or from none.

    Raises:
      Refused: some processes do not see what process 0 writes there.
    """
    if jax.process_count() == 1:
        return
    (first, *_) = gather({"name": np.array(f".seen_by_all_{secrets.token_hex(8)}")})
    mark = folder / str(first["name"])
    if is_first():
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    gather({})  # until the mark is there
    seen = [bool(part["seen"]) for part in gather({"seen": np.bool_(mark.exists())})]
    if is_first():
        mark.unlink()
    if not all(seen):
        blind = [str(i) for i, sees in enumerate(seen) if not sees]
        raise Refused(
            f"--workdir={folder} is another folder for process {', '.join(blind)} than "
            "for process 0; give one on a file system that all hosts share."
        )


def put(tree, shardings):
    """Host arrays that are the same on every process, onto the mesh.

    Args:
      tree: NumPy arrays.
      shardings: of the same structure, or of a prefix of it.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def one(x, sharding):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    # `device_put` would send every array round to compare it with the others'.
    return jax.tree.map(
        lambda sharding, part: jax.tree.map(lambda x: one(x, sharding), part),
        shardings,
        tree,
    )


def local_mesh(mesh: Mesh) -> Mesh:
    """The part of a mesh that this process samples on: its own devices.

    Rows that share heads and vocabulary (`tensor`) stay together; all else is `data`.

    Raises:
      Refused: such a row has devices of several processes.
    """
    if jax.process_count() == 1:
        return mesh
    tensor = mesh.devices.shape[-1]
    rows = mesh.devices.reshape(-1, tensor)
    own = np.array([[d.process_index for d in row] for row in rows])
    own = own == jax.process_index()
    if (own.any(1) != own.all(1)).any():
        raise Refused(
            f"mesh.tensor={tensor} must divide the {jax.local_device_count()} devices "
            "of each process, since it is used at every decode step; lower it, or let "
            "mesh.fsdp span the processes."
        )
    devices = rows[own.all(1)].reshape(-1, *(1,) * (mesh.devices.ndim - 2), tensor)
    return Mesh(devices, mesh.axis_names, axis_types=mesh.axis_types)


def to_local(tree, shardings):
    """Arrays that lie whole in every process, as arrays of this process alone.

    Nothing is copied: the new arrays are made of the same buffers.

    Args:
      tree: arrays on the mesh.
      shardings: of the results, on `local_mesh`, such that each device holds what it
        holds already.
    """

    def one(x, sharding):
        parts = {part.device: part.data for part in x.addressable_shards}
        order = sharding.addressable_devices_indices_map(x.shape)
        return jax.make_array_from_single_device_arrays(
            x.shape, sharding, [parts[device] for device in order]
        )

    return jax.tree.map(one, tree, shardings)


def on(mesh: Mesh):
    """Makes a local mesh the current one; with one process it is so already."""
    return contextlib.nullcontext() if jax.process_count() == 1 else jax.set_mesh(mesh)
