"""The jitted programs that sample, and the sizes that they are made for.

`schedule.run` calls them. A program is compiled for arrays of fixed shapes, when it is
first called with them. So all sizes are chosen here, once: rows, lanes and columns come
in few sizes, since every further one is a further compilation.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from hapo_jax.model import decoding, sharding
from hapo_jax.model.config import ModelConfig
from hapo_jax.model.policy import Policy
from hapo_jax.rollout import sampler, slots
from hapo_jax.rollout import tuning as tuning_lib
from hapo_jax.system import compile_ahead
from hapo_jax.system.errors import Refused

_FEWEST_COLUMNS = 64


class Shardings(NamedTuple):
    """Where the arrays lie: whole trees, or prefixes of them."""

    params: nnx.State
    weights: decoding.Weights
    slots: slots.Slots
    by_row: jax.sharding.NamedSharding
    prompts: decoding.Prompts


@dataclasses.dataclass(frozen=True)
class Programs:
    """What `make` returns.

    Attributes:
      config: the policy's sizes.
      mesh: rows are split over its data and fsdp axes.
      dtype: what the policy computes in, and of keys and values.
      sampling: what ends a completion, and which tokens are drawn.
      num_slots: rows that decode together, at most.
      rows_per_lane: rows that share one copy of their prompt.
      max_prompt_tokens, max_completion_tokens: of any request.
      chunk_tokens: decode steps between two looks at what has finished.
      chunks_ahead: see `tuning.Tuning`.
      row_sizes: numbers of rows that may decode together, ascending.
      column_sizes: numbers of columns that its cache may have, ascending.
      prefill_sizes: numbers of prompts that are read at a time, ascending.
      shardings: of what the programs take and return.
      prefill: (params, tokens [n, P], lengths [n]) → hidden states and Prompts.
      weights: params → decoding's copy of them.
      empty: number of columns → Slots without a row that is alive.
      admit: see `slots.admit`; consumes the Slots that it gets.
      decode: (weights, Slots, method state) → Slots and Samples of a chunk; consumes
        the Slots that it gets.
      move_rows, move_layer: the halves of `repack`.
    """

    config: ModelConfig
    mesh: jax.sharding.Mesh
    dtype: jnp.dtype
    sampling: sampler.Sampling
    num_slots: int
    rows_per_lane: int
    max_prompt_tokens: int
    max_completion_tokens: int
    chunk_tokens: int
    chunks_ahead: int
    row_sizes: list[int]
    column_sizes: list[int]
    prefill_sizes: list[int]
    shardings: Shardings
    prefill: Callable
    weights: Callable
    empty: Callable
    admit: Callable
    decode: Callable
    move_rows: Callable
    move_layer: Callable

    def repack(self, state: slots.Slots, new: slots.Moves, columns: int) -> slots.Slots:
        """Moves rows and lanes to new places, and columns to the left.

        Args:
          state: B rows in N lanes; its arrays are gone afterwards.
          new: B' rows in N' lanes.
          columns: S', how many there are then.
        """
        rows = self.move_rows(slots.without_caches(state), new)
        moved = []
        # Layer by layer, each old one given up before the next is made: memory is
        # planned for one copy of the cache (`memory.py`). The host would otherwise run
        # ahead and ask for all new layers at once, hence the wait.
        for old in slots.layers(state):
            moved.append(self.move_layer(old, new, columns))
            jax.block_until_ready(moved[-1])
            for array in old:
                array.delete()
        return slots.with_caches(rows, moved)


def make(
    policy: Policy,
    sampling: sampler.Sampling,
    *,
    num_slots: int,
    rows_per_lane: int,
    max_prompt_tokens: int,
    max_completion_tokens: int,
    chunk_tokens: int,
    tuning: tuning_lib.Tuning | None = None,
) -> Programs:
    """Sets up the programs; each is compiled when it is first needed.

    Args:
      policy: samples on its `sample_mesh`.
      sampling: what ends a completion, and which tokens are drawn.
      num_slots, max_prompt_tokens, max_completion_tokens, chunk_tokens: see Programs.
      rows_per_lane: rows that share one copy of their prompt; the group size where
        prompts are long, 1 where reading them costs less than leaving rows of a
        group empty until all have finished.
      tuning: see there; None: what is fastest on this one.

    Raises:
      Refused: the slots cannot be split into lanes, or lanes over the mesh.
    """
    config, graphdef, mesh = policy.config, policy.graphdef, policy.sample_mesh
    shards = math.prod(mesh.shape[axis] for axis in sharding.BATCH)
    lanes = num_slots // rows_per_lane
    if num_slots % rows_per_lane or lanes % shards:
        raise Refused(
            f"{num_slots=} must be a multiple of {rows_per_lane=} times the "
            f"{shards} shards of mesh.data × mesh.fsdp."
        )
    tuning = tuning or tuning_lib.of_target()

    def prefill(params, tokens, lengths):
        return sampler.prefill(nnx.merge(graphdef, params), tokens, lengths)

    def weights(params):
        return decoding.weights(nnx.merge(graphdef, params))

    def decode(weights, state, method_state):
        return slots.decode(
            config,
            weights,
            state,
            method_state,
            sampling=sampling,
            steps=chunk_tokens,
            writes_last=tuning.writes_last,
        )

    def empty(columns):
        return slots.empty(
            config,
            rows=num_slots,
            lanes=lanes,
            prompt_columns=max_prompt_tokens,
            columns=columns,
            dtype=policy.dtype,
        )

    def jit(function, **options):
        return compile_ahead.Jitted(jax.jit(function, **options))

    by_row, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    shardings = _shardings(config, mesh, policy.sample_shardings)
    state, prompts = shardings.slots, shardings.prompts
    moved = slots.Moves(row_index=whole, lane_index=whole, shift=whole)
    layer = slots.LayerCache(
        **dict.fromkeys(slots.LayerCache._fields, sharding.cache_sharding(mesh))
    )
    return Programs(
        config=config,
        mesh=mesh,
        dtype=policy.dtype,
        sampling=sampling,
        num_slots=num_slots,
        rows_per_lane=rows_per_lane,
        max_prompt_tokens=max_prompt_tokens,
        max_completion_tokens=max_completion_tokens,
        chunk_tokens=chunk_tokens,
        chunks_ahead=tuning.chunks_ahead,
        row_sizes=_row_sizes(num_slots, shards, tuning),
        column_sizes=_column_sizes(max_completion_tokens, chunk_tokens, tuning),
        prefill_sizes=sorted({shards, lanes}),
        shardings=shardings,
        prefill=jit(
            prefill,
            in_shardings=(shardings.params, by_row, by_row),
            out_shardings=(by_row, prompts),
        ),
        weights=jit(
            weights, in_shardings=(shardings.params,), out_shardings=shardings.weights
        ),
        empty=jit(empty, static_argnums=0, out_shardings=state),
        # Donated: the new Slots take the memory of the old, which are gone then.
        admit=jit(
            slots.admit,
            in_shardings=(state, by_row, prompts, whole),
            out_shardings=state,
            donate_argnums=0,
        ),
        decode=jit(
            decode,
            in_shardings=(shardings.weights, state, whole),
            out_shardings=(state, by_row),
            donate_argnums=1,
        ),
        move_rows=jit(
            slots.move_rows,
            in_shardings=(slots.without_caches(state), moved),
            out_shardings=slots.without_caches(state),
        ),
        move_layer=jit(
            slots.move_layer,
            static_argnums=2,  # columns
            in_shardings=(layer, moved),
            out_shardings=layer,
        ),
    )


def _shardings(
    config: ModelConfig, mesh: jax.sharding.Mesh, params: nnx.State
) -> Shardings:
    """Rows are split over the mesh; the column is the same for all of them."""
    by_row, cache = sharding.batch_sharding(mesh), sharding.cache_sharding(mesh)
    prompts = decoding.Prompts(cache=cache, visible=by_row)
    others = {"column": sharding.replicated(mesh), "prompts": prompts, "cache": cache}
    return Shardings(
        params=params,
        weights=decoding.shardings(config, mesh),
        slots=slots.Slots(**dict.fromkeys(slots.Slots._fields, by_row) | others),
        by_row=by_row,
        prompts=prompts,
    )


def _row_sizes(most: int, multiple: int, tuning: tuning_lib.Tuning) -> list[int]:
    """Batch sizes from small to `most`: halves, with 3/4 of each if so wanted."""
    sizes = {most}
    size = most
    while size % (2 * multiple) == 0 and size // 2 >= tuning.fewest_rows:
        between = 3 * size // 4
        if tuning.sizes_per_doubling == 2 and between % multiple == 0 and size >= 16:
            sizes.add(between)
        size //= 2
        sizes.add(size)
    return sorted(sizes)


def _column_sizes(
    max_tokens: int, chunk_tokens: int, tuning: tuning_lib.Tuning
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
        if tuning.sizes_per_doubling == 2 and 3 * size // 2 < most:
            sizes.add(3 * size // 2)
        size *= 2
    return sorted(sizes)
