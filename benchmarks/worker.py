"""A process that holds one engine and runs it when told to.

The parent, `compare.py`, starts one worker per engine and lets them take turns; the
others wait on their pipe meanwhile and use no processor. Imports nothing but the
standard library and `workload.py`, so that it runs in the peers' environment too.

Both sides write one JSON object per line. The job is the worker's only argument:

    worker → parent   {"versions": {...}, "warm_up": {variant: [run, ...]}}
    parent → worker   {"variant": ..., "seed": ...}
    worker → parent   run: {"wall_s": ..., "cpu_s": ..., "peak_rss_mib": ..., ...}

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
      task: "rollout", "update" (of completions that are given), or "step" (both).
      model, work, requests: as in `workload.py`.
      checkpoint: folder with the model's weights, the same for every engine.
      methods: of our engine, "hapo" or "dapo", for updates perhaps with what ratios are
        of, as in "dapo/sampled"; each becomes a variant.
      options: of our engine alone.
    """

    task: str
    model: str
    work: str
    requests: int | None = None
    checkpoint: str = ""
    methods: tuple[str, ...] = ()
    options: dict[str, int] = dataclasses.field(default_factory=dict)

    def load(self) -> tuple[workload.Model, workload.Work]:
        """Shapes and requests."""
        model = workload.model(self.model)
        work = workload.work(self.work, vocab=model.vocab, requests=self.requests)
        if self.task != "rollout":
            work = workload.first_rows(work, self.model)
        return model, work

    def update(self) -> workload.Update:
        """The update, for the task of that name."""
        return workload.update(self.load()[1], self.model)

    def tokens(self) -> int:
        """Tokens that count: drawn ones, or those that an update reads."""
        work = self.load()[1]
        read = work.prompts.shape[1] * len(work.lengths)
        return int(work.lengths.sum()) + (read if self.task == "update" else 0)

    def needed_flops(self) -> int:
        """Floating point operations that no engine can do without."""
        passes = {"rollout": 1, "update": 3, "step": 4}[self.task]
        return passes * workload.needed_flops(*self.load())


# A run takes a seed, returns when its results are on the host, and says what it found.
Run = Callable[[int], dict]


@dataclasses.dataclass(frozen=True)
class Engine:
    """What a worker builds: versions to report, and its runs by variant.

    `warm_ups` is how often each must run before it compiles no more.
    """

    versions: dict[str, str]
    runs: dict[str, Run]
    warm_ups: int = 1


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


def updating(update: Callable[[], dict], work: workload.Work) -> Run:
    """A run of one update that makes sure that it trained on what was planned.

    Args:
      update: returns, beside what else is known ("loss", "grad_norm"), the number
        "trained" of tokens that counted in the loss.
      work: what was planned.

    Returns:
      A run that says what `update` says; it raises RuntimeError on another number.
    """
    planned = int(work.lengths.sum())

    def run(seed: int) -> dict:
        del seed  # the rows are given
        found = update()
        if found["trained"] != planned:
            raise RuntimeError(
                f"{found['trained']} tokens were trained on, not the {planned} planned."
            )
        return found

    return run


def serve(build: Callable[[Job], Engine]) -> None:
    """Builds the engine, warms each variant up, then takes turns."""
    # Libraries print to standard output; what they print must not mix with replies.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    engine = build(Job(**json.loads(sys.argv[1])))
    warm_up = {
        name: [measured(run, seed=0) for _ in range(engine.warm_ups)]
        for name, run in engine.runs.items()
    }
    print(json.dumps({"versions": engine.versions, "warm_up": warm_up}), file=replies)
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
