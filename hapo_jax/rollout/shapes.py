"""Shapes of what the sampling programs take, without the arrays."""

import jax
import jax.numpy as jnp

from hapo_jax.model import sharding
from hapo_jax.rollout import slots
from hapo_jax.rollout.programs import Programs


def prompts(programs: Programs, count: int):
    """Of prompts to be read: tokens [n, P] and lengths [n]."""
    tokens = jax.ShapeDtypeStruct((count, programs.max_prompt_tokens), jnp.int32)
    found = tokens, jax.ShapeDtypeStruct((count,), jnp.int32)
    return sharding.laid_out(found, (programs.shardings.by_row,) * 2)


def read(programs: Programs, params, count: int):
    """Of prompts that were read: hidden states and Prompts."""
    found = programs.prefill.eval_shape(params, *prompts(programs, count))
    return sharding.laid_out(
        found, (programs.shardings.by_row, programs.shardings.prompts)
    )


def weights(programs: Programs, params):
    """Of decoding's weights."""
    found = programs.weights.eval_shape(params)
    return sharding.laid_out(found, programs.shardings.weights)


def state(
    programs: Programs,
    columns: int,
    *,
    rows: int | None = None,
    rows_per_lane: int | None = None,
) -> slots.Slots:
    """Of Slots; all rows where they are not given."""
    rows = rows or programs.num_slots
    found = jax.eval_shape(
        lambda: slots.empty(
            programs.config,
            rows=rows,
            lanes=rows // (rows_per_lane or programs.rows_per_lane),
            prompt_columns=programs.max_prompt_tokens,
            columns=columns,
            dtype=programs.dtype,
        )
    )
    return sharding.laid_out(found, programs.shardings.slots)


def admission(programs: Programs, num_rows: int, num_lanes: int) -> slots.Admission:
    """Of the Admission to so many rows and lanes; from the host, but for the keys."""
    number, lane = _of((num_rows,)), _of((num_lanes,))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), num_rows))
    whole = programs.shardings.slots.column
    return slots.Admission(
        row=_of((num_rows,), bool),
        source=number,
        lane=_of((num_lanes,), bool),
        lane_source=lane,
        prompt_lengths=number,
        limits=number,
        keys=sharding.laid_out(keys, whole),
        base_temperature=_of((num_rows,), jnp.float32),
    )


def moves(num_rows: int, num_lanes: int) -> slots.Moves:
    """Of where so many rows and lanes come from; from the host."""
    return slots.Moves(
        row_index=_of((num_rows,)), lane_index=_of((num_lanes,)), shift=_of(())
    )


def _of(shape: tuple[int, ...], dtype=jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)
