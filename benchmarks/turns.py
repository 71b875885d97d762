"""Starts workers and lets them take turns on the same pinned cores.

Machines drift and share their processors with others, so engines are compared by
neighbouring runs, never by runs of another hour. Every worker stays alive throughout;
the ones whose turn it is not wait for a line and use no processor.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Iterator, Sequence

from benchmarks import worker
from hapo_jax.system import child

ROOT = pathlib.Path(__file__).resolve().parent.parent
_QUIT_SECONDS = 30


def environment(
    cores: int, *, host_devices: int = 1, cache: str | None = None
) -> dict[str, str]:
    """Environment of a worker: `cores` threads, CPU alone, no network.

    Args:
      cores: threads that OpenMP, MKL and OpenBLAS may start; with one, XLA's are off.
      host_devices: CPU devices that JAX shows; several share the cores.
      cache: folder of JAX's compilation cache, or None to compile everything.
    """
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith("JAX_")
    }
    flags = []
    if cores == 1:
        flags += ["--xla_cpu_multi_thread_eigen=false"]
        flags += ["intra_op_parallelism_threads=1"]
    if host_devices > 1:
        flags += [f"--xla_force_host_platform_device_count={host_devices}"]
    cached = {"JAX_COMPILATION_CACHE_DIR": cache} if cache else {}
    return (
        kept
        | cached
        | {
            "OMP_NUM_THREADS": str(cores),
            "MKL_NUM_THREADS": str(cores),
            "OPENBLAS_NUM_THREADS": str(cores),
            "TOKENIZERS_PARALLELISM": "false",
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_COMPILATION_CACHE": "true" if cache else "false",
            "XLA_FLAGS": " ".join(flags),
            "HF_HUB_OFFLINE": "1",
        }
    )


@contextlib.contextmanager
def pinned(cores: int, first: int | None = None) -> Iterator[None]:
    """Processes started inside run on `cores` cores from number `first` on.

    None means the last cores, since the system's own work tends to the first.

    Raises:
      ValueError: this process may not use them.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if not 1 <= cores <= len(allowed):
        raise ValueError(
            f"cores={cores} must be between 1 and {len(allowed)}, the cores that this "
            "process may use."
        )
    chosen = allowed[-cores:] if first is None else range(first, first + cores)
    if not set(chosen) <= set(allowed):
        raise ValueError(
            f"first_core={first} with cores={cores} must lie within {allowed}, the "
            "cores that this process may use."
        )
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


class Worker:
    """A running worker; a context manager that ends it.

    Attributes:
      name: for messages.
      job: what it was started with.
      versions, warm_up: as in its first reply, see `worker.py`.
    """

    def __init__(
        self,
        name: str,
        python: str,
        module: str,
        job: worker.Job,
        *,
        cores: int,
        first_core: int | None = None,
        env: dict[str, str],
        root: pathlib.Path = ROOT,
    ):
        """Starts it and waits until it is warm, so that none compiles beside another.

        Raises:
          RuntimeError: it ended; the message holds the end of what it printed.
        """
        self.name, self.job = name, job
        # A file, not a pipe: nobody empties a pipe while the worker runs.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115, `close` closes it
        command = [python, "-m", module, json.dumps(dataclasses.asdict(job))]
        with pinned(cores, first_core):
            self._process = subprocess.Popen(
                command,
                cwd=root,
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                text=True,
            )
        try:
            ready = self._read()
        except BaseException:
            self.close()
            raise
        self.versions, self.warm_up = ready["versions"], ready["warm_up"]

    def run(self, variant: str, seed: int) -> dict:
        """One run; its times, peak memory and what it says, see `worker.py`."""
        with contextlib.suppress(BrokenPipeError):  # it ended: `_read` says how
            print(
                json.dumps({"variant": variant, "seed": seed}),
                file=self._process.stdin,
                flush=True,
            )
        return self._read()

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_QUIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._stderr.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def _read(self) -> dict:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        code = self._process.wait()
        said = child.tail(self._stderr)
        raise RuntimeError(f"worker {self.name} ended with code {code}:\n{said}")


@dataclasses.dataclass(frozen=True)
class Contender:
    """What is measured: one variant of one worker, under a name of its own."""

    label: str
    worker: Worker
    variant: str

    @property
    def first(self) -> dict:
        """The first run that it ever did."""
        return self.worker.warm_up[self.variant][0]


def take_turns(
    contenders: Sequence[Contender], *, rounds: int
) -> dict[str, list[dict]]:
    """Runs all in turn, `rounds` times; results by label, in the order of rounds.

    Every other round goes backwards (A B, B A, ...), so that a machine that slows down
    steadily favours nobody.
    """
    results = {contender.label: [] for contender in contenders}
    for i in range(rounds):
        for contender in contenders if i % 2 == 0 else reversed(contenders):
            # Seed 0 was the warm-up's.
            run = contender.worker.run(contender.variant, seed=i + 1)
            results[contender.label].append(run)
    return results
