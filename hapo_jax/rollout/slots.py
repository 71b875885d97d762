"""What sampling keeps on the devices, and the functions that change it.

B rows decode together. Row b continues prompt b // R, whose keys and values are kept
once for its R rows. All rows write the same *column* of their own cache at a decode
step, whenever they began: a row sees the columns since its `start`. So a step writes
one slice, and forgetting old columns is one shift for all rows.

`schedule.py` decides on the host what happens; everything here is arrays in, arrays
out, and `programs.py` compiles it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hapo_jax.model import decoding, sharding, transformer
from hapo_jax.model.config import ModelConfig
from hapo_jax.rollout import sampler
from hapo_jax.rollout.batch import TokenRecord

Array = jax.Array


class Samples(NamedTuple):
    """Sampled completions; fields as in `batch.RolloutBatch`, each [B, T]."""

    tokens: Array
    mask: Array
    record: TokenRecord


class Slots(NamedTuple):
    """B rows in N = B/R lanes of R rows.

    Attributes:
      hidden: [B, D], predicts each row's next token.
      drawn: [B] int32, tokens drawn so far.
      start: [B] int32, column of the row's first token.
      prompt_lengths: [B] int32.
      limits: [B] int32, tokens at most.
      keys: [B] keys, see `sampler.row_keys`.
      base_temperature: [B] float32; 0 is greedy.
      alive: [B] bool; a row that is not only takes up its place.
      column: scalar int32, the next column to fill.
      prompts: of the N lanes, P columns.
      cache: of the B rows, S columns.
    """

    hidden: Array
    drawn: Array
    start: Array
    prompt_lengths: Array
    limits: Array
    keys: Array
    base_temperature: Array
    alive: Array
    column: Array
    prompts: decoding.Prompts
    cache: transformer.KVCache


class Admission(NamedTuple):
    """Rows to start, as the host decided; [B] each but `lane` and `lane_source` [N].

    Attributes:
      row: bool, this row starts anew.
      source: int32, which of the prefilled prompts it continues.
      lane: bool, this lane takes a new prompt.
      lane_source: int32, which of the prefilled prompts.
      prompt_lengths, limits, keys, base_temperature: as in `Slots`.
    """

    row: Array
    source: Array
    lane: Array
    lane_source: Array
    prompt_lengths: Array
    limits: Array
    keys: Array
    base_temperature: Array


def empty(
    config: ModelConfig,
    *,
    rows: int,
    lanes: int,
    prompt_columns: int,
    columns: int,
    dtype,
) -> Slots:
    """Slots in which no row is alive; `dtype` is what the policy computes in."""
    zeros = jnp.zeros((rows,), jnp.int32)
    return Slots(
        hidden=jnp.zeros((rows, config.d_model), dtype),
        drawn=zeros,
        start=zeros,
        prompt_lengths=zeros,
        limits=zeros,
        # Any keys: rows that are not alive draw as well, and nobody reads what.
        keys=jax.random.split(jax.random.key(0), rows),
        base_temperature=jnp.ones((rows,), jnp.float32),
        alive=jnp.zeros((rows,), bool),
        column=jnp.int32(0),
        prompts=decoding.Prompts(
            cache=transformer.KVCache.empty(config, lanes, prompt_columns, dtype),
            # A softmax over nothing is nan: a lane without a prompt sees zeros.
            visible=jnp.ones((lanes, prompt_columns), bool),
        ),
        cache=transformer.KVCache.empty(config, rows, columns, dtype),
    )


def admit(
    slots: Slots, hidden: Array, prompts: decoding.Prompts, new: Admission
) -> Slots:
    """Starts rows on prefilled prompts; hidden [n, D] and prompts are of n of them."""

    # Which rows start anew is data and no shape, or every number of them would be
    # compiled: all rows are written, and a mask chooses between new and old.
    def rows(mask: Array, fresh: Array, old: Array) -> Array:
        mask = mask.reshape(-1, *(1,) * (old.ndim - 1))
        return jnp.where(mask, fresh, old)

    return slots._replace(
        hidden=rows(new.row, hidden[new.source], slots.hidden),
        drawn=jnp.where(new.row, 0, slots.drawn),
        start=jnp.where(new.row, slots.column, slots.start),
        prompt_lengths=jnp.where(new.row, new.prompt_lengths, slots.prompt_lengths),
        limits=jnp.where(new.row, new.limits, slots.limits),
        keys=jnp.where(new.row, new.keys, slots.keys),
        base_temperature=jnp.where(
            new.row, new.base_temperature, slots.base_temperature
        ),
        alive=slots.alive | new.row,
        prompts=jax.tree.map(
            lambda fresh, old: rows(new.lane, fresh[new.lane_source], old),
            prompts,
            slots.prompts,
        ),
    )


class Moves(NamedTuple):
    """Where rows and lanes come from; see `programs.repack`.

    Attributes:
      row_index: [B'] int32, which row comes where; B or more makes a dead row.
      lane_index: [N'] int32, which lane comes where.
      shift: scalar int32, columns to forget; no row alive began before them.
    """

    row_index: Array
    lane_index: Array
    shift: Array


def move_rows(slots: Slots, new: Moves) -> Slots:
    """Slots of B' rows in N' lanes, but for the caches: `slots` has none (`()`), nor
    has the result. Visibility of the prompts is part of it."""
    B = len(slots.alive)
    # An index out of range would be clamped in silence: here it is meant, and the copy
    # of the last row is not alive.
    row_index = jnp.minimum(new.row_index, B - 1)
    # `()` is a tree without leaves: what has no axis of rows is passed over.
    rows = jax.tree.map(
        lambda x: x[row_index], slots._replace(column=(), prompts=(), cache=())
    )
    visible = slots.prompts.visible[new.lane_index]
    return rows._replace(
        alive=rows.alive & (new.row_index < B),
        start=rows.start - new.shift,
        column=slots.column - new.shift,
        prompts=decoding.Prompts(cache=(), visible=visible),
    )


class LayerCache(NamedTuple):
    """Keys and values of one layer: of the rows, and of the prompts of the lanes."""

    keys: Array
    values: Array
    prompt_keys: Array
    prompt_values: Array


def move_layer(layer: LayerCache, new: Moves, columns: int) -> LayerCache:
    """A layer's keys and values at new places, with `columns` columns.

    Layer by layer, so that but one of them exists twice.
    """
    row_index = jnp.minimum(new.row_index, len(layer.keys) - 1)

    def move(x: Array, axis: int) -> Array:
        widths = [(0, 0)] * x.ndim
        # The shift is data, so that one program serves all; the slice has a fixed size,
        # and needs room at any shift: one that ran over the end would be moved back.
        widths[axis] = (0, columns)
        x = jnp.pad(x[row_index], widths)
        return jax.lax.dynamic_slice_in_dim(x, new.shift, columns, axis)

    # Columns are the last axis of keys and the last but one of values.
    return LayerCache(
        keys=move(layer.keys, 3),
        values=move(layer.values, 2),
        prompt_keys=layer.prompt_keys[new.lane_index],
        prompt_values=layer.prompt_values[new.lane_index],
    )


def without_caches(slots: Slots) -> Slots:
    """What `move_rows` takes."""
    prompts = decoding.Prompts(cache=(), visible=slots.prompts.visible)
    return slots._replace(prompts=prompts, cache=())


def layers(slots: Slots) -> list[LayerCache]:
    """What `move_layer` takes, layer by layer."""
    rows, prompts = slots.cache, slots.prompts.cache
    return [
        LayerCache(
            keys=rows.keys[i],
            values=rows.values[i],
            prompt_keys=prompts.keys[i],
            prompt_values=prompts.values[i],
        )
        for i in range(len(rows.keys))
    ]


def with_caches(slots: Slots, layers: Sequence[LayerCache]) -> Slots:
    """The inverse of `without_caches` and `layers`."""
    cache = transformer.KVCache(
        keys=tuple(layer.keys for layer in layers),
        values=tuple(layer.values for layer in layers),
    )
    prompts = transformer.KVCache(
        keys=tuple(layer.prompt_keys for layer in layers),
        values=tuple(layer.prompt_values for layer in layers),
    )
    return slots._replace(prompts=slots.prompts._replace(cache=prompts), cache=cache)


def decode(
    config: ModelConfig,
    weights: decoding.Weights,
    slots: Slots,
    method_state,
    *,
    sampling: sampler.Sampling,
    steps: int,
    writes_last: bool,
) -> tuple[Slots, Samples]:
    """Draws up to `steps` tokens in every row that is alive.

    Args:
      config: the policy's sizes.
      weights: the policy's.
      slots: with room for `steps` more columns.
      method_state: of the method, after the last step, for the temperature.
      sampling: what ends a completion, and which tokens are drawn; rows that are not
        alive are fed its `pad_id`.
      steps: length of the scan.
      writes_last: see `decoding.step`.

    Returns:
      The slots, and Samples [B, steps] whose mask says what was drawn.
    """
    stops = jnp.asarray(sampling.stop_ids, jnp.int32)
    seen = jnp.arange(slots.cache.values[0].shape[2])[None]

    # [steps, B] at once: a generator called once per step costs more than it draws.
    ahead = slots.drawn[None] + jnp.arange(steps)[:, None]
    uniforms = jax.vmap(sampler.row_uniforms, (None, 0))(slots.keys, ahead)

    def position(s: Slots, uniforms: Array):
        token, record = sampler.draw(
            decoding.logits(config, weights, s.hidden),
            uniforms,
            method_state,
            s.base_temperature,
            truncation=sampling.truncation,
            temperature_fn=sampling.temperature_fn,
        )
        token = jnp.where(s.alive, token, sampling.pad_id)
        hidden, cache = decoding.step(
            config,
            weights,
            token,
            s.prompt_lengths + s.drawn,
            s.prompts,
            s.cache,
            s.column,
            # The row's own columns: others before them are of a row that is gone.
            (seen >= s.start[:, None]) & (seen <= s.column),
            writes_last=writes_last,
        )
        stopped = (token[:, None] == stops[None]).any(-1) | (s.drawn + 1 >= s.limits)
        # A row that is not alive computes on, since all rows are one array; what it
        # draws is masked, and its `drawn` stands still.
        out = Samples(
            tokens=token,
            mask=s.alive,
            record=jax.tree.map(lambda x: jnp.where(s.alive, x, 0.0), record),
        )
        s = s._replace(
            hidden=hidden,
            drawn=s.drawn + s.alive,
            alive=s.alive & ~stopped,
            column=s.column + 1,
            cache=cache,
        )
        return s, out

    # A scan compiles one decode step, however many are made: a Python loop would be
    # compiled at its full length. It stacks what the steps return in front: [steps, B].
    slots, out = jax.lax.scan(position, slots, uniforms)
    return slots, jax.tree.map(lambda x: sharding.constrain_batch(x.T), out)
