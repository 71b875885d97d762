"""What holds for every test: eight simulated CPU devices, and strict shapes."""

import gc
import getpass
import os
import pathlib
import tempfile

from tests import environment

# Before the first import of jax: it reads these variables once. Processes that a test
# starts inherit them.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    (
        environment.QUICK,
        "--xla_force_host_platform_device_count=8",
        os.environ.get("XLA_FLAGS", ""),
    )
).strip()

import jax
import numpy as np
import pytest

NUM_DEVICES = 8
MESH_AXES = ("data", "fsdp", "tensor")


# Files that take longest, the longest first: one that begins last would keep one core
# busy alone. Neighbours compile different programs, which they then share with others.
LONGEST = (
    "test_real_input.py",
    "learner/test_train_step.py",
    "test_golden.py",
    "test_train.py",
    "test_faults.py",
    "runs/test_inputs.py",
    "test_every_method.py",
    "rollout/test_schedule.py",
    "test_distributed.py",
    "test_commands.py",
    "test_fairness.py",
    "test_resume.py",
    "algo/test_every_stage.py",
    "algo/test_method.py",
)
HERE = pathlib.Path(__file__).parent
TESTS_SEEN = pytest.StashKey[int]()


def pytest_collection_modifyitems(items):
    """The longest files first, then those with slow tests, then the others."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    order = {HERE / name: i for i, name in enumerate(LONGEST)}

    def place(item):
        return order.get(item.path, len(order)), item.path not in slow

    items.sort(key=place)


def pytest_configure(config):
    """Strict broadcasting, and compiled programs kept from run to run.

    The cache lies in this machine's temporary folder and its key holds the program, the
    flags and the version of the compiler: a test runs the very code that compiling
    again would give it, so its numbers are the same bits.
    """
    del config
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", environment.KEPT_S)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = pathlib.Path(tempfile.gettempdir())
        folder = folder / f"hapo_jax_test_cache_{getpass.getuser()}"
        jax.config.update("jax_compilation_cache_dir", str(folder))


def pytest_collection_finish():
    """Fewer searches for garbage, which took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


# Linux gives a process 65,530 memory maps (vm.max_map_count). A program that the CPU's
# compiler loads takes a dozen or more, and at the limit the compiler crashes.
MAPS_TO_KEEP = 30_000
# Reading the list takes 20 ms when it is long.
TESTS_BETWEEN_LOOKS = 8


def pytest_runtest_teardown(item, nextitem):
    """Drops the loaded programs before they take all of the process's memory maps."""
    del nextitem
    seen = item.config.stash[TESTS_SEEN] = item.config.stash.get(TESTS_SEEN, 0) + 1
    maps = pathlib.Path("/proc/self/maps")  # Linux alone has the file and the limit.
    if seen % TESTS_BETWEEN_LOOKS or not maps.exists():
        return
    if maps.read_bytes().count(b"\n") > MAPS_TO_KEEP:
        jax.clear_caches()


@pytest.fixture(scope="session")
def devices():
    """The eight simulated devices."""
    found = jax.devices()
    assert len(found) == NUM_DEVICES, found
    return found


@pytest.fixture(scope="session")
def mesh8(devices):
    """A function `mesh8(shape)`: all devices as a (data, fsdp, tensor) mesh."""

    def make(shape=(NUM_DEVICES, 1, 1)):
        grid = np.asarray(devices).reshape(shape)
        axis_types = (jax.sharding.AxisType.Auto,) * len(MESH_AXES)
        return jax.sharding.Mesh(grid, MESH_AXES, axis_types=axis_types)

    return make
