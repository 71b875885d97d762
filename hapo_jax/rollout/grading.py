"""A pool of processes that grade completions, whatever the completions do to them.

The rules of grading are in `tasks/`; here is the safety around them. Each item has a
wall-clock limit, kept by killing its process; a process that dies takes only the item
it was at with it; both score 0 and are counted. Processes import no jax, hold to a
memory limit and end with this one, even if that is killed (see `tasks/worker.py`).

One thread owns the processes (`graders.py`) and the work (`grading_queue.py`) and does
all the talking. `submit` hands it work and returns a future, `grade` waits for it.
"""

import collections
import concurrent.futures
import logging
import math
import selectors
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing import connection
from typing import NamedTuple

from hapo_jax import tasks
from hapo_jax.rollout import graders
from hapo_jax.rollout.grading_queue import Job, Queue

_log = logging.getLogger(__name__)

OUTCOMES = ("graded", "cached", "timed_out", "crashed")

# Processes that fail to start so often in a row mean that none ever will.
_FAILED_STARTS = 3


class GradeResult(NamedTuple):
    """What became of one item.

    Attributes:
      score: the grader's score, 0.0 if there is none.
      extracted: what the grader read as the answer, or None.
      outcome: "graded", "cached" (graded before, or together with an equal item),
        "timed_out", or "crashed" (the process died or the grader raised).
      detail: why it was not graded; empty if it was.
    """

    score: float
    extracted: str | None
    outcome: str
    detail: str


def count(results: Iterable[GradeResult]) -> dict[str, int]:
    """Items by outcome: {"grading/graded": ..., "grading/cached": ..., ...}."""
    found = collections.Counter(result.outcome for result in results)
    return {f"grading/{outcome}": found[outcome] for outcome in OUTCOMES}


class GradingPool:
    """Grades (completion, answer) pairs in processes that it starts and replaces.

    A context manager. Safe to use from several threads. After `close`, or when its
    processes cannot be started any more, every call raises RuntimeError.
    """

    def __init__(
        self,
        *,
        num_workers: int,
        timeout_s: float,
        memory_gib: float,
        start_timeout_s: float,
        task_timeouts_s: Mapping[str, float] | None = None,
    ):
        """Starts the processes, all at once, and returns when they are ready.

        Args:
          num_workers: processes, >= 1.
          timeout_s: wall-clock seconds that one item may take, > 0.
          memory_gib: address space of a process in GiB, > 0; Python and math-verify
            need about a quarter of one.
          start_timeout_s: seconds that a process may take to start, and to import a
            task's grader, > 0.
          task_timeouts_s: task → seconds for its items, in place of `timeout_s`.

        Raises:
          ValueError: an argument is out of its range.
          RuntimeError: processes do not start; carries what they said.
        """
        if num_workers < 1:
            raise ValueError(f"{num_workers=} must be at least 1.")
        limits = {
            "timeout_s": timeout_s,
            "memory_gib": memory_gib,
            "start_timeout_s": start_timeout_s,
            **{f"task_timeouts_s[{k}]": v for k, v in (task_timeouts_s or {}).items()},
        }
        for name, value in limits.items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value} must be positive and finite.")
        self._num_workers = num_workers
        self._timeouts_s = collections.defaultdict(
            lambda: timeout_s, task_timeouts_s or {}
        )
        self._memory_gib = memory_gib
        self._start_timeout_s = start_timeout_s
        self._lock = threading.Lock()  # guards the three fields below
        self._submitted: list[Job] = []
        self._closing = False
        self._failure: RuntimeError | None = None
        self._queue = Queue(num_workers=num_workers)
        self._workers: list[graders.Grader] = []
        self._failed_starts = 0
        self._selector = selectors.DefaultSelector()
        self._bell_out, self._bell_in = connection.Pipe(duplex=False)
        self._selector.register(self._bell_out, selectors.EVENT_READ, None)
        self._ready: concurrent.futures.Future[None] = concurrent.futures.Future()
        # A daemon, so that a program that forgets `close` can end. The processes end
        # with their parent *thread*, so this one also starts them.
        self._thread = threading.Thread(target=self._run, name="grading", daemon=True)
        self._thread.start()
        self._ready.result()

    def __enter__(self) -> "GradingPool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def counters(self) -> dict[str, int]:
        """Items since the start: {"grading/math/graded": ..., ...}, for each task."""
        counts = self._queue.counters()
        return {
            f"grading/{task}/{outcome}": counts.get((task, outcome), 0)
            for task in sorted({task for task, _ in counts})
            for outcome in OUTCOMES
        }

    def grade(self, task: str, items: Sequence[tuple[str, str]]) -> list[GradeResult]:
        """Grades (completion, answer) pairs; results in their order. See `submit`."""
        return self.submit(task, items).result()

    def submit(
        self, task: str, items: Sequence[tuple[str, str]]
    ) -> "concurrent.futures.Future[list[GradeResult]]":
        """Starts grading (completion, answer) pairs; the future holds their results.

        Raises:
          ValueError: there is no such task, or an item is no pair of texts.
          RuntimeError: the pool is closed or broken. The future raises it too if that
            happens while it waits.
        """
        tasks.check(task)
        for place, item in enumerate(items):
            if len(item) != 2 or not all(isinstance(text, str) for text in item):
                raise ValueError(
                    f"items[{place}] must be a pair of texts, completion and answer."
                )
        job = Job(task, list(items))
        if not items:
            job.future.set_result([])
            return job.future
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if self._closing:
                raise RuntimeError("The grading pool is closed; make a new one.")
            self._submitted.append(job)
        self._bell_in.send_bytes(b"!")
        return job.future

    def close(self) -> None:
        """Ends the processes; unfinished futures raise RuntimeError. Idempotent."""
        with self._lock:
            first, self._closing = not self._closing, True
        if first and self._thread.is_alive():
            self._bell_in.send_bytes(b"!")
        self._thread.join()
        if first and (counters := self.counters):
            said = (
                f"{name.removeprefix('grading/')} {n}" for name, n in counters.items()
            )
            _log.info("Graded: %s", ", ".join(said))

    # ---- everything below runs in the pool's thread ---------------------------------

    def _run(self) -> None:
        """Starts, feeds, hears and replaces processes until the pool closes."""
        failure = RuntimeError("The grading pool was closed while this was waiting.")
        try:
            while not self._closing:
                self._start_missing()
                self._feed()
                for key, _ in self._selector.select(self._patience()):
                    if key.data is None:
                        self._take_submitted()
                    else:
                        self._hear(key.data)
                self._end_overdue()
        except BaseException as error:  # nobody may wait for ever, whatever went wrong
            failure = RuntimeError(f"The grading pool broke: {error}")
            failure.__cause__ = error
            with self._lock:
                self._failure = failure
        finally:
            self._end(failure)

    def _end(self, failure: RuntimeError) -> None:
        for worker in list(self._workers):
            self._drop(worker)
        with self._lock:
            self._closing = True
            submitted = self._submitted
        for job in submitted:
            job.future.set_exception(failure)
        self._queue.fail(failure)
        if not self._ready.done():
            self._ready.set_exception(failure)
        self._selector.close()

    def _start_missing(self) -> None:
        while len(self._workers) < self._num_workers:
            worker = graders.start(
                memory_gib=self._memory_gib, timeout_s=self._start_timeout_s
            )
            self._workers.append(worker)
            self._selector.register(worker.socket, selectors.EVENT_READ, worker)

    def _take_submitted(self) -> None:
        self._bell_out.recv_bytes()
        with self._lock:
            jobs, self._submitted = self._submitted, []
        for job in jobs:
            self._queue.add(job)

    def _feed(self) -> None:
        """Gives each idle process a chunk."""
        for worker in [w for w in self._workers if w.state == "idle"]:
            worker.chunk = chunk = self._queue.take()
            if chunk is None:
                return
            worker.state = "loading"
            worker.deadline = time.monotonic() + self._start_timeout_s
            try:
                worker.tell({"task": chunk.task, "items": chunk.left()})
            except OSError:  # it died while idle; nobody's fault
                self._drop(worker)

    def _hear(self, worker: graders.Grader) -> None:
        """Takes one message, or notices that the process has died."""
        try:
            message = worker.hear()
        except (EOFError, OSError):
            self._bury(worker)
            return
        if "failed" in message:
            self._failed_start(worker, message["failed"])
        elif "ready" in message or "loaded" in message:
            if "loaded" in message:
                self._failed_starts = 0
            worker.state = "grading" if worker.chunk else "idle"
            if worker.chunk:
                worker.deadline = time.monotonic() + self._timeouts_s[worker.chunk.task]
            if not self._ready.done() and all(
                other.state != "starting" for other in self._workers
            ):
                self._ready.set_result(None)
        else:
            self._settle(worker, _result(message))
            if message.get("leaving"):
                self._drop(worker)

    def _settle(self, worker: graders.Grader, result: GradeResult) -> None:
        """Notes the result of the item that the process is at."""
        worker.deadline = time.monotonic() + self._timeouts_s[worker.chunk.task]
        if not self._queue.settle(worker.chunk, result):
            worker.chunk, worker.state = None, "idle"

    def _bury(self, worker: graders.Grader) -> None:
        """A process died: of the item it was at, or before it could start."""
        code = worker.process.wait()
        if worker.state in ("starting", "loading"):
            self._failed_start(worker, f"exit code {code}")
            return
        if worker.state == "grading":
            detail = f"the grader's process ended with exit code {code}"
            self._settle(worker, GradeResult(0.0, None, "crashed", detail))
        self._drop(worker)

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for worker in [w for w in self._workers if w.overdue(now)]:
            if worker.state == "grading":
                detail = f"took longer than {self._timeouts_s[worker.chunk.task]} s"
                self._settle(worker, GradeResult(0.0, None, "timed_out", detail))
                self._drop(worker)
            else:
                self._failed_start(worker, f"no word in {self._start_timeout_s} s")

    def _failed_start(self, worker: graders.Grader, why: str) -> None:
        said = worker.stderr_tail()
        self._drop(worker)
        self._failed_starts += 1
        if self._failed_starts >= _FAILED_STARTS:
            raise RuntimeError(
                f"{self._failed_starts} grading processes in a row failed to start "
                f"(start_timeout_s={self._start_timeout_s}, "
                f"memory_gib={self._memory_gib}): {why}\n{said}"
            )

    def _drop(self, worker: graders.Grader) -> None:
        """Ends a process; the items it has not been at go back to the queue."""
        self._workers.remove(worker)
        self._selector.unregister(worker.socket)
        worker.end()
        if worker.chunk is not None:
            self._queue.put_back(worker.chunk)

    def _patience(self) -> float | None:
        """Seconds until the next deadline; None if nothing is under way."""
        deadlines = [w.deadline for w in self._workers if w.state != "idle"]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None


def _result(message: dict) -> GradeResult:
    if "late" in message:
        return GradeResult(0.0, None, "timed_out", message["late"])
    if "error" in message:
        return GradeResult(0.0, None, "crashed", message["error"])
    return GradeResult(message["score"], message["extracted"], "graded", "")
