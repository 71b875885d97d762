"""Runs variants as processes of this machine, several at a time.

Each has cores, and where there are any a GPU, of its own: runs that share cores slow
each other down more than they gain.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from hapo_jax.sweeps import sweep_folder
from hapo_jax.sweeps.sweep_folder import Sweep
from hapo_jax.sweeps.variants import Variant
from hapo_jax.system import lock
from hapo_jax.system.errors import Refused

_LOOK_S = 0.5
# Keeps a run on its cores, and stops it if the sweep is killed.
_TETHER = (sys.executable, "-P", "-m", "hapo_jax.system.tether")
# A run that is told to stop ends its step and saves.
_PATIENCE_S = 600.0

WAITING, RUNNING, FINISHED, FAILED = "waiting", "running", "finished", "failed"
ELSEWHERE, STOPPED = "running elsewhere", "stopped"


class Place(NamedTuple):
    """What one run at a time has for itself.

    Attributes:
      cores: of this machine; empty where the system cannot tell.
      gpu: its number, or None.
    """

    cores: tuple[int, ...]
    gpu: str | None


class Job:
    """A variant, and how it stands.

    Attributes:
      variant: that it runs.
      state: one of WAITING, RUNNING, FINISHED, FAILED, ELSEWHERE, STOPPED.
      began: when it was started, by `time.monotonic`; None before.
      first_share: of its work that was done when it was started.
      status: of the process that has ended; None before.
    """

    def __init__(self, variant: Variant, state: str = WAITING):
        self.variant, self.state = variant, state
        self.began: float | None = None
        self.first_share = 0.0
        self.status: int | None = None
        self.process: subprocess.Popen | None = None
        self.place: Place | None = None


def places(jobs: int) -> list[Place]:
    """Where runs go, as many at a time as there are places.

    Args:
      jobs: how many; 0: one per GPU, and without GPUs one.

    Raises:
      Refused: there are fewer GPUs or cores than that.
    """
    gpus = _gpus()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    count = jobs or len(gpus) or 1
    if gpus and count > len(gpus):
        raise Refused(
            f"--jobs={count}: each run has a GPU of its own, and there are {len(gpus)}."
        )
    if cores and count > len(cores):
        raise Refused(
            f"--jobs={count}: each run has a core of its own, and there are "
            f"{len(cores)}."
        )
    each = len(cores) // count
    return [
        Place(
            cores=tuple(cores[i * each : (i + 1) * each]), gpu=gpus[i] if gpus else None
        )
        for i in range(count)
    ]


def _gpus() -> list[str]:
    """The GPUs that runs may use, as CUDA_VISIBLE_DEVICES names them."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name]
    try:
        listing = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return listing.split()


def run(
    sweep: Sweep,
    variants: Sequence[Variant],
    where: Sequence[Place],
    more: Callable[[list[Job]], Variant | None] = lambda jobs: None,
) -> Iterator[list[Job]]:
    """Runs the variants that are not finished; yields how all stand, twice a second.

    Closing the iterator stops the runs: each saves its step and can go on later.

    Args:
      sweep: the folder that they run in.
      variants: what is run.
      where: the places, one run at a time each.
      more: called while a place is free and no variant waits for it; gives the next
        variant, or None.
    """
    jobs = []
    for variant in variants:
        done = sweep_folder.progress(sweep.run_folder(variant)).finished
        jobs.append(Job(variant, FINISHED if done else WAITING))
    free = [*where]
    try:
        while True:
            for job in jobs:
                _look(sweep, job, free)
                if job.state == WAITING and free:
                    if lock.holder(sweep.run_folder(job.variant)):
                        job.state = ELSEWHERE
                    else:
                        _start(sweep, job, free.pop(0))
            while free and (variant := more(jobs)):
                jobs.append(Job(variant))
                _start(sweep, jobs[-1], free.pop(0))
            yield jobs
            if all(job.state in (FINISHED, FAILED) for job in jobs):
                return
            time.sleep(_LOOK_S)
    finally:
        _stop([job for job in jobs if job.state == RUNNING])


def program(sweep: Sweep, variant: Variant) -> list[str]:
    """The command of a variant's run."""
    return [sys.executable, "-m", "hapo_jax.train", *sweep.command(variant)]


def _start(sweep: Sweep, job: Job, place: Place) -> None:
    """Starts a variant's run."""
    sweep.folder.mkdir(parents=True, exist_ok=True)
    job.first_share = sweep_folder.progress(sweep.run_folder(job.variant)).share
    cores = ",".join(map(str, place.cores))
    with open(sweep.log(job.variant), "ab") as log:
        job.process = subprocess.Popen(
            [*_TETHER, str(os.getpid()), cores, *program(sweep, job.variant)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(os.environ, place),
            # Ctrl-C is for the sweep, which tells its runs to stop.
            start_new_session=True,
        )
    job.state, job.place, job.began = RUNNING, place, time.monotonic()


def _environment(base: Mapping[str, str], place: Place) -> dict[str, str]:
    """Of a run."""
    env = dict(base, PYTHONUNBUFFERED="1")
    if place.gpu is not None:
        env["CUDA_VISIBLE_DEVICES"] = place.gpu
    return env


def _look(sweep: Sweep, job: Job, free: list[Place]) -> None:
    """Notes what has become of a job."""
    folder = sweep.run_folder(job.variant)
    if job.state == ELSEWHERE and not lock.holder(folder):
        done = sweep_folder.progress(folder).finished
        job.state = FINISHED if done else WAITING
    if job.state == RUNNING and job.process.poll() is not None:
        job.status = job.process.returncode
        done = job.status == 0 and sweep_folder.progress(folder).finished
        job.state = FINISHED if done else FAILED
        free.append(job.place)


def _stop(jobs: Sequence[Job]) -> None:
    """Tells runs to stop and waits for them."""
    for job in jobs:
        with contextlib.suppress(ProcessLookupError):
            job.process.terminate()
    until = time.monotonic() + _PATIENCE_S
    for job in jobs:
        try:
            job.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            job.process.kill()
            job.process.wait()
        job.state = STOPPED
