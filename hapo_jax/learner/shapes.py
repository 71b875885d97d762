"""Shapes of what the learner's jitted functions take, without the arrays."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import entropy as entropy_lib
from hapo_jax.learner import packing, train_step
from hapo_jax.model import sharding


def stats() -> entropy_lib.EntropyStats:
    """Of EntropyStats."""
    return jax.eval_shape(entropy_lib.initial_stats)


def packed(learner: train_step.Learner, num_micros: int) -> packing.Packed:
    """Of `packing.pack`."""
    layout = learner.layout
    M, m, S, W = num_micros, layout.micro_rows, layout.shards, layout.width
    row, target = _of((M, m, W)), _of((M, S, layout.num_targets(learner.width)))
    found = packing.Packed(*(row,) * 5, target, target, _of((M, S)), _of(()))
    return sharding.laid_out(found, learner.shardings.packed)


def rows(
    learner: train_step.Learner,
    num_rows: int,
    completion_tokens: int,
    *,
    with_reference: bool,
) -> train_step.Rows:
    """Of a batch of `num_rows` completions of at most `completion_tokens`."""
    field = _of((num_rows, completion_tokens), jnp.float32)
    found = train_step.Rows(
        completion_mask=_of(field.shape, bool),
        behavior_logprobs=field,
        old_logprobs=field,
        old_entropy=field,
        reference_logprobs=field if with_reference else None,
        rewards=_of((num_rows,), jnp.float32),
        group_ids=_of((num_rows,)),
    )
    return sharding.laid_out(found, learner.row_sharding)


def minibatch(
    learner: train_step.Learner,
    completion_tokens: int,
    num_micros: int,
    *,
    with_reference: bool,
) -> train_step.Minibatch:
    """Of `learn.make_minibatch`."""
    micros = packed(learner, num_micros)
    given = rows(
        learner,
        learner.minibatch_rows,
        completion_tokens,
        with_reference=with_reference,
    )
    prepared = learner.prepare.eval_shape(given, stats())
    tokens = train_step.tokens(given, prepared.advantages)
    known, weights, index = prepared.known, prepared.weights, None
    shape = micros.targets.shape
    if learner.token_wise:
        tokens, known, weights = jax.tree.map(
            lambda x: _of(shape, x.dtype), (tokens, known, weights)
        )
    else:
        index = packing.Index(_of(shape), _of(shape))
    number = _of((), jnp.float32)
    found = train_step.Minibatch(micros, tokens, known, weights, index, number, _of(()))
    # Where an objective has nothing, nothing lies.
    parts = (
        None if part is None else sharding.laid_out(part, s)
        for part, s in zip(found, learner.shardings, strict=True)
    )
    return train_step.Minibatch(*parts)


def _of(shape: tuple[int, ...], dtype=jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)
