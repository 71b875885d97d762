"""Completes any number of requests with a fixed number of slots.

    for completion in engine.run(params, requests, ...): …

Requests wait in a queue; each prompt is prefilled once for all its completions. The
slots decode together in jitted chunks, and between two chunks the host hands out what
has finished, refills slots from the queue, and, when the queue is empty, moves what is
left into a smaller batch. A completion depends on its request, the run's seed and
step, and on nothing that shares its batch.
"""

import collections
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hapo_jax.algo import entropy as entropy_lib
from hapo_jax.model import sharding, transformer
from hapo_jax.rollout import sampler, slots


class Request(NamedTuple):
    """One completion to be made.

    Attributes:
      prompt_id: part of the random keys; neighbours with the same id share a prefill.
      prompt_tokens: [n] int32, without padding.
      sample_id: which of the prompt's completions.
      max_tokens: longest completion, stop token included.
      base_temperature: None for that of the run; 0 is greedy.
      seed: None for that of the run.
    """

    prompt_id: int
    prompt_tokens: np.ndarray
    sample_id: int
    max_tokens: int
    base_temperature: float | None = None
    seed: int | None = None


class Completion(NamedTuple):
    """A finished request; fields of n tokens as in `batch.RolloutBatch`.

    Attributes:
      request: index of the request in its run.
      tokens: [n] int32, stop token included.
      entropy, temperature, behavior_logprobs, base_logprobs: [n] float32.
      truncated: the token limit ended it.
    """

    request: int
    tokens: np.ndarray
    entropy: np.ndarray
    temperature: np.ndarray
    behavior_logprobs: np.ndarray
    base_logprobs: np.ndarray
    truncated: bool


# Fewer rows than this hardly decode faster.
_SMALLEST_BATCH = 8
_FEWEST_COLUMNS = 64
# What a decode step does to a row besides reading its prompt, in prompt columns read.
_STEP_COLUMNS = 512


class _Prefilled(NamedTuple):
    """Prompts that were read, with the requests that still wait for a row."""

    hidden: jax.Array
    prompts: transformer.Prompts
    groups: list[collections.deque]  # of (index, Request), one per prompt


class Engine:
    """Compiled programs for one set of shapes; `run` may be called again and again."""

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        mesh: jax.sharding.Mesh,
        param_shardings: nnx.State,
        *,
        num_slots: int,
        rows_per_lane: int,
        max_prompt_tokens: int,
        max_completion_tokens: int,
        chunk_tokens: int,
        stop_ids: tuple[int, ...],
        pad_id: int,
        truncation: sampler.Truncation,
        temperature_fn: sampler.TemperatureFn,
        cache_dtype=jnp.float32,
        chunks_ahead: int | None = None,
    ):
        """Sets up the programs; each is compiled when it is first needed.

        Args:
          graphdef: of the policy, a `transformer.Transformer`.
          mesh: rows are split over its data and fsdp axes.
          param_shardings: of the parameters that `run` gets.
          num_slots: rows that decode together.
          rows_per_lane: rows that share one copy of their prompt; the group size where
            prompts are long, 1 where reading them costs less than leaving rows of a
            group empty until all have finished.
          max_prompt_tokens, max_completion_tokens: of any request.
          chunk_tokens: decode steps between two looks at what has finished.
          stop_ids, pad_id, truncation, temperature_fn, cache_dtype: see
            `slots.decode`.
          chunks_ahead: chunks that are dispatched before the flags of an earlier one
            are read. None: 1 on an accelerator, which would wait for the host
            otherwise, and 0 on a CPU, which has nothing to overlap with.

        Raises:
          ValueError: the slots cannot be split into lanes, or lanes over the mesh.
        """
        shards = math.prod(mesh.shape[axis] for axis in sharding.BATCH)
        lanes = num_slots // rows_per_lane
        if num_slots % rows_per_lane or lanes % shards:
            raise ValueError(
                f"{num_slots=} must be a multiple of {rows_per_lane=} times the "
                f"{shards} shards of mesh.data × mesh.fsdp."
            )
        self.num_slots, self.rows_per_lane = num_slots, rows_per_lane
        self.max_prompt_tokens = max_prompt_tokens
        self.max_completion_tokens = max_completion_tokens
        self.chunk_tokens = chunk_tokens
        self.pad_id, self.stop_ids = pad_id, frozenset(stop_ids)
        if chunks_ahead is None:
            chunks_ahead = 0 if jax.default_backend() == "cpu" else 1
        self._chunks_ahead = chunks_ahead
        self.row_sizes = _sizes(num_slots, shards)
        self.column_sizes = _column_sizes(max_completion_tokens, chunk_tokens)
        self.prefill_sizes = sorted({shards, lanes})

        def prefill(params, tokens, lengths):
            model = nnx.merge(graphdef, params)
            return sampler.prefill(model, tokens, lengths, cache_dtype)

        def decode(params, layer_params, state, stats):
            return slots.decode(
                nnx.merge(graphdef, params),
                layer_params,
                state,
                stats,
                steps=chunk_tokens,
                stop_ids=stop_ids,
                pad_id=pad_id,
                truncation=truncation,
                temperature_fn=temperature_fn,
            )

        def empty(params):
            return slots.empty(
                nnx.merge(graphdef, params),
                rows=num_slots,
                lanes=lanes,
                prompt_columns=max_prompt_tokens,
                columns=self.column_sizes[0],
                cache_dtype=cache_dtype,
            )

        by_row, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
        state = slots.Slots(*(by_row,) * 8, column=whole, prompts=by_row, cache=by_row)
        self.prefill = jax.jit(
            prefill,
            in_shardings=(param_shardings, by_row, by_row),
            out_shardings=by_row,
        )
        self.decode = jax.jit(
            decode,
            in_shardings=(param_shardings, None, state, whole),
            out_shardings=(state, by_row),
            donate_argnums=2,
        )
        self.admit = jax.jit(
            slots.admit,
            in_shardings=(state, by_row, by_row, whole),
            out_shardings=state,
            donate_argnums=0,
        )
        self.repack = jax.jit(
            slots.repack,
            static_argnums=4,  # columns
            in_shardings=(state, whole, whole, whole),
            out_shardings=state,
        )
        self.layer_params = jax.jit(
            lambda params: nnx.merge(graphdef, params).layer_params(),
            in_shardings=(param_shardings,),
        )
        self.empty = jax.jit(
            empty, in_shardings=(param_shardings,), out_shardings=state
        )

    def check(self, index: int, request: Request) -> None:
        """Raises ValueError if a request is longer than the engine was made for."""
        n, limit = len(request.prompt_tokens), request.max_tokens
        if not 1 <= n <= self.max_prompt_tokens:
            raise ValueError(
                f"request {index}: {n} prompt tokens, and max_prompt_tokens="
                f"{self.max_prompt_tokens}; cut the prompt or raise it."
            )
        if not 1 <= limit <= self.max_completion_tokens:
            raise ValueError(
                f"request {index}: max_tokens={limit} must be between 1 and "
                f"max_completion_tokens={self.max_completion_tokens}."
            )

    def step_cost(self, rows: int, rows_per_lane: int) -> float:
        """What a decode step costs, in prompt columns read; to compare batches."""
        return rows * (_STEP_COLUMNS + self.max_prompt_tokens / rows_per_lane)

    def run(
        self,
        params,
        requests: Iterable[Request],
        *,
        seed: int,
        step: int,
        stats: entropy_lib.EntropyStats,
        base_temperature: float,
    ) -> Iterator[Completion]:
        """Yields completions as they finish.

        Args:
          params: the policy's, in the sampler's layout.
          requests: any number; consumed as slots become free.
          seed, step: part of the random keys, see `sampler.row_keys`.
          stats: entropy statistics for the adaptive temperature.
          base_temperature: of requests without their own.

        Raises:
          ValueError: a request is longer than the engine was made for.
        """
        batch = _Batch(self, params, stats)
        queue = _Queue(self, params, requests)
        flying: collections.deque = collections.deque()  # dispatched, not yet read
        while True:
            batch.admit(queue, seed=seed, step=step, base_temperature=base_temperature)
            if batch.busy:
                batch.fit(shrink=queue.empty)
                flying.append(batch.decode())
            elif not flying:
                return
            ahead = self._chunks_ahead if batch.busy else 0
            while len(flying) > ahead:
                yield from batch.collect(*flying.popleft())


class _Queue:
    """Requests in their order, and the prompts that were read for the next of them."""

    def __init__(self, engine: Engine, params, requests: Iterable[Request]):
        self._engine, self._params = engine, params
        numbered = enumerate(requests)
        self._groups = itertools.groupby(numbered, key=lambda x: x[1].prompt_id)
        self._ready: collections.deque[_Prefilled] = collections.deque()
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
        hidden, prompts = self._engine.prefill(self._params, tokens, lengths)
        self._ready.append(_Prefilled(hidden, prompts, groups))


class _Batch:
    """The slots on the devices, and what the host knows about them."""

    def __init__(self, engine: Engine, params, stats: entropy_lib.EntropyStats):
        self._engine, self._params, self._stats = engine, params, stats
        self._layer_params = engine.layer_params(params)
        self._slots = engine.empty(params)
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

    def admit(self, queue: _Queue, *, seed: int, step: int, base_temperature: float):
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
            row_index.astype(np.int32),
            lane_index.astype(np.int32),
            np.int32(shift),
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
            self._params, self._layer_params, self._slots, self._stats
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
            yield Completion(index, tokens, *records, truncated=not stopped)


def _padded(rows: np.ndarray, size: int, dead: int) -> np.ndarray:
    """`rows`, and `dead` for the rest of `size`."""
    return np.concatenate([rows, np.full(size - len(rows), dead)])


def _sizes(most: int, multiple: int) -> list[int]:
    """Batch sizes from small to `most`, each half of the next; every one costs a
    compilation for each cache width that it meets."""
    sizes = [most]
    while sizes[0] % (2 * multiple) == 0 and sizes[0] // 2 >= _SMALLEST_BATCH:
        sizes.insert(0, sizes[0] // 2)
    return sizes


def _column_sizes(max_tokens: int, chunk_tokens: int) -> list[int]:
    """Cache widths: doubling up to the longest completion and some room behind it.

    The room spares moving the columns at every chunk when rows of all ages decode
    together.
    """
    most = -(-max_tokens // chunk_tokens) * chunk_tokens
    most += max(chunk_tokens, most // 4 // chunk_tokens * chunk_tokens)
    sizes, size = [], max(chunk_tokens, _FEWEST_COLUMNS)
    while size < most:
        sizes.append(size)
        size *= 2
    return [*sizes, most]
