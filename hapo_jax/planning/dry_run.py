"""The largest work of a config once, before a run: time and memory of each phase.

    hapo-train --config=configs/gsm8k.py:data=DATA --dry_run

Random tokens at the longest lengths that the config allows: one chunk of decoding with
every slot taken, scoring, and updates. What does not fit fails here, and not in hour
five. Writes nothing.
"""

import dataclasses
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from hapo_jax import assembly, cli, opening
from hapo_jax.config import check
from hapo_jax.learner import learn as learn_lib
from hapo_jax.learner import perf
from hapo_jax.learner.state import TrainState
from hapo_jax.model.config import ModelConfig
from hapo_jax.rollout import batch as batch_lib
from hapo_jax.rollout import schedule
from hapo_jax.rollout.batch import RolloutBatch
from hapo_jax.rollout.programs import Programs
from hapo_jax.rollout.requests import Request

_GIB = 2**30


def dry_run(config: ConfigDict) -> None:
    """Runs and prints one line per phase.

    Raises:
      Refused: the config cannot be used.
    """
    resolved = check.check(config, num_devices=jax.device_count())
    cli.warn(resolved.config)
    given, config = config, resolved.config
    run = assembly.assemble(config)
    facts = opening.of_run(run, resolved, given, held_out=())
    opening.show("hapo-train --dry_run: nothing is written", facts)
    policy, r = run.policy, config.rollout
    batch = worst_batch(
        policy.config,
        prompts=r.batch_prompts,
        group_size=r.group_size,
        prompt_tokens=r.max_prompt_tokens,
        completion_tokens=r.max_completion_tokens,
    )
    work = run.work
    if work.beside_rows:
        number = work.batch_rows // work.minibatch_rows
        again = np.resize(np.arange(len(batch.rewards)), number * work.beside_rows)
        more = batch_lib.rows(batch, again)
        batch = batch_lib.behind_minibatches(batch, more, number, work.beside_rows)
    print(f"{'phase':<8} {'first s':>8} {'again s':>8} {'peak GiB':>9}  program")
    # The graders do nothing here, but are there as in a run.
    with jax.set_mesh(policy.mesh), assembly.make_pool(config):
        started = time.perf_counter()
        state = run.first_state(policy.load())
        jax.block_until_ready(state)
        _line("load", [time.perf_counter() - started, None])

        programs = assembly.make_programs(run, run.draws)
        params, vocab = run.to_sampler(state.params), policy.config.vocab_size
        _line("rollout", _twice(lambda: _decode(programs, params, state, r, vocab)))

        learner = run.learner
        print(f"devices{opening.cut(learner)}, {programs.num_slots} slots")
        reference = run.load_reference()
        scores = []

        def score():
            scores[:] = learn_lib.given_scores(learner, state, reference, batch)

        _line("score", _twice(score))
        learnt, _ = learn_lib.prepare(learner, batch, state.method_state, *scores)
        if not run.work.updates:
            return
        minibatch, _ = learn_lib.make_minibatch(learner, learnt, 0)
        program = learner.update.lower(state, minibatch).compile()

        def update():
            nonlocal state
            state, _ = learner.update(state, minibatch)
            jax.block_until_ready(state)

        _line("update", _twice(update), program)


def worst_batch(
    model: ModelConfig,
    *,
    prompts: int,
    group_size: int,
    prompt_tokens: int,
    completion_tokens: int,
) -> RolloutBatch:
    """Random tokens, every prompt and completion as long as it may be, and a reward of
    1 for every other completion, so that no group is without signal."""
    rng = np.random.default_rng(0)
    B = prompts * group_size

    def draw(rows, columns):
        return rng.integers(model.vocab_size, size=(rows, columns)).astype(np.int32)

    rewards = (np.arange(B) % 2).astype(np.float32)
    return RolloutBatch.of_tokens(
        prompt_tokens=np.repeat(draw(prompts, prompt_tokens), group_size, axis=0),
        prompt_lengths=np.full(B, prompt_tokens, np.int32),
        completion_tokens=draw(B, completion_tokens),
        completion_mask=np.ones((B, completion_tokens), bool),
        group_size=group_size,
    )._replace(scores=rewards, rewards=rewards)


def _decode(
    programs: Programs, params, state: TrainState, r: ConfigDict, vocab: int
) -> None:
    """One chunk of decoding in every slot, behind prompts of full length and over the
    widest cache."""
    rng = np.random.default_rng(0)
    shape = (-(-programs.num_slots // r.group_size), r.max_prompt_tokens)
    prompts = rng.integers(vocab, size=shape).astype(np.int32)
    requests = [
        Request(
            prompt_id=slot // r.group_size,
            prompt_tokens=prompts[slot // r.group_size],
            sample_id=slot % r.group_size,
            max_tokens=min(r.chunk_tokens, r.max_completion_tokens),
            base_temperature=r.base_temperature,
        )
        for slot in range(programs.num_slots)
    ]
    # Caches begin narrow and widen as they fill; here they are wide from the start.
    widest = dataclasses.replace(programs, column_sizes=programs.column_sizes[-1:])
    for _ in schedule.run(
        widest, params, requests, seed=0, step=0, method_state=state.method_state
    ):
        pass


def _twice(function) -> list[float]:
    """Seconds of the first call, which compiles, and of the second."""
    times = []
    for _ in range(2):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return times


def _line(phase: str, times: list, program=None) -> None:
    """Prints a phase; `program` adds what the compiler says that it needs."""
    first, again = (f"{t:8.2f}" if t is not None else " " * 8 for t in times)
    sizes = ""
    if program is not None:
        memory = program.memory_analysis()
        sizes = (
            f"  arguments {memory.argument_size_in_bytes / _GIB:.2f} GiB, "
            f"temporaries {memory.temp_size_in_bytes / _GIB:.2f} GiB per device"
        )
    print(f"{phase:<8} {first} {again} {perf.peak_gib():9.2f}{sizes}", flush=True)
