"""A pool of processes that grade completions, whatever the completions do to them.

The rules of grading are in `tasks/`; here is the safety around them. Each item has a
wall-clock limit, kept by killing its process; a process that dies takes only the item
it was at with it; both score 0 and are counted. Processes import no jax, hold to a
memory limit and end with this one, even if that is killed (see `tasks/worker.py`).

What somebody else did is not the completion's fault: where a process was killed or
stopped from outside, the item is graded again. Where that happens each time, the item
is "killed", a fault of the machine; where it happens to many, the pool breaks. A
process of its own watches all of them, this one too (`lookout.py`).

One thread owns the processes (`graders.py`) and the work (`grading_queue.py`) and does
all the talking. `submit` hands it work and returns a future, `grade` waits for it.
"""

import collections
import concurrent.futures
import logging
import math
import selectors
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing import connection
from typing import NamedTuple

from hapo_jax import tasks
from hapo_jax.grading import graders, lookout
from hapo_jax.grading.queue import Job, Queue
from hapo_jax.system.errors import Refused
from hapo_jax.tasks.sandbox import host, kernel

_log = logging.getLogger(__name__)

OUTCOMES = ("graded", "cached", "timed_out", "crashed", "killed")
UNGRADED = ("timed_out", "crashed", "killed")

# Processes that fail to start so often in a row mean that none ever will.
_FAILED_STARTS = 3
# How often an item is graded again whose process was killed or stopped from outside.
_MOST_REPEATS = 3
# Items in a row to which that happened each time mean that the machine is broken.
_MOST_KILLED = 8


class GradeResult(NamedTuple):
    """What became of one item.

    Attributes:
      score: the grader's score, 0.0 if there is none.
      extracted: what the grader read as the answer, or None.
      outcome: "graded", "cached" (graded before, or together with an equal item),
        "timed_out", "crashed" (the process died or the grader raised), or "killed"
        (somebody else killed or stopped the process, each time it was tried).
      detail: why it was not graded; empty if it was.
      repeats: how often it was graded again since somebody else had interfered.
    """

    score: float
    extracted: str | None
    outcome: str
    detail: str
    repeats: int = 0


def count(results: Iterable[GradeResult]) -> dict[str, int]:
    """Items by outcome: {"grading/graded": ..., "grading/cached": ..., ...}.

    And "grading/repeated", how often one was graded again.
    """
    results = list(results)
    found = collections.Counter(result.outcome for result in results)
    counts = {f"grading/{outcome}": found[outcome] for outcome in OUTCOMES}
    return counts | {"grading/repeated": sum(result.repeats for result in results)}


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
          Refused: an argument is out of its range.
          RuntimeError: processes do not start; carries what they said.
        """
        if num_workers < 1:
            raise Refused(f"{num_workers=} must be at least 1.")
        limits = {
            "timeout_s": timeout_s,
            "memory_gib": memory_gib,
            "start_timeout_s": start_timeout_s,
            **{f"task_timeouts_s[{k}]": v for k, v in (task_timeouts_s or {}).items()},
        }
        for name, value in limits.items():
            if not (math.isfinite(value) and value > 0):
                raise Refused(f"{name}={value} must be positive and finite.")
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
        self._killed = 0  # items in a row
        self._lookout: lookout.Lookout | None = None
        self._failed_lookouts = 0  # in a row
        self._resumed = 0  # processes, and lookouts that were replaced
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

    @property
    def state(self) -> dict[str, int]:
        """How the processes are: "grading/resumed" and "grading/weaker_confinement".

        The first counts processes that were stopped from outside and made to go on
        since the start, the second those whose programs are not confined the best way.
        """
        return {
            "grading/resumed": self._resumed,
            "grading/weaker_confinement": sum(bool(w.weaker) for w in self._workers),
        }

    def grade(self, task: str, items: Sequence[tuple[str, str]]) -> list[GradeResult]:
        """Grades (completion, answer) pairs; results in their order. See `submit`."""
        return self.submit(task, items).result()

    def submit(
        self, task: str, items: Sequence[tuple[str, str]]
    ) -> "concurrent.futures.Future[list[GradeResult]]":
        """Starts grading (completion, answer) pairs; the future holds their results.

        Raises:
          Refused: there is no such task, or an item is no pair of texts.
          RuntimeError: the pool is closed or broken. The future raises it too if that
            happens while it waits.
        """
        tasks.check(task)
        for place, item in enumerate(items):
            if len(item) != 2 or not all(isinstance(text, str) for text in item):
                raise Refused(
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
                    elif key.data is self._lookout:
                        self._hear_lookout()
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
        if self._lookout is not None:
            self._lookout.end()
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
        missing = len(self._workers) < self._num_workers
        while len(self._workers) < self._num_workers:
            worker = graders.start(
                memory_gib=self._memory_gib, timeout_s=self._start_timeout_s
            )
            self._workers.append(worker)
            self._selector.register(worker.socket, selectors.EVENT_READ, worker)
        if sys.platform != "linux":
            return
        if self._lookout is None:
            self._lookout, missing = lookout.start(), True
            self._selector.register(
                self._lookout.socket, selectors.EVENT_READ, self._lookout
            )
        if missing:
            try:
                self._lookout.watch([worker.process.pid for worker in self._workers])
            except OSError as error:
                self._replace_lookout(str(error))

    def _hear_lookout(self) -> None:
        """Takes one message of the process that watches."""
        try:
            message = self._lookout.hear()
        except OSError as error:
            self._replace_lookout(str(error))
            return
        self._failed_lookouts = 0
        if "stopped" in message:
            self._resumed += 1
            for worker in self._workers:
                if worker.process.pid == message["of"]:
                    worker.disturbed = f"process {message['stopped']} was stopped"

    def _replace_lookout(self, why: str) -> None:
        """Ends the process that watches; another one is started with the graders."""
        _log.warning("The process that watches the graders is replaced: %s.", why)
        self._resumed += 1
        self._selector.unregister(self._lookout.socket)
        self._lookout.end()
        self._lookout = None
        self._failed_lookouts += 1
        if self._failed_lookouts >= _FAILED_STARTS:
            raise RuntimeError(
                f"{self._failed_lookouts} processes in a row that should watch the "
                f"graders have failed: {why}"
            )

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
                message = {"task": chunk.task, "folder": tasks.folder(chunk.task)}
                worker.tell(message | {"items": chunk.left()})
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
                worker.weaker = message["weaker"]
                host.say_once(worker.weaker, logging.WARNING)
            worker.state = "grading" if worker.chunk else "idle"
            if worker.chunk:
                worker.deadline = time.monotonic() + self._timeouts_s[worker.chunk.task]
            if not self._ready.done() and all(
                other.state != "starting" for other in self._workers
            ):
                self._ready.set_result(None)
        else:
            result = _result(message)
            if "no_verdict" in message or (
                worker.disturbed and result.outcome != "graded"
            ):
                why = message.get("no_verdict", worker.disturbed)
                self._repeat(worker, why)
            else:
                self._settle(worker, result)
            if message.get("leaving"):
                self._drop(worker)

    def _settle(self, worker: graders.Grader, result: GradeResult) -> None:
        """Notes the result of the item that the process is at."""
        if result.outcome == "graded":
            self._killed = 0
        self._go_on(worker, self._queue.settle(worker.chunk, result))

    def _repeat(self, worker: graders.Grader, why: str) -> None:
        """Has the item that the process is at graded again, unless that is in vain."""
        repeats = self._queue.repeats(worker.chunk)
        if repeats < _MOST_REPEATS:
            host.say_once(
                "Somebody outside interferes with grading; the item is graded again "
                f"(first of its kind, all are counted in grading/repeated): {why}",
                logging.WARNING,
            )
            self._go_on(worker, self._queue.again(worker.chunk))
            return
        detail = f"tried {repeats + 1} times, the last time: {why}"
        _log.warning("A completion could not be graded: %s", detail)
        self._settle(worker, _ungraded("killed", detail))
        self._killed += 1
        if self._killed >= _MOST_KILLED:
            raise RuntimeError(
                f"{self._killed} completions in a row could not be graded since "
                f"something outside kills or stops their processes, such as a lack of "
                f"memory (set grading.workers lower) or another user. The last: {why}"
            )

    def _go_on(self, worker: graders.Grader, more: bool) -> None:
        """The process is at the chunk's next item, or at none."""
        worker.disturbed = ""
        worker.deadline = time.monotonic() + self._timeouts_s[worker.chunk.task]
        if not more:
            worker.chunk, worker.state = None, "idle"

    def _bury(self, worker: graders.Grader) -> None:
        """A process died: of the item it was at, or before it could start."""
        code = worker.process.wait()
        if worker.state in ("starting", "loading"):
            self._failed_start(worker, f"exit code {code}")
            return
        if worker.state == "grading":
            detail = f"the grader's process ended with exit code {code}"
            if -code in kernel.FROM_OUTSIDE:
                self._repeat(worker, detail)
            else:
                self._settle(worker, _ungraded("crashed", detail))
        self._drop(worker)

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for worker in [w for w in self._workers if w.overdue(now)]:
            if worker.state == "grading":
                detail = f"took longer than {self._timeouts_s[worker.chunk.task]} s"
                if why := worker.disturbed or worker.stopped():
                    self._repeat(worker, f"{why}; {detail}")
                else:
                    self._settle(worker, _ungraded("timed_out", detail))
                self._drop(worker)
            else:
                self._failed_start(worker, f"no word in {self._start_timeout_s} s")
        if self._lookout is not None and now > self._lookout.deadline:
            self._replace_lookout("it was silent")

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
        if self._lookout is not None:
            deadlines.append(self._lookout.deadline)
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None


def _result(message: dict) -> GradeResult:
    if "late" in message:
        return _ungraded("timed_out", message["late"])
    if "error" in message:
        return _ungraded("crashed", message["error"])
    if "no_verdict" in message:
        return _ungraded("killed", message["no_verdict"])
    return GradeResult(
        score=message["score"],
        extracted=message["extracted"],
        outcome="graded",
        detail="",
    )


def _ungraded(outcome: str, detail: str) -> GradeResult:
    """Of an item that has no score."""
    return GradeResult(score=0.0, extracted=None, outcome=outcome, detail=detail)
