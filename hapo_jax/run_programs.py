"""Every program of a run, with the shapes of its arguments.

For who compiles them before they are needed (`train.py`), for hardware that is not
there (`planning/`), or looks at their text.
"""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from hapo_jax.assembly import Run
from hapo_jax.learner import shapes as learner_shapes
from hapo_jax.model import sharding
from hapo_jax.model.policy import Policy
from hapo_jax.rollout import shapes, slots
from hapo_jax.rollout.programs import Programs
from hapo_jax.system import target
from hapo_jax.system.compile_ahead import Program


def sampler_params(policy: Policy) -> nnx.State:
    """Of the parameters that sampling gets."""
    cast = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, policy.dtype), policy.abstract_params
    )
    return sharding.laid_out(cast, policy.sample_shardings)


def start_of_sampling(
    sampler: Programs, policy: Policy, method_state: Any
) -> list[Program]:
    """What the first chunk of sampling needs, in the order in which it is called."""
    params = sampler_params(policy)
    weights = shapes.weights(sampler, params)
    state = shapes.state(sampler, sampler.column_sizes[0])
    rows, lanes = len(state.alive), len(state.prompts.visible)
    read = params, *shapes.prompts(sampler, sampler.prefill_sizes[-1])
    hidden, prompts = shapes.read(sampler, params, sampler.prefill_sizes[-1])
    admit = (state, hidden, prompts, shapes.admission(sampler, rows, lanes))
    decode = (weights, state, method_state)
    return [
        Program("weights", sampler.weights, (params,), sampler.mesh),
        Program("empty", sampler.empty, sampler.column_sizes[:1], sampler.mesh),
        Program("prefill", sampler.prefill, read, sampler.mesh),
        Program("admit", sampler.admit, admit, sampler.mesh),
        Program("decode", sampler.decode, decode, sampler.mesh),
    ]


def wider(sampler: Programs, policy: Policy, method_state: Any) -> list[Program]:
    """What sampling needs as completions grow, all rows alive."""
    weights = shapes.weights(sampler, sampler_params(policy))
    found = []
    for before, columns in zip(sampler.column_sizes, sampler.column_sizes[1:]):
        old = shapes.state(sampler, before)
        state = shapes.state(sampler, columns)
        new = shapes.moves(len(state.alive), len(state.prompts.visible))
        found += [*_repack(sampler, old, new, columns)]
        decode = (weights, state, method_state)
        found.append(Program("decode", sampler.decode, decode, sampler.mesh))
    return found


def narrower(sampler: Programs, policy: Policy, method_state: Any) -> list[Program]:
    """What sampling needs at its widest once it shrinks, each row with its prompt."""
    if len(sampler.row_sizes) < 2:
        return []
    columns, rows = sampler.column_sizes[-1], sampler.row_sizes[-2]
    state = shapes.state(sampler, columns)
    weights = shapes.weights(sampler, sampler_params(policy))
    fewer = shapes.state(sampler, columns, rows=rows, rows_per_lane=1)
    decode = (weights, fewer, method_state)
    return [
        *_repack(sampler, state, shapes.moves(rows, rows), columns),
        Program("decode", sampler.decode, decode, sampler.mesh),
    ]


def _repack(sampler: Programs, state, new, columns: int) -> list[Program]:
    layer = slots.layers(state)[0]
    rows = (slots.without_caches(state), new)
    return [
        Program("move_rows", sampler.move_rows, rows, sampler.mesh),
        Program("move_layer", sampler.move_layer, (layer, new, columns), sampler.mesh),
    ]


def learning(run: Run) -> list[Program]:
    """What a step of learning needs, in the order in which it is called."""
    learner, work, mesh = run.learner, run.work, run.policy.mesh
    layout, with_reference = learner.layout, run.method.needs_reference
    packed = learner_shapes.packed(
        learner, layout.num_micros(work.batch_rows, work.longest)
    )
    rows = learner_shapes.rows(
        learner,
        work.batch_rows,
        work.completion_tokens,
        with_reference=with_reference,
    )
    minibatch = learner_shapes.minibatch(
        learner,
        run.abstract.method_state,
        work.completion_tokens,
        layout.num_micros(learner.minibatch_rows, work.longest),
        with_reference=with_reference,
    )
    state, method_state = run.abstract, run.abstract.method_state
    scored = (state.params, state.critic, packed)
    score = Program("score", learner.score, scored, mesh)
    found = [Program("prepare", learner.prepare, (rows, method_state), mesh)]
    if work.updates:
        found.append(Program("update", learner.update, (state, minibatch), mesh))
    scores = work.recompute_old_logprobs or with_reference
    return [score, *found] if scores else found


def first_needed(run: Run, samplers: Sequence[tuple[Programs, Any]]) -> list[Program]:
    """What the first step of hapo-train is known to need, in its order.

    Args:
      run: what it is.
      samplers: programs that sample, in the order in which they do, each with the
        state of the method as ShapeDtypeStructs.
    """
    policy = run.policy
    found = [p for e, own in samplers for p in start_of_sampling(e, policy, own)]
    found += learning(run)
    if target.platform() != "cpu":
        # A CPU compiles with the cores that sample, and may not need them.
        found += [p for e, own in samplers for p in wider(e, policy, own)]
    return found
