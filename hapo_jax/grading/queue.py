"""Who waits for which grading, and what is known already.

A grader's verdict depends on completion and answer alone. So an item is graded once:
equal items share a grading that is under way, and those that come later its result.

`pool.py` is the user, from its own thread; only `counters` may be read from others.
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import threading
from typing import Any, NamedTuple

# Large chunks spare round trips, several chunks per process share out slow items.
_CHUNK_ITEMS = 64
_CHUNKS_PER_WORKER = 4
# Results that are remembered; a few kilobytes each.
_REMEMBERED = 2**14


@dataclasses.dataclass
class Job:
    """What one `submit` asked for; `left` counts the items without a result."""

    task: str
    pairs: list[tuple[str, str]]
    results: list = dataclasses.field(default_factory=list)
    left: int = 0
    future: concurrent.futures.Future = dataclasses.field(
        default_factory=concurrent.futures.Future
    )

    def __post_init__(self):
        self.results = [None] * len(self.pairs)
        self.left = len(self.pairs)
        self.future.set_running_or_notify_cancel()  # there is no way to cancel one


class Item(NamedTuple):
    """A pair to be graded, and the places (job, number) that wait for its result."""

    key: bytes
    pair: tuple[str, str]
    places: list[tuple[Job, int]]


@dataclasses.dataclass
class Chunk:
    """Items for one process; number `next` is the one being graded."""

    task: str
    items: list[Item]
    next: int = 0

    def left(self) -> list[tuple[str, str]]:
        """The pairs that are to be graded still."""
        return [item.pair for item in self.items[self.next :]]


class Queue:
    """The items of all jobs without a result, in chunks, and a memory of results."""

    def __init__(self, *, num_workers: int):
        self._num_workers = num_workers
        self._chunks: collections.deque[Chunk] = collections.deque()
        self._items: dict[bytes, Item] = {}  # without a result
        self._repeats: collections.Counter[bytes] = collections.Counter()
        self._results: collections.OrderedDict[bytes, Any] = collections.OrderedDict()
        self._lock = threading.Lock()  # guards the counts
        self._counts: collections.Counter[tuple[str, str]] = collections.Counter()

    def counters(self) -> dict[tuple[str, str], int]:
        """Results so far by (task, outcome)."""
        with self._lock:
            return dict(self._counts)

    def add(self, job: Job) -> None:
        """Takes a job; what is known already it is given at once."""
        fresh = []
        for place, pair in enumerate(job.pairs):
            key = hashlib.sha256(json.dumps([job.task, *pair]).encode()).digest()
            if key in self._results:
                self._results.move_to_end(key)
                self._note(job, place, self._results[key])
            elif key in self._items:
                self._items[key].places.append((job, place))
            else:
                self._items[key] = Item(key, pair, [(job, place)])
                fresh.append(self._items[key])
        share = -(-len(fresh) // (_CHUNKS_PER_WORKER * self._num_workers))
        size = max(1, min(_CHUNK_ITEMS, share))
        for start in range(0, len(fresh), size):
            self._chunks.append(Chunk(job.task, fresh[start : start + size]))

    def take(self) -> Chunk | None:
        """The next chunk, or None."""
        return self._chunks.popleft() if self._chunks else None

    def put_back(self, chunk: Chunk) -> None:
        """Takes back a chunk whose process has died, to be served next."""
        self._chunks.appendleft(chunk)

    def again(self, chunk: Chunk) -> bool:
        """Has a chunk's current item graded again; False if it was the last."""
        item = chunk.items[chunk.next]
        chunk.next += 1
        self._repeats[item.key] += 1
        # At the end, alone: whatever happened may be over by then.
        self._chunks.append(Chunk(chunk.task, [item]))
        return chunk.next < len(chunk.items)

    def repeats(self, chunk: Chunk) -> int:
        """How often a chunk's current item was sent to be graded `again`."""
        return self._repeats[chunk.items[chunk.next].key]

    def settle(self, chunk: Chunk, result: Any) -> bool:
        """Notes the result of a chunk's current item; False if it was the last.

        Args:
          chunk: from `take`.
          result: a `pool.GradeResult`.
        """
        item = chunk.items[chunk.next]
        chunk.next += 1
        del self._items[item.key]
        repeats = self._repeats.pop(item.key, 0)
        (job, place), *others = item.places
        self._note(job, place, result._replace(repeats=repeats))
        # What timed out or crashed may do better on a calmer machine: not remembered.
        if result.outcome == "graded":
            result = result._replace(outcome="cached")
            self._results[item.key] = result
            if len(self._results) > _REMEMBERED:
                self._results.popitem(last=False)
        for job, place in others:
            self._note(job, place, result)
        return chunk.next < len(chunk.items)

    def fail(self, error: Exception) -> None:
        """Gives an error to everybody who waits."""
        waiting = {
            id(job): job for item in self._items.values() for job, _ in item.places
        }
        for job in waiting.values():
            job.future.set_exception(error)

    def _note(self, job: Job, place: int, result: Any) -> None:
        """Gives a job one result, and its caller all of them if this is the last."""
        with self._lock:
            self._counts[job.task, result.outcome] += 1
        job.results[place] = result
        job.left -= 1
        if job.left == 0:
            job.future.set_result(job.results)
