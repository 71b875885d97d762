"""The programs of a run, lowered for devices that are not there.

They are the sampler's and the learner's own jitted functions, with shapes in place of
arrays: nothing is allocated.
"""

import math
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from hapo_jax import assembly, run_programs
from hapo_jax.learner import flops, packing, shapes, train_step
from hapo_jax.model import decoding, sharding
from hapo_jax.model import policy as policy_lib
from hapo_jax.model.config import ModelConfig
from hapo_jax.rollout import second
from hapo_jax.rollout import shapes as rollout_shapes
from hapo_jax.rollout.programs import Programs
from hapo_jax.system.errors import Refused


class Program(NamedTuple):
    """One jitted function, and what a step does with it.

    Attributes:
      name: of the phase.
      lowered: of `jax.jit`.
      mesh: its devices; hosts sample apart, each on its own.
      trips: passes of the loops whose length depends on the data, the outermost first.
      calls: per step.
      flops: that a call needs, over all devices of `mesh`.
      resident_bytes: per device, of arrays that are alive beside its arguments.
      filled_flops: what it would be if the rows that a call computes held one sequence
        each that fills them; 0 where there are no such rows.
      in_use_bytes: per device, of weights and keys and values that a decode step must
        read; 0 for other programs.
    """

    name: str
    lowered: jax.stages.Lowered
    mesh: jax.sharding.Mesh
    trips: tuple[int, ...]
    calls: float
    flops: float
    resident_bytes: int
    filled_flops: float = 0.0
    in_use_bytes: int = 0


def programs(
    config: ConfigDict,
    model: ModelConfig,
    devices: list,
    host_devices: list,
    *,
    completion_tokens: int,
) -> list[Program]:
    """Lowers prefill, decode, score and update of a config.

    Call it inside `target.compile_for`.

    Args:
      config: of `hapo-train`.
      model: sizes.
      devices: of the whole slice.
      host_devices: of one host.
      completion_tokens: mean length of a completion, for how often loops run; shapes
        have room for the longest.

    Raises:
      Refused: the config does not fit the model or the mesh.
    """
    policy = policy_lib.make(
        model,
        _Tokens(),
        "",
        config.model.dtype,
        _mesh(config, devices),
        sample_mesh=_host_mesh(config, host_devices),
    )
    run = assembly.of_policy(config, policy, assembly.make_method(config))
    hosts = len(devices) // len(host_devices)
    return [
        *_sampling(run, hosts, completion_tokens),
        *_learning(run, completion_tokens),
    ]


class _Tokens(NamedTuple):
    """What a program's shapes need to know of a tokenizer that is not there."""

    stop_ids: tuple[int, ...] = (0,)
    pad_id: int = 0


def _mesh(config: ConfigDict, devices: list) -> jax.sharding.Mesh:
    return sharding.make_mesh(
        data=config.mesh.data,
        fsdp=config.mesh.fsdp,
        tensor=config.mesh.tensor,
        devices=devices,
    )


def _host_mesh(config: ConfigDict, devices: list) -> jax.sharding.Mesh:
    tensor = config.mesh.tensor
    if tensor < 1 or len(devices) % tensor:
        raise Refused(
            f"mesh.tensor={tensor} must divide the {len(devices)} chips of a host, "
            "since every host samples on its own; choose a divisor."
        )
    return sharding.make_mesh(data=-1, tensor=tensor, devices=devices)


def _sampling(run: assembly.Run, hosts: int, completion_tokens: int) -> list[Program]:
    """Prefill and decode of one host."""
    r, policy, model = run.config.rollout, run.policy, run.policy.config
    draws = run.draws
    rows = -(-r.round_prompts // hosts) * draws.group_size
    if r.second.share:
        again = second.num_prompts(second.Second(**r.second.to_dict()), r.batch_prompts)
        rows += -(-again // hosts) * r.group_size
    sampler = assembly.make_programs(run, draws, processes=hosts)
    params = run_programs.sampler_params(policy)
    # While it samples a host holds the training state and the reference, and the
    # parameters from which the decoding weights were copied. Those are an argument of
    # prefill; decode has the weights.
    beside, copies = run.kept_bytes, policy.sampler_bytes()
    with jax.set_mesh(policy.sample_mesh):
        prefill, waiting = _prefill(sampler, params, policy)
        decode, in_use = _decode(sampler, params, run)
    prompts = sampler.prefill_sizes[-1]
    P, T, B = r.max_prompt_tokens, completion_tokens, sampler.num_slots
    # Slots that come free are refilled, so that a step takes as long as its tokens do,
    # but never less than the longest completion.
    steps = max(rows * T / B, r.max_completion_tokens if rows <= B else 0)
    pairs = prompts * P * (P + 1) / 2
    columns = sampler.column_sizes[-1]
    return [
        Program(
            name="prefill",
            lowered=prefill,
            mesh=policy.sample_mesh,
            trips=(),
            calls=-(-rows // draws.group_size // prompts),
            flops=flops.forward(model, tokens=prompts * P, pairs=pairs, scored=0),
            resident_bytes=waiting + beside,
        ),
        Program(
            name="decode",
            lowered=decode,
            mesh=policy.sample_mesh,
            trips=(),
            calls=steps / r.chunk_tokens,
            flops=flops.forward(
                model,
                tokens=B * r.chunk_tokens,
                pairs=B * r.chunk_tokens * (P + columns),
                scored=B * r.chunk_tokens,
            ),
            resident_bytes=beside + copies,
            in_use_bytes=in_use,
        ),
    ]


def _prefill(sampler: Programs, params, policy):
    """The program for as many prompts as are ever read at once, and the bytes of the
    slots and weights that wait meanwhile."""
    read = rollout_shapes.prompts(sampler, sampler.prefill_sizes[-1])
    waiting = _weight_bytes(sampler, params, policy) + _slot_bytes(sampler, policy)
    return sampler.prefill.lower(params, *read), waiting


def _decode(sampler: Programs, params, run: assembly.Run):
    """The program for the widest cache, and the bytes that one step must read."""
    weights = rollout_shapes.weights(sampler, params)
    state = rollout_shapes.state(sampler, sampler.column_sizes[-1])
    method_state = jax.eval_shape(run.method.init_state)
    lowered = sampler.decode.lower(weights, state, method_state)
    in_use = _weight_bytes(sampler, params, run.policy)
    in_use += _slot_bytes(sampler, run.policy)
    return lowered, in_use


def _slot_bytes(sampler: Programs, policy) -> int:
    """Keys and values per device; what else the slots hold is little."""
    state = rollout_shapes.state(sampler, sampler.column_sizes[-1])
    cache = sharding.cache_sharding(policy.sample_mesh)
    return sum(
        math.prod(cache.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves((state.prompts.cache, state.cache))
    )


def _weight_bytes(sampler: Programs, params, policy) -> int:
    abstract = rollout_shapes.weights(sampler, params)
    shardings = decoding.shardings(policy.config, policy.sample_mesh)
    return sharding.per_device(abstract, shardings)


def _learning(run: assembly.Run, completion_tokens: int) -> list[Program]:
    """Scoring of a batch and update from a mini-batch, over the whole mesh."""
    r, work, model = run.config.rollout, run.work, run.policy.config
    policy, method, learner, state = run.policy, run.method, run.learner, run.abstract
    b, B, longest = work.minibatch_rows, work.batch_rows, work.longest
    layout = learner.layout
    lengths = r.max_prompt_tokens, completion_tokens
    every, some = (_uniform_plan(layout, n, *lengths, r.group_size) for n in (B, b))
    with jax.set_mesh(policy.mesh):
        packed = shapes.packed(learner, layout.num_micros(B, longest))
        score = learner.score.lower(state.params, state.critic, packed)
        minibatch = shapes.minibatch(
            learner,
            state.method_state,
            r.max_completion_tokens,
            layout.num_micros(b, longest),
            with_reference=method.needs_reference,
        )
        update = learner.update.lower(state, minibatch)
    scorings = work.recompute_old_logprobs + method.needs_reference
    reference = policy.reference_bytes() if method.needs_reference else 0
    moments = sharding.per_device(state) - sharding.per_device(state.params)
    forward = flops.of_placement(model, every), flops.of_placement(model, some)
    programs = [
        Program(
            name="score",
            lowered=score,
            mesh=policy.mesh,
            trips=_trips(learner, every),
            calls=scorings,
            flops=forward[0],
            filled_flops=_filled(model, learner, every),
            resident_bytes=moments + reference,
        ),
        Program(
            name="update",
            lowered=update,
            mesh=policy.mesh,
            trips=_trips(learner, some),
            calls=work.passes * work.phases * B / b,
            flops=flops.TRAINING * forward[1],
            filled_flops=flops.TRAINING * _filled(model, learner, some),
            resident_bytes=reference,
        ),
    ]
    return programs if work.updates else programs[:1]


def _uniform_plan(layout, rows: int, prompt: int, completion: int, group: int):
    """Where completions of one length lie."""
    return packing.place(
        layout,
        np.full(rows, prompt, np.int32),
        np.full(rows, completion, np.int32),
        np.arange(rows) // group,
    )


def _trips(
    learner: train_step.Learner, placement: packing.Placement
) -> tuple[int, int]:
    """Micro-batches with tokens in them, and chunks of the head in each."""
    shard = placement.row // (learner.layout.micro_rows // learner.layout.shards)
    targets = np.bincount(shard, placement.lengths).max()
    return placement.num_micros(learner.layout), -(-int(targets) // learner.width)


def _filled(model: ModelConfig, learner: train_step.Learner, placement) -> float:
    """FLOPs of a forward pass over full rows, as many as a placement computes."""
    layout = learner.layout
    micros, chunks = _trips(learner, placement)
    rows, W = micros * layout.micro_rows, layout.width
    scored = micros * chunks * layout.shards * learner.width
    return flops.forward(
        model, tokens=rows * W, pairs=rows * W * (W + 1) / 2, scored=scored
    )
