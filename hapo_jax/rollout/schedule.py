"""Which request decodes where and when.

    for completion in schedule.run(programs, params, requests, ...): …

Requests wait in a queue; each prompt is prefilled once for all its completions. The
slots decode together in jitted chunks, and between two chunks the host hands out what
has finished, refills slots from the queue, and, when the queue is empty, moves what is
left into fewer rows. A completion depends on its request, the run's seed and step,
and on nothing that decodes beside it.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from hapo_jax.rollout import sampler, slots
from hapo_jax.rollout.programs import Programs
from hapo_jax.rollout.queue import Queue, Taken
from hapo_jax.rollout.requests import Completion, Request
from hapo_jax.system import errors

# What a decode step does to a row besides reading its prompt, in prompt columns read.
_STEP_COLUMNS = 512


def run(
    programs: Programs,
    params,
    requests: Iterable[Request],
    *,
    seed: int,
    step: int,
    method_state,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Completion]:
    """Yields completions as they finish.

    Args:
      programs: of the policy; they may be used again and again.
      params: the policy's, in the sampler's layout.
      requests: any number; consumed as slots become free.
      seed, step: part of the random keys, see `sampler.row_keys`.
      method_state: of the last step, for the temperature.
      should_stop: asked before every chunk; True ends the iteration.

    Raises:
      ValueError: a request is longer than the programs were made for.
      Diverged: the policy gives no distribution to draw from.
    """
    table = SlotTable(programs, params, method_state)
    queue = Queue(programs, params, requests)
    flying: collections.deque[Chunk] = collections.deque()  # dispatched, not yet read
    while not should_stop():
        table.admit(queue, seed=seed, step=step)
        if table.busy:
            # Fewer rows could not take in what still waits, so they stay until then.
            table.fit(shrink=queue.empty)
            flying.append(table.decode())
        elif not flying:
            return
        # To read a chunk is to wait for it. An accelerator gets its next chunk before
        # the host looks at the last one, or it would idle meanwhile.
        ahead = programs.chunks_ahead if table.busy else 0
        while len(flying) > ahead:
            yield from table.collect(flying.popleft())


class Chunk(NamedTuple):
    """A chunk that was dispatched.

    Attributes:
      owner: [B], the request in each row then, -1 for none; rows may move before the
        chunk is read.
      samples: [B, chunk_tokens], on the devices.
    """

    owner: np.ndarray
    samples: slots.Samples


class SlotTable:
    """The slots on the devices, and what the host knows about them."""

    def __init__(self, programs: Programs, params, method_state):
        self._programs, self._method_state = programs, method_state
        self._weights = programs.weights(params)
        # The host keeps its own copy of what it decides by. To ask the devices for it
        # would wait for the chunk that they are at.
        self._columns = programs.column_sizes[0]
        self._slots = programs.empty(self._columns)
        self._rows_per_lane = programs.rows_per_lane
        self._owner = np.full(programs.num_slots, -1)  # request in each row, or -1
        self._start = np.zeros(programs.num_slots, np.int64)  # its first column
        self._column = 0  # the next to be filled, of all rows
        self._pieces: dict[int, list] = {}  # of requests that are not finished
        self._limits: dict[int, int] = {}

    @property
    def busy(self) -> bool:
        """Some row belongs to a request that is not known to have finished."""
        return bool((self._owner >= 0).any())

    def admit(self, queue: Queue, *, seed: int, step: int) -> None:
        """Fills free lanes from the queue."""
        # A lane has one prompt, so it is free when the last of its rows has finished.
        lanes = self._owner.reshape(-1, self._rows_per_lane)
        free = np.flatnonzero((lanes < 0).all(1))
        arrivals: dict[int, list[tuple[int, Taken]]] = collections.defaultdict(list)
        for i, lane in enumerate(free):
            taken = queue.take(self._rows_per_lane, len(free) - i)
            if taken is None:
                break
            # One call per set of prompts that were read together: they are one array.
            arrivals[id(taken.prefilled)].append((int(lane), taken))
        for group in arrivals.values():
            prefilled = group[0][1].prefilled
            self._slots = self._programs.admit(
                self._slots,
                prefilled.hidden,
                prefilled.prompts,
                self._admission(group, seed, step),
            )

    def _admission(
        self, arrivals: list[tuple[int, Taken]], seed: int, step: int
    ) -> slots.Admission:
        """The arrays that tell the devices who comes where, and the host's notes."""
        B, R = len(self._owner), self._rows_per_lane
        # Of all rows, not of the new ones alone: a program has one shape, so it writes
        # every row and `row` says which of them to keep.
        row, lane = np.zeros(B, bool), np.zeros(B // R, bool)
        source, lane_source = np.zeros(B, np.int32), np.zeros(B // R, np.int32)
        lengths, limits = np.ones(B, np.int32), np.ones(B, np.int32)
        temperature = np.ones(B, np.float32)
        prompt_ids, sample_ids = np.zeros(B, np.int64), np.zeros(B, np.int64)
        for place, taken in arrivals:
            lane[place], lane_source[place] = True, taken.source
            for b, (index, r) in enumerate(taken.requests, start=place * R):
                row[b], source[b] = True, taken.source
                lengths[b], limits[b] = len(r.prompt_tokens), r.max_tokens
                temperature[b] = r.base_temperature
                prompt_ids[b], sample_ids[b] = r.prompt_id, r.sample_id
                self._owner[b], self._start[b] = index, self._column
                self._pieces[index], self._limits[index] = [], r.max_tokens
        return slots.Admission(
            row=row,
            source=source,
            lane=lane,
            lane_source=lane_source,
            prompt_lengths=lengths,
            limits=limits,
            keys=sampler.row_keys(seed, step, prompt_ids, sample_ids),
            base_temperature=temperature,
        )

    def fit(self, *, shrink: bool) -> None:
        """Makes room for the next chunk and, with `shrink`, gives up empty rows."""
        programs, B, R = self._programs, len(self._owner), self._rows_per_lane
        live = np.flatnonzero(self._owner >= 0)
        lanes, rows_per_lane = np.arange(B // R), R
        if shrink:
            lanes, rows_per_lane = self._smaller(live)
        shift, columns = 0, self._columns
        if self._column + programs.chunk_tokens > columns:
            # All rows write the same column, so the cache is full when the oldest row
            # has filled it. What only rows that are gone wrote is forgotten first; the
            # cache widens just as far as that is not enough.
            shift = int(self._start[live].min())
            needed = self._column - shift + programs.chunk_tokens
            columns = next(c for c in programs.column_sizes if c >= needed)
        if (len(lanes), rows_per_lane, shift, columns) == (B // R, R, 0, self._columns):
            return  # moving costs a copy of the cache
        if rows_per_lane == R:
            row_index = (lanes[:, None] * R + np.arange(R)[None]).reshape(-1)
            lane_index = lanes
        else:
            # Every row becomes a lane of its own, with a copy of its prompt; `lanes`
            # holds rows then. B stands for a dead row, which takes any lane's prompt.
            row_index, lane_index = lanes, np.minimum(lanes, B - 1) // R
        self._slots = programs.repack(
            self._slots,
            slots.Moves(
                row_index=row_index.astype(np.int32),
                lane_index=lane_index.astype(np.int32),
                shift=np.int32(shift),
            ),
            columns,
        )
        # The host's notes move alike.
        known = row_index < B
        index = np.where(known, row_index, 0)
        self._owner = np.where(known, self._owner[index], -1)
        self._start = self._start[index] - shift
        self._rows_per_lane = rows_per_lane
        self._column, self._columns = self._column - shift, columns

    def _smaller(self, live: np.ndarray) -> tuple[np.ndarray, int]:
        """Which lanes to keep, and R: the cheapest set that holds the live rows.

        With R = 1 where there were more, these are the rows to keep, B for a dead one.
        """
        B, R = len(self._owner), self._rows_per_lane
        sizes = self._programs.row_sizes
        lanes = np.unique(live // R)
        # Few sizes, since each is a program to compile: the next one that is enough.
        most = next(s for s in sizes if s >= len(lanes))
        grouped = min(most, B // R)
        single = next(s for s in sizes if s >= len(live))
        # A few survivors of many groups: lanes of R rows would be nearly empty, and
        # it costs less to read every survivor's prompt for itself.
        if R > 1 and self._step_cost(single, 1) < self._step_cost(grouped * R, R):
            return _padded(live, single, B), 1
        if grouped < B // R:
            # Lanes without a live row fill the size up; their rows are dead already.
            spare = np.setdiff1d(np.arange(B // R), lanes)
            return np.concatenate([lanes, spare])[:grouped], R
        return np.arange(B // R), R

    def _step_cost(self, rows: int, rows_per_lane: int) -> float:
        """What a decode step costs, in prompt columns read; to compare sets of rows."""
        prompt = self._programs.max_prompt_tokens / rows_per_lane
        return rows * (_STEP_COLUMNS + prompt)

    def decode(self) -> Chunk:
        """Dispatches a chunk, for `collect` to read."""
        # Returns at once with arrays whose numbers are still to come.
        self._slots, samples = self._programs.decode(
            self._weights, self._slots, self._method_state
        )
        self._column += self._programs.chunk_tokens
        return Chunk(owner=self._owner.copy(), samples=samples)

    def collect(self, chunk: Chunk) -> Iterator[Completion]:
        """Reads a chunk; yields what has finished in it and frees its rows."""
        drawn = jax.device_get(chunk.samples)  # waits until the devices are done
        counts = drawn.mask.sum(1)
        # Flat, since this is done for every row and a walk over the tree would cost
        # more than the slices.
        fields, tree = jax.tree.flatten((drawn.tokens, drawn.record))
        for b in np.flatnonzero(chunk.owner >= 0):
            index = int(chunk.owner[b])
            if index not in self._pieces:
                continue  # had finished in the chunk before, which was read since
            pieces, limit = self._pieces[index], self._limits[index]
            pieces.append([field[b, : counts[b]] for field in fields])
            length = sum(len(piece[0]) for piece in pieces)
            stopped = int(pieces[-1][0][-1]) in self._programs.sampling.stop_ids
            if not stopped and length < limit:
                continue
            del self._pieces[index], self._limits[index]
            # By request, not by row: it may lie in another row by now.
            self._owner[self._owner == index] = -1
            whole = [np.concatenate(parts) for parts in zip(*pieces)]
            tokens, record = jax.tree.unflatten(tree, whole)
            for values in record:
                if not np.isfinite(values).all():
                    t = int(np.flatnonzero(~np.isfinite(values))[0])
                    raise errors.Diverged(
                        f"token {t} of a completion was drawn from logits that are "
                        "not finite: the policy is broken"
                    )
            yield Completion(
                request=index, tokens=tokens, record=record, truncated=not stopped
            )


def _padded(rows: np.ndarray, size: int, dead: int) -> np.ndarray:
    """`rows`, and `dead` for the rest of `size`."""
    return np.concatenate([rows, np.full(size - len(rows), dead)])
