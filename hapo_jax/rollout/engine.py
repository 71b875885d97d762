"""Completes any number of requests with a fixed number of slots.

    for completion in engine.run(params, requests, ...): …

Requests wait in a queue; each prompt is prefilled once for all its completions. The
slots decode together in jitted chunks, and between two chunks the host hands out what
has finished, refills slots from the queue, and, when the queue is empty, moves what is
left into a smaller batch. A completion depends on its request, the run's seed and
step, and on nothing that shares its batch.
"""

import collections
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from hapo_jax.model import decoding, sharding
from hapo_jax.model.config import ModelConfig
from hapo_jax.rollout import platform as platform_lib
from hapo_jax.rollout import sampler, schedule, slots
from hapo_jax.rollout.requests import Completion, Request
from hapo_jax.system import compile_ahead

_FEWEST_COLUMNS = 64
# What a decode step does to a row besides reading its prompt, in prompt columns read.
_STEP_COLUMNS = 512


class Shardings(NamedTuple):
    """Where the engine's arrays lie: whole trees, or prefixes of them."""

    params: nnx.State
    weights: decoding.Weights
    slots: slots.Slots
    by_row: jax.sharding.NamedSharding
    prompts: decoding.Prompts


class Engine:
    """Compiled programs for one set of shapes; `run` may be called again and again."""

    def __init__(
        self,
        config: ModelConfig,
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
        temperature_fn: sampler.TemperatureFn | None,
        dtype=jnp.float32,
        platform: platform_lib.Platform | None = None,
    ):
        """Sets up the programs; each is compiled when it is first needed.

        Args:
          config: the policy's sizes.
          graphdef: of the policy, a `transformer.Transformer`.
          mesh: rows are split over its data and fsdp axes.
          param_shardings: of the parameters that `run` gets.
          num_slots: rows that decode together.
          rows_per_lane: rows that share one copy of their prompt; the group size where
            prompts are long, 1 where reading them costs less than leaving rows of a
            group empty until all have finished.
          max_prompt_tokens, max_completion_tokens: of any request.
          chunk_tokens: decode steps between two looks at what has finished.
          stop_ids, pad_id, truncation, temperature_fn: see `slots.decode`.
          dtype: what the policy computes in, and of keys and values.
          platform: see there; None: what is fastest on this one.

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
        self.mesh, self.config, self.dtype = mesh, config, dtype
        self.num_slots, self.rows_per_lane = num_slots, rows_per_lane
        self.max_prompt_tokens = max_prompt_tokens
        self.max_completion_tokens = max_completion_tokens
        self.chunk_tokens = chunk_tokens
        self.pad_id, self.stop_ids = pad_id, frozenset(stop_ids)
        platform = platform or platform_lib.current()
        self._chunks_ahead = platform.chunks_ahead
        self.row_sizes = _row_sizes(num_slots, shards, platform)
        self.column_sizes = _column_sizes(max_completion_tokens, chunk_tokens, platform)
        self.prefill_sizes = sorted({shards, lanes})

        def prefill(params, tokens, lengths):
            model = nnx.merge(graphdef, params)
            return sampler.prefill(model, tokens, lengths)

        def weights(params):
            return decoding.weights(nnx.merge(graphdef, params))

        def decode(weights, state, method_state):
            return slots.decode(
                config,
                weights,
                state,
                method_state,
                steps=chunk_tokens,
                stop_ids=stop_ids,
                pad_id=pad_id,
                truncation=truncation,
                temperature_fn=temperature_fn,
                writes_last=platform.writes_last,
            )

        def empty():
            return slots.empty(
                config,
                rows=num_slots,
                lanes=lanes,
                prompt_columns=max_prompt_tokens,
                columns=self.column_sizes[0],
                dtype=dtype,
            )

        def jit(function, **options):
            return compile_ahead.Jitted(jax.jit(function, **options))

        weight_shardings = decoding.shardings(config, mesh)
        by_row, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
        cache = sharding.cache_sharding(mesh)
        prompts = decoding.Prompts(cache, by_row)
        state = slots.Slots(*(by_row,) * 8, column=whole, prompts=prompts, cache=cache)
        self.shardings = Shardings(
            param_shardings, weight_shardings, state, by_row, prompts
        )
        self.prefill = jit(
            prefill,
            in_shardings=(param_shardings, by_row, by_row),
            out_shardings=(by_row, prompts),
        )
        self.decode = jit(
            decode,
            in_shardings=(weight_shardings, state, whole),
            out_shardings=(state, by_row),
            donate_argnums=1,
        )
        self.admit = jit(
            slots.admit,
            in_shardings=(state, by_row, prompts, whole),
            out_shardings=state,
            donate_argnums=0,
        )
        moved = slots.Rows(whole, whole, whole)
        self.move_rows = jit(
            slots.move_rows,
            in_shardings=(slots.without_caches(state), moved),
            out_shardings=slots.without_caches(state),
        )
        layer = slots.LayerCache(*(cache,) * 4)
        self.move_layer = jit(
            slots.move_layer,
            static_argnums=2,  # columns
            in_shardings=(layer, moved),
            out_shardings=layer,
        )
        self.weights = jit(
            weights, in_shardings=(param_shardings,), out_shardings=weight_shardings
        )
        self.empty = jit(empty, out_shardings=state)

    def repack(self, state: slots.Slots, new: slots.Rows, columns: int) -> slots.Slots:
        """Moves rows and lanes to new places, and columns to the left.

        Layer by layer, each old one given up before the next is made: memory is planned
        for one copy of the cache (`memory.py`).

        Args:
          state: B rows in N lanes; its arrays are gone afterwards.
          new: B' rows in N' lanes.
          columns: S', how many there are then.
        """
        rows = self.move_rows(slots.without_caches(state), new)
        moved = []
        for old in slots.layers(state):
            moved.append(self.move_layer(old, new, columns))
            jax.block_until_ready(moved[-1])
            for array in old:
                array.delete()
        return slots.with_caches(rows, moved)

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
        method_state,
        base_temperature: float,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Completion]:
        """Yields completions as they finish.

        Args:
          params: the policy's, in the sampler's layout.
          requests: any number; consumed as slots become free.
          seed, step: part of the random keys, see `sampler.row_keys`.
          method_state: of the last step, for the temperature.
          base_temperature: of requests without their own.
          should_stop: asked before every chunk; True ends the iteration.

        Raises:
          ValueError: a request is longer than the engine was made for.
          Diverged: the policy gives no distribution to draw from.
        """
        batch = schedule.Batch(self, params, method_state)
        queue = schedule.Queue(self, params, requests)
        flying: collections.deque = collections.deque()  # dispatched, not yet read
        while not should_stop():
            batch.admit(queue, seed=seed, step=step, base_temperature=base_temperature)
            if batch.busy:
                batch.fit(shrink=queue.empty)
                flying.append(batch.decode())
            elif not flying:
                return
            ahead = self._chunks_ahead if batch.busy else 0
            while len(flying) > ahead:
                yield from batch.collect(*flying.popleft())


def _row_sizes(most: int, multiple: int, platform: platform_lib.Platform) -> list[int]:
    """Batch sizes from small to `most`: halves, with 3/4 of each if so wanted."""
    sizes = {most}
    size = most
    while size % (2 * multiple) == 0 and size // 2 >= platform.smallest_batch:
        between = 3 * size // 4
        if platform.sizes_per_doubling == 2 and between % multiple == 0 and size >= 16:
            sizes.add(between)
        size //= 2
        sizes.add(size)
    return sorted(sizes)


def _column_sizes(
    max_tokens: int, chunk_tokens: int, platform: platform_lib.Platform
) -> list[int]:
    """Cache widths: doubling, with 3/2 of each if so wanted, up to the longest
    completion and some room behind it.

    The room spares moving the columns at every chunk when rows of all ages decode
    together.
    """
    most = -(-max_tokens // chunk_tokens) * chunk_tokens
    most += max(chunk_tokens, most // 4 // chunk_tokens * chunk_tokens)
    sizes, size = {most}, max(chunk_tokens, _FEWEST_COLUMNS)
    while size < most:
        sizes.add(size)
        if platform.sizes_per_doubling == 2 and 3 * size // 2 < most:
            sizes.add(3 * size // 2)
        size *= 2
    return sorted(sizes)
