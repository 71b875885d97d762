"""Every program of a run, with the shapes of its arguments.

For who compiles them before they are needed (`train.py`), for hardware that is not
there (`planning/`), or looks at their text.
"""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from ml_collections import ConfigDict

from hapo_jax.learner import shapes as learner_shapes
from hapo_jax.learner import train_step
from hapo_jax.learner.state import TrainState
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


def learning(
    learner: train_step.Learner,
    policy: Policy,
    state: TrainState,
    *,
    num_rows: int,
    prompt_tokens: int,
    completion_tokens: int,
    with_reference: bool = False,
) -> list[Program]:
    """What a step of learning needs, in the order in which it is called.

    Args:
      learner, policy: the run's.
      state: ShapeDtypeStructs of the TrainState.
      num_rows: completions of a batch.
      prompt_tokens, completion_tokens: of the longest.
      with_reference: the batch has log-probs of a reference policy.
    """
    layout, longest = learner.layout, prompt_tokens + completion_tokens
    packed = learner_shapes.packed(learner, layout.num_micros(num_rows, longest))
    rows = learner_shapes.rows(
        learner, num_rows, completion_tokens, with_reference=with_reference
    )
    minibatch = learner_shapes.minibatch(
        learner,
        state.method_state,
        completion_tokens,
        layout.num_micros(learner.minibatch_rows, longest),
        with_reference=with_reference,
    )
    found = [
        Program("score", learner.score, (state.params, packed), policy.mesh),
        Program("prepare", learner.prepare, (rows, state.method_state), policy.mesh),
        Program("update", learner.update, (state, minibatch), policy.mesh),
    ]
    scores = learner.recompute_old_logprobs or with_reference
    return found if scores else found[1:]


def first_needed(
    config: ConfigDict,
    policy: Policy,
    learner: train_step.Learner,
    samplers: Sequence[tuple[Programs, Any]],
    state: TrainState,
    *,
    with_reference: bool,
) -> list[Program]:
    """What the first step of hapo-train is known to need, in its order.

    Args:
      config, policy, learner: the run's.
      samplers: programs that sample, in the order in which they do, each with the
        state of the method as ShapeDtypeStructs.
      state: ShapeDtypeStructs of the TrainState.
      with_reference: see `learning`.
    """
    r = config.rollout
    found = [p for e, own in samplers for p in start_of_sampling(e, policy, own)]
    found += learning(
        learner,
        policy,
        state,
        num_rows=r.batch_prompts * r.group_size,
        prompt_tokens=r.max_prompt_tokens,
        completion_tokens=r.max_completion_tokens,
        with_reference=with_reference,
    )
    if target.platform() != "cpu":
        # A CPU compiles with the cores that sample, and may not need them.
        found += [p for e, own in samplers for p in wider(e, policy, own)]
    return found
