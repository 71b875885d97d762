"""From config to the rollout's parts: problems, verifier, generator."""

import functools

import numpy as np
import optax
from ml_collections import ConfigDict

from hapo_jax import tasks
from hapo_jax.learner import optimizer as optimizer_lib
from hapo_jax.policy import Policy
from hapo_jax.rollout import grading
from hapo_jax.rollout import prompts as prompts_lib
from hapo_jax.rollout import sampler as sampler_lib
from hapo_jax.rollout.generate import Generator, GradeFn, Rewards


def make_prompts(
    config: ConfigDict, policy: Policy, options: ConfigDict
) -> prompts_lib.PromptSet:
    """Problems of the task as token rows; `options` is task.train or task.test."""
    problems = tasks.get(config.task.name).problems(**options.to_dict())
    return prompts_lib.tokenise(
        problems,
        functools.partial(
            policy.tokenizer.encode_prompt, chat_template=config.task.chat_template
        ),
        max_prompt_tokens=config.rollout.max_prompt_tokens,
        overlong=config.rollout.overlong_prompts,
    )


def make_pool(config: ConfigDict) -> grading.GradingPool:
    """The processes that grade; close it, or use `with`."""
    return grading.GradingPool(
        num_workers=config.grading.workers,
        timeout_s=config.grading.timeout_s,
        memory_gib=config.grading.memory_gib,
        start_timeout_s=config.grading.start_timeout_s,
    )


def make_grade(config: ConfigDict, pool: grading.GradingPool) -> GradeFn:
    """The verifier of the config's task, in the pool's processes."""

    def grade(pairs: list[tuple[str, str]]):
        results = pool.grade(config.task.name, pairs)
        scores = np.array([result.score for result in results], np.float32)
        return scores, grading.count(results)

    return grade


def make_optimizer(options: ConfigDict) -> optax.GradientTransformation:
    """The optimizer of a config's `learner` section."""
    return optimizer_lib.make_optimizer(
        learning_rate=options.learning_rate,
        warmup_steps=options.warmup_steps,
        decay_steps=options.decay_steps,
        b1=options.b1,
        b2=options.b2,
        eps=options.eps,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
    )


def make_generator(
    config: ConfigDict,
    policy: Policy,
    prompts: prompts_lib.PromptSet,
    grade: GradeFn,
    *,
    num_prompts: int,
    group_size: int,
    truncation: sampler_lib.Truncation,
    temperature_fn: sampler_lib.TemperatureFn,
) -> Generator:
    """A Generator with a sampler of its own shapes."""
    r, tokenizer = config.rollout, policy.tokenizer
    sampler = sampler_lib.make_sampler(
        policy.graphdef,
        policy.mesh,
        policy.sample_shardings,
        group_size=group_size,
        max_tokens=r.max_completion_tokens,
        chunk_tokens=r.chunk_tokens,
        stop_ids=tokenizer.stop_ids,
        pad_id=tokenizer.pad_id,
        truncation=truncation,
        temperature_fn=temperature_fn,
        cache_dtype=policy.dtype,
    )
    return Generator(
        sampler=sampler,
        prompts=prompts,
        decode=tokenizer.decode,
        grade=grade,
        rewards=Rewards(
            correct=config.reward.correct,
            wrong=config.reward.wrong,
            max_tokens=r.max_completion_tokens,
            buffer_tokens=config.reward.overlong_buffer_tokens,
            factor=config.reward.overlong_factor,
        ),
        num_prompts=num_prompts,
        group_size=group_size,
        prompt_columns=r.max_prompt_tokens,
        pad_id=tokenizer.pad_id,
        stop_ids=tokenizer.stop_ids,
        seed=config.seed,
    )
