"""Engine, learner and whole step of this package, without files, tasks or a run folder.

Shared by the workers beside it and by `overhead.py` and `gpu.py`.
"""

import concurrent.futures
import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from benchmarks import workload
from hapo_jax import assembly
from hapo_jax.algo import entropy as entropy_lib
from hapo_jax.algo import method as method_lib
from hapo_jax.grading import pool as pool_lib
from hapo_jax.learner import learn as learn_lib
from hapo_jax.model import transformer
from hapo_jax.model.config import ModelConfig
from hapo_jax.model.policy import Policy
from hapo_jax.rollout import generate as generate_lib
from hapo_jax.rollout import programs as programs_lib
from hapo_jax.rollout import prompts as prompts_lib
from hapo_jax.rollout import sampler as sampler_lib
from hapo_jax.rollout.batch import RolloutBatch
from hapo_jax.tasks.problems import Problem


def model_config(shapes: workload.Model) -> ModelConfig:
    """The workload's shapes in our own words."""
    return ModelConfig(
        model_type="qwen2",
        vocab_size=shapes.vocab,
        d_model=shapes.d_model,
        d_ff=shapes.d_ff,
        num_layers=shapes.layers,
        num_heads=shapes.heads,
        num_kv_heads=shapes.kv_heads,
        head_dim=shapes.head_dim,
        max_positions=shapes.max_positions,
        rms_eps=shapes.rms_eps,
        rope_theta=shapes.rope_theta,
        qkv_bias=True,
        tie_embeddings=shapes.tied,
        init_std=shapes.init_std,
    )


@dataclasses.dataclass(frozen=True)
class NumberTokenizer:
    """Text that is token ids in decimal; no token stops a completion."""

    pad_id: int = 0
    stop_ids: tuple[int, ...] = ()

    def decode(self, ids: np.ndarray) -> str:
        """The ids as numbers."""
        return " ".join(map(str, ids))


class InstantGrader:
    """Grades by `workload.reward` at once, in place of the pool of processes."""

    def submit(self, task: str, items: list[tuple[str, str]]):
        """A future that is already done."""
        del task
        future = concurrent.futures.Future()
        future.set_result(
            [
                pool_lib.GradeResult(
                    score=workload.reward(text),
                    extracted=None,
                    outcome="graded",
                    detail="",
                )
                for text, _ in items
            ]
        )
        return future


def make_run(config: ConfigDict, policy: Policy) -> assembly.Run:
    """A run of a config around a policy; only what is asked for is made."""
    return assembly.of_policy(config, policy, assembly.make_method(config))


def statistics(vocab: int) -> dict[str, entropy_lib.EntropyStats]:
    """A method's state with statistics under which temperatures do move.

    The fresh ones would set every temperature to the base. Random weights give nearly
    uniform distributions, so the entropy of the uniform one is the pivot.
    """
    pivot = jnp.log(jnp.log(jnp.float32(vocab)))
    # Each in a buffer of its own, since an update donates them.
    stats = entropy_lib.EntropyStats(
        quantile=pivot,
        std=jnp.float32(1.0),
        max_score=jnp.float32(1.0),
        min_score=jnp.float32(-1.0),
    )
    return {"entropy": stats}


def random_params(policy: Policy, shardings: nnx.State, dtype=jnp.float32) -> nnx.State:
    """Random parameters, made where they will lie."""

    def init(key):
        model = transformer.Transformer(policy.config, rngs=nnx.Rngs(key))
        return jax.tree.map(lambda p: p.astype(dtype), nnx.state(model, nnx.Param))

    with jax.set_mesh(policy.mesh):
        return jax.jit(init, out_shardings=shardings)(jax.random.key(0))


def make_programs(
    policy: Policy,
    method: method_lib.Method,
    *,
    slots: int,
    rows_per_lane: int,
    prompt_tokens: int,
    completion_tokens: int,
    chunk_tokens: int,
    pad_id: int = 0,
) -> programs_lib.Programs:
    """Programs that nothing but a request's limit stops; see `rollout/programs.py`."""
    return programs_lib.make(
        policy,
        sampler_lib.Sampling(
            stop_ids=(), pad_id=pad_id, temperature_fn=method.temperature
        ),
        num_slots=slots,
        rows_per_lane=rows_per_lane,
        max_prompt_tokens=prompt_tokens,
        max_completion_tokens=completion_tokens,
        chunk_tokens=chunk_tokens,
    )


class Step(NamedTuple):
    """What a whole step did, and the seconds of its halves."""

    batch: RolloutBatch
    rollout_s: float
    update_s: float


def make_step(
    config: ConfigDict, policy: Policy, params: nnx.State, prompts: np.ndarray
) -> Callable[[int], Step]:
    """A function from a step's number to the step, as the main job does it.

    Args:
      config: of a run; sections rollout, learner, reward and algo are read.
      policy: with a `NumberTokenizer`.
      params: laid out for training; consumed.
      prompts: [N, P] int32, of every step.
    """
    r, group_size = config.rollout, config.rollout.group_size
    run = make_run(config, policy)
    problems = tuple(
        Problem(id=str(n), prompt="", answer="", source="") for n in range(len(prompts))
    )
    draws = run.draws._replace(most_rows=len(prompts) * group_size)
    generator = assembly.make_generator(
        run,
        assembly.make_programs(run, draws),
        prompts_lib.PromptSet(problems=problems, tokens=tuple(prompts), num_overlong=0),
        InstantGrader(),
    )
    learner, state = run.learner, run.first_state(params)

    def step(i: int) -> Step:
        nonlocal state
        started = time.perf_counter()
        batch, _ = generate_lib.generate(
            generator,
            run.to_sampler(state.params),
            state.method_state,
            base_temperatures=[r.base_temperature] * group_size,
            step=i,
            prompt_ids=np.arange(len(prompts)),
            first_sample=np.zeros(len(prompts), np.int32),
        )
        sampled = time.perf_counter()
        state, *_ = learn_lib.learn(learner, state, batch, passes=run.work.passes)
        jax.block_until_ready(state.params)
        return Step(
            batch=batch,
            rollout_s=sampled - started,
            update_s=time.perf_counter() - sampled,
        )

    return step
