"""A process that holds one engine and runs it when told to.

The parent, `rollout.py`, starts one worker per engine and lets them take turns; the
others wait on their pipe meanwhile and use no processor. Imports nothing but the
standard library and `workload.py`, so that it runs in the peers' environment too.

Both sides write one JSON object per line. The job is the worker's only argument:

    worker → parent   {"versions": {...}, "first_s": {variant: seconds}}    warmed up
    parent → worker   {"variant": ..., "seed": ...}
    worker → parent   {"wall_s": ..., "cpu_s": ..., "peak_rss_mib": ..., ...}

The end of its input ends the worker.
"""

import dataclasses
import json
import os
import resource
import sys
import time
from collections.abc import Callable

import numpy as np

from benchmarks import workload


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker is started with.

    Attributes:
      model, work, requests: as in `workload.py`.
      methods: of our engine, "hapo" or "dapo"; each becomes a variant.
      slots, rows_per_lane, chunk_tokens: of our engine, see `rollout/engine.py`.
    """

    model: str
    work: str
    requests: int | None
    methods: tuple[str, ...]
    slots: int
    rows_per_lane: int
    chunk_tokens: int

    def load(self) -> tuple[workload.Model, workload.Work]:
        """Shapes and requests."""
        model = workload.model(self.model)
        work = workload.work(self.work, vocab=model.vocab, requests=self.requests)
        return model, work


# A run takes a seed, returns when its results are on the host, and says what it found.
Run = Callable[[int], dict]


@dataclasses.dataclass(frozen=True)
class Engine:
    """What a worker builds: versions to report, and its runs by variant."""

    versions: dict[str, str]
    runs: dict[str, Run]


def generating(lengths: Callable[[int], list[int]], work: workload.Work) -> Run:
    """A run that makes sure that every request got the tokens it was planned to get.

    Args:
      lengths: takes a seed, generates, and returns the length of each completion in
        the order of the requests.
      work: what was planned.

    Returns:
      A run that adds nothing to the times; it raises RuntimeError on other lengths.
    """

    def run(seed: int) -> dict:
        got = np.asarray(lengths(seed))
        if not np.array_equal(got, work.lengths):
            raise RuntimeError(
                f"completion lengths {got.tolist()} are not the planned "
                f"{work.lengths.tolist()}."
            )
        return {}

    return run


def serve(build: Callable[[Job], Engine]) -> None:
    """Builds the engine, runs each variant once to warm it up, then takes turns."""
    # Libraries print to standard output; what they print must not mix with replies.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    engine = build(Job(**json.loads(sys.argv[1])))
    first = {name: measured(run, seed=0) for name, run in engine.runs.items()}
    reply = {
        "versions": engine.versions,
        "first_s": {name: times["wall_s"] for name, times in first.items()},
    }
    print(json.dumps(reply), file=replies)
    for line in sys.stdin:
        order = json.loads(line)
        times = measured(engine.runs[order["variant"]], seed=order["seed"])
        print(json.dumps(times), file=replies)


def measured(run: Run, *, seed: int) -> dict:
    """Runs once: what the run says, with wall and processor seconds and peak memory."""
    cpu, wall = _cpu_seconds(), time.perf_counter()
    found = run(seed)
    wall, cpu = time.perf_counter() - wall, _cpu_seconds() - cpu
    # Linux counts this in KiB.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found | {"wall_s": wall, "cpu_s": cpu, "peak_rss_mib": peak}


def _cpu_seconds() -> float:
    """Processor time of all threads of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
