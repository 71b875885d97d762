"""Which request decodes where and when: the engine's host side.

`Queue` reads prompts when their requests come up; `Batch` knows which row of the slots
belongs to which request, moves rows and columns, and collects what they draw.
"""

import collections
import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from hapo_jax.model import decoding, sharding
from hapo_jax.rollout import sampler, slots
from hapo_jax.rollout.requests import Completion, Request
from hapo_jax.system import errors

if TYPE_CHECKING:
    from hapo_jax.rollout.engine import Engine


class Prefilled(NamedTuple):
    """Prompts that were read, with the requests that still wait for a row."""

    hidden: jax.Array
    prompts: decoding.Prompts
    groups: list[collections.deque]  # of (index, Request), one per prompt


class Queue:
    """Requests in their order, and the prompts that were read for the next of them."""

    def __init__(self, engine: "Engine", params, requests: Iterable[Request]):
        self._engine, self._params = engine, params
        numbered = enumerate(requests)
        self._groups = itertools.groupby(numbered, key=lambda x: x[1].prompt_id)
        self._ready: collections.deque[Prefilled] = collections.deque()
        self._next = self._read_group()

    @property
    def empty(self) -> bool:
        """No request waits."""
        return not self._ready and self._next is None

    def take(self, rows: int, wanted: int):
        """Up to `rows` requests of one prompt: (prefilled, source, requests) or None.

        `wanted` is how many lanes are free, a hint how many prompts to read at once.
        """
        if not self._ready and self._next is not None:
            self._prefill(wanted)
        if not self._ready:
            return None
        prefilled = self._ready[0]
        source = next(i for i, group in enumerate(prefilled.groups) if group)
        group = prefilled.groups[source]
        taken = [group.popleft() for _ in range(min(rows, len(group)))]
        if not any(prefilled.groups):
            self._ready.popleft()
        return prefilled, source, taken

    def _read_group(self) -> collections.deque | None:
        for _, members in self._groups:
            group = collections.deque(members)
            for index, request in group:
                self._engine.check(index, request)
            return group
        return None

    def _prefill(self, wanted: int) -> None:
        """Reads the next prompts: as many as lanes are free, in one of few sizes."""
        sizes = self._engine.prefill_sizes
        size = next((s for s in sizes if s >= wanted), sizes[-1])
        groups = []
        while self._next is not None and len(groups) < size:
            groups.append(self._next)
            self._next = self._read_group()
        columns = self._engine.max_prompt_tokens
        tokens = np.full((size, columns), self._engine.pad_id, np.int32)
        lengths = np.ones(size, np.int32)
        for i, group in enumerate(groups):
            prompt = group[0][1].prompt_tokens
            lengths[i] = len(prompt)
            tokens[i, columns - len(prompt) :] = prompt
        # Among several processes jit takes no split arrays from the host.
        by_row = sharding.batch_sharding(self._engine.mesh)
        tokens, lengths = jax.device_put((tokens, lengths), by_row)
        hidden, prompts = self._engine.prefill(self._params, tokens, lengths)
        self._ready.append(Prefilled(hidden, prompts, groups))


class Batch:
    """The slots on the devices, and what the host knows about them."""

    def __init__(self, engine: "Engine", params, method_state):
        self._engine, self._method_state = engine, method_state
        self._weights = engine.weights(params)
        self._slots = engine.empty()
        self._rows_per_lane = engine.rows_per_lane
        self._owner = np.full(engine.num_slots, -1)  # request in each row, or -1
        self._start = np.zeros(engine.num_slots, np.int64)  # its first column
        self._column, self._columns = 0, engine.column_sizes[0]
        self._pieces: dict[int, list] = {}  # of requests that are not finished
        self._limits: dict[int, int] = {}

    @property
    def busy(self) -> bool:
        """Some row belongs to a request that is not known to have finished."""
        return bool((self._owner >= 0).any())

    def admit(self, queue: Queue, *, seed: int, step: int, base_temperature: float):
        """Fills free lanes from the queue."""
        lanes = self._owner.reshape(-1, self._rows_per_lane)
        free = np.flatnonzero((lanes < 0).all(1))
        arrivals = collections.defaultdict(list)
        for i, lane in enumerate(free):
            taken = queue.take(self._rows_per_lane, len(free) - i)
            if taken is None:
                break
            prefilled, source, requests = taken
            arrivals[id(prefilled)].append((prefilled, source, lane, requests))
        for group in arrivals.values():
            new = self._admission(group, seed, step, base_temperature)
            prefilled = group[0][0]
            self._slots = self._engine.admit(
                self._slots, prefilled.hidden, prefilled.prompts, new
            )

    def _admission(self, arrivals, seed, step, base_temperature) -> slots.Admission:
        """The arrays that tell the devices who comes where, and the host's notes."""
        B, R = len(self._owner), self._rows_per_lane
        row, lane = np.zeros(B, bool), np.zeros(B // R, bool)
        source, lane_source = np.zeros(B, np.int32), np.zeros(B // R, np.int32)
        lengths, limits = np.ones(B, np.int32), np.ones(B, np.int32)
        temperature = np.ones(B, np.float32)
        prompt_ids, sample_ids, seeds = (np.zeros(B, np.int64) for _ in range(3))
        for _, i, place, requests in arrivals:
            lane[place], lane_source[place] = True, i
            for b, (index, r) in enumerate(requests, start=place * R):
                row[b], source[b] = True, i
                lengths[b], limits[b] = len(r.prompt_tokens), r.max_tokens
                own = r.base_temperature
                temperature[b] = base_temperature if own is None else own
                seeds[b] = seed if r.seed is None else r.seed
                prompt_ids[b], sample_ids[b] = r.prompt_id, r.sample_id
                self._owner[b], self._start[b] = index, self._column
                self._pieces[index], self._limits[index] = [], r.max_tokens
        keys = sampler.row_keys(seeds, step, prompt_ids, sample_ids)
        return slots.Admission(
            row, source, lane, lane_source, lengths, limits, keys, temperature
        )

    def fit(self, *, shrink: bool) -> None:
        """Makes room for the next chunk and, with `shrink`, gives up empty rows."""
        engine, B, R = self._engine, len(self._owner), self._rows_per_lane
        live = np.flatnonzero(self._owner >= 0)
        lanes, rows_per_lane = np.arange(B // R), R
        if shrink:
            lanes, rows_per_lane = self._smaller(live)
        shift, columns = 0, self._columns
        if self._column + engine.chunk_tokens > columns:
            shift = int(self._start[live].min())
            needed = self._column - shift + engine.chunk_tokens
            columns = next(c for c in engine.column_sizes if c >= needed)
        if (len(lanes), rows_per_lane, shift, columns) == (B // R, R, 0, self._columns):
            return
        if rows_per_lane == R:
            row_index = (lanes[:, None] * R + np.arange(R)[None]).reshape(-1)
            lane_index = lanes
        else:  # every row becomes a lane of its own
            row_index, lane_index = lanes, np.minimum(lanes, B - 1) // R
        self._slots = engine.repack(
            self._slots,
            slots.Rows(
                row_index.astype(np.int32),
                lane_index.astype(np.int32),
                np.int32(shift),
            ),
            columns,
        )
        known = row_index < B
        index = np.where(known, row_index, 0)
        self._owner = np.where(known, self._owner[index], -1)
        self._start = self._start[index] - shift
        self._rows_per_lane = rows_per_lane
        self._column, self._columns = self._column - shift, columns

    def _smaller(self, live: np.ndarray) -> tuple[np.ndarray, int]:
        """Which lanes to keep, and R: the cheapest batch that holds the live rows."""
        B, R = len(self._owner), self._rows_per_lane
        sizes = self._engine.row_sizes
        lanes = np.unique(live // R)
        most = next(s for s in sizes if s >= len(lanes))
        grouped = min(most, B // R)
        single = next(s for s in sizes if s >= len(live))
        if R > 1 and self._engine.step_cost(single, 1) < self._engine.step_cost(
            grouped * R, R
        ):
            return _padded(live, single, B), 1
        if grouped < B // R:
            spare = np.setdiff1d(np.arange(B // R), lanes)
            return np.concatenate([lanes, spare])[:grouped], R
        return np.arange(B // R), R

    def decode(self) -> tuple[np.ndarray, slots.Samples]:
        """Dispatches a chunk; returns what `collect` needs to read it."""
        self._slots, out = self._engine.decode(
            self._weights, self._slots, self._method_state
        )
        self._column += self._engine.chunk_tokens
        return self._owner.copy(), out

    def collect(self, owner: np.ndarray, out: slots.Samples) -> Iterator[Completion]:
        """Reads a chunk; yields what has finished in it and frees its rows.

        `owner` is that of the chunk's dispatch: rows may have moved since.
        """
        mask, *fields = jax.device_get((out.mask, out.tokens, *out[2:]))
        counts = mask.sum(1)
        for b in np.flatnonzero(owner >= 0):
            index = int(owner[b])
            if index not in self._pieces:
                continue  # had finished in the chunk before, which was read since
            pieces, limit = self._pieces[index], self._limits[index]
            pieces.append([field[b, : counts[b]] for field in fields])
            length = sum(len(piece[0]) for piece in pieces)
            stopped = int(pieces[-1][0][-1]) in self._engine.stop_ids
            if not stopped and length < limit:
                continue
            del self._pieces[index], self._limits[index]
            self._owner[self._owner == index] = -1
            tokens, *records = (np.concatenate(parts) for parts in zip(*pieces))
            for values in records:
                if not np.isfinite(values).all():
                    t = int(np.flatnonzero(~np.isfinite(values))[0])
                    raise errors.Diverged(
                        f"token {t} of a completion was drawn from logits that are "
                        "not finite: the policy is broken"
                    )
            yield Completion(index, tokens, *records, truncated=not stopped)


def _padded(rows: np.ndarray, size: int, dead: int) -> np.ndarray:
    """`rows`, and `dead` for the rest of `size`."""
    return np.concatenate([rows, np.full(size - len(rows), dead)])
