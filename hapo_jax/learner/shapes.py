"""Shapes of what the learner's jitted functions take, without the arrays."""

from typing import Any

import jax
import jax.numpy as jnp

from hapo_jax.algo.terms import Rows
from hapo_jax.learner import packing, train_step
from hapo_jax.model import sharding


def packed(learner: train_step.Learner, num_micros: int) -> packing.Packed:
    """Of `packing.pack`."""
    layout = learner.layout
    M, m, S, W = num_micros, layout.micro_rows, layout.shards, layout.width
    row, target = _of((M, m, W)), _of((M, S, layout.num_targets(learner.width)))
    found = packing.Packed(
        tokens=row,
        positions=row,
        segment_ids=row,
        branch_ids=row,
        places=row,
        sources=target,
        targets=target,
        counts=_of((M, S)),
        num_micros=_of(()),
    )
    if learner.ratio_of == "sampled":
        number = _of(target.shape, jnp.float32)
        drawn = packing.Drawn(temperature=number, cut_logit=number)
        found = found._replace(drawn=drawn)
    return sharding.laid_out(found, learner.shardings.packed)


def rows(
    learner: train_step.Learner,
    num_rows: int,
    completion_tokens: int,
    *,
    with_reference: bool,
) -> Rows:
    """Of a batch of `num_rows` completions of at most `completion_tokens`."""
    field = _of((num_rows, completion_tokens), jnp.float32)
    found = Rows(
        mask=_of(field.shape, bool),
        old_logprobs=field,
        old_entropy=field,
        behavior_logprobs=field,
        reference_logprobs=field if with_reference else None,
        rewards=_of((num_rows,), jnp.float32),
        scores=_of((num_rows,), jnp.float32),
        group_ids=_of((num_rows,)),
        prompt_ids=_of((num_rows,)),
        beside=_of((num_rows,), bool) if learner.beside_rows else None,
        **{f"old_{name}": field for name in learner.old_outputs},
        old_values=field if learner.has_critic else None,
        baselines=_of((num_rows,), jnp.float32),
        forks=_of(field.shape, bool) if learner.reads_forks else None,
    )
    return sharding.laid_out(found, learner.row_sharding)


def minibatch(
    learner: train_step.Learner,
    method_state: Any,
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
    prepared = learner.prepare.eval_shape(given, method_state)
    constants, weights, index = prepared.constants, prepared.weights, None
    constants.pop("waits", None)
    shape = micros.targets.shape
    if learner.by_rows:
        index = packing.Index(_of(shape), _of(shape))
    else:
        constants, weights = jax.tree.map(
            lambda x: _of(shape, x.dtype), (constants, weights)
        )
    found = train_step.Minibatch(
        packed=micros,
        constants=constants,
        weights=weights,
        index=index,
        denominator=_of((), jnp.float32),
        num_tokens=_of(()),
    )
    # Where a method has nothing, nothing lies.
    parts = {
        name: sharding.laid_out(part, getattr(learner.shardings, name))
        for name, part in found._asdict().items()
        if part is not None
    }
    return found._replace(**parts)


def _of(shape: tuple[int, ...], dtype=jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)
