"""Shapes of what the engine's jitted functions take, without the arrays."""

import jax
import jax.numpy as jnp

from hapo_jax.model import sharding
from hapo_jax.rollout import slots
from hapo_jax.rollout.engine import Engine


def prompts(engine: Engine, count: int):
    """Of prompts to be read: tokens [n, P] and lengths [n]."""
    tokens = jax.ShapeDtypeStruct((count, engine.max_prompt_tokens), jnp.int32)
    found = tokens, jax.ShapeDtypeStruct((count,), jnp.int32)
    return sharding.laid_out(found, (engine.shardings.by_row,) * 2)


def read(engine: Engine, params, count: int):
    """Of prompts that were read: hidden states and Prompts."""
    found = engine.prefill.eval_shape(params, *prompts(engine, count))
    return sharding.laid_out(found, (engine.shardings.by_row, engine.shardings.prompts))


def weights(engine: Engine, params):
    """Of decoding's weights."""
    found = engine.weights.eval_shape(params)
    return sharding.laid_out(found, engine.shardings.weights)


def state(
    engine: Engine,
    columns: int,
    *,
    rows: int | None = None,
    rows_per_lane: int | None = None,
) -> slots.Slots:
    """Of Slots; all rows of the engine where they are not given."""
    rows = rows or engine.num_slots
    found = jax.eval_shape(
        lambda: slots.empty(
            engine.config,
            rows=rows,
            lanes=rows // (rows_per_lane or engine.rows_per_lane),
            prompt_columns=engine.max_prompt_tokens,
            columns=columns,
            dtype=engine.dtype,
        )
    )
    return sharding.laid_out(found, engine.shardings.slots)


def admission(engine: Engine, num_rows: int, num_lanes: int) -> slots.Admission:
    """Of the Admission to so many rows and lanes; from the host, but for the keys."""
    number, lane = _of((num_rows,)), _of((num_lanes,))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), num_rows))
    whole = engine.shardings.slots.column
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


def rows(num_rows: int, num_lanes: int) -> slots.Rows:
    """Of where so many rows and lanes come from; from the host."""
    return slots.Rows(_of((num_rows,)), _of((num_lanes,)), _of(()))


def _of(shape: tuple[int, ...], dtype=jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)
