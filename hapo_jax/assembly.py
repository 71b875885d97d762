"""From config to a run's parts: problems, verifier, generator, optimizer, learner."""

import collections
import dataclasses
import functools
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence

import jax
from ml_collections import ConfigDict

from hapo_jax import tasks
from hapo_jax.algo import phases
from hapo_jax.algo.method import Method
from hapo_jax.config import check
from hapo_jax.config.eval_sets import EvalSet
from hapo_jax.grading import pool as grading
from hapo_jax.learner import cuts, packing, train_step
from hapo_jax.learner import optimizer as optimizer_lib
from hapo_jax.learner import state as state_lib
from hapo_jax.model import attention, huggingface, sharding
from hapo_jax.model import policy as policy_lib
from hapo_jax.model import tokenizer as tokenizer_lib
from hapo_jax.model.policy import Policy
from hapo_jax.rollout import memory
from hapo_jax.rollout import programs as programs_lib
from hapo_jax.rollout import prompts as prompts_lib
from hapo_jax.rollout import tuning as tuning_lib
from hapo_jax.rollout.generate import Generator
from hapo_jax.rollout.rewards import Rewards
from hapo_jax.rollout.sampler import Sampling, Truncation
from hapo_jax.system import target
from hapo_jax.system.errors import Refused
from hapo_jax.tasks import data_checks

_log = logging.getLogger(__name__)

# What ending a program may take longer than its own clock, on a busy machine.
_CLOCK_SLACK_S = 2.0


def describe(config: ConfigDict, mesh: jax.sharding.Mesh) -> Policy:
    """Reads sizes and tokenizer of `config.model.path`; no weights yet.

    Raises:
      Refused: the folder, its model or its tokenizer cannot be used, or the model
        does not fit the mesh or the lengths of the config.
    """
    path = config.model.path
    check.check_model_path(path)
    model_config = huggingface.load_config(path)
    tokenizer = tokenizer_lib.load(path, stop=config.model.stop_tokens)
    tokenizer = tokenizer.within(model_config.vocab_size)
    check.check_model(config, model_config, tokenizer.vocab_size)
    unused = tokenizer.unused_ids(model_config.vocab_size)
    model_config = dataclasses.replace(model_config, unused_ids=unused)
    return policy_lib.make(model_config, tokenizer, path, config.model.dtype, mesh)


def make_prompts(
    config: ConfigDict,
    policy: Policy,
    options: ConfigDict,
    *,
    task: str = "",
    exclude_ids: str = "",
) -> prompts_lib.PromptSet:
    """Problems of a task as token rows.

    Args:
      config, policy: of the run.
      options: task.train, task.test, or those of another task.
      task: which one; empty for the config's.
      exclude_ids: as `data.exclude_ids`, of the training problems.

    Raises:
      Refused: the task's files, or those of `exclude_ids`, cannot be used; or no
        problem is left.
    """
    options = options.to_dict()
    if config.data.on_error != "stop":  # which tasks that read no file do not know
        options["on_error"] = config.data.on_error
    problems = tasks.get(task or config.task.name).problems(**options)
    if exclude_ids:
        ids = data_checks.excluded_ids(exclude_ids.split(","))
        problems = data_checks.without(problems, ids)
    return prompts_lib.tokenise(
        problems,
        prompt_encoder(config, policy),
        max_prompt_tokens=config.rollout.max_prompt_tokens,
        overlong=config.rollout.overlong_prompts,
    )


def prompt_encoder(
    config: ConfigDict, policy: Policy
) -> Callable[[str | Sequence[Mapping[str, str]]], list[int]]:
    """A function: a prompt → its ids, in the form that `config.task` asks for."""
    return functools.partial(
        policy.tokenizer.encode_prompt,
        chat_template=config.task.chat_template,
        template_options=config.task.template_options.to_dict(),
        system_prompt=config.task.system_prompt,
    )


def make_pool(config: ConfigDict, sets: Sequence[EvalSet] = ()) -> grading.GradingPool:
    """The processes that grade; close it, or use `with`.

    Args:
      config: of the run.
      sets: that are evaluated. Programs keep a clock of their own, `total_s`; where it
        runs longer than `grading.timeout_s`, the pool waits for it.
    """
    own = [(config.task.name, o) for o in (config.task.train, config.task.test)]
    timeouts_s = collections.defaultdict(lambda: config.grading.timeout_s)
    for task, options in [*own, *((s.task, s.options) for s in sets)]:
        waits = options.get("total_s", 0.0) + _CLOCK_SLACK_S
        timeouts_s[task] = max(timeouts_s[task], waits)
    return grading.GradingPool(
        num_workers=config.grading.workers or _usable_cores(),
        timeout_s=config.grading.timeout_s,
        memory_gib=config.grading.memory_gib,
        start_timeout_s=config.grading.start_timeout_s,
        task_timeouts_s=timeouts_s,
    )


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make_optimizer(config: ConfigDict) -> optimizer_lib.Optimizer:
    """The optimizer of a resolved config."""
    options, updates = config.learner, updates_per_step(config)
    return optimizer_lib.make_optimizer(
        optimizer_lib.schedule(
            options.learning_rate,
            warmup_updates=options.warmup_steps * updates,
            decay=options.schedule,
            decay_updates=options.decay_steps * updates,
            final_share=options.final_share,
        ),
        b1=options.b1,
        b2=options.b2,
        eps=options.eps,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        name=options.optimizer,
    )


def updates_per_step(config: ConfigDict) -> int:
    """Optimizer updates from one rollout; 1 for a supervised run."""
    if "rollout" not in config:
        return 1
    per_pass = config.rollout.batch_prompts // config.learner.minibatch_prompts
    return per_pass * config.learner.passes * phases.number(config.algo.phases.name)


def make_learner(
    options: ConfigDict,
    policy: Policy,
    method: Method,
    optimizer: optimizer_lib.Optimizer,
    *,
    longest: int,
    minibatch_rows: int,
    recompute_old_logprobs: bool,
    base_temperature: float,
) -> train_step.Learner:
    """A Learner from a config's `learner` section.

    Args:
      options: that section.
      policy, method, optimizer: what learns, and how.
      longest: tokens of the longest prompt plus completion.
      minibatch_rows: completions per update.
      recompute_old_logprobs, base_temperature: see `train_step.make_learner`.
    """
    shards = math.prod(policy.mesh.shape[axis] for axis in sharding.BATCH)
    abstract = state_lib.abstract(policy, optimizer, method)
    kept = kept_bytes(policy, method, optimizer)
    cut = cuts.choose(
        policy.config,
        cuts.Memory(
            memory.usable_bytes(), kept, sharding.per_device(abstract.params) // 4
        ),
        width=_width(options, longest),
        most_rows=-(-minibatch_rows // shards),
        shards=shards,
        tensor=policy.mesh.shape["tensor"],
        rows=options.micro_rows // shards,
        remat=options.remat,
        head_tokens=options.chunk_tokens,
    )
    width = _width(options, longest)
    if attention.unread_gradient(width, policy.dtype):
        mask = policy.config.num_heads * width**2 * 2 * cut.rows
        _log.warning(
            "jax %s has cuDNN's attention make a gradient that nobody reads, %.2f GiB "
            "per layer here; install jax 0.12 or later (Python 3.12).",
            jax.__version__,
            mask / 2**30,
        )
    return train_step.make_learner(
        policy.graphdef,
        method,
        optimizer,
        policy.mesh,
        jax.tree.map(lambda x: x.sharding, abstract),
        base_temperature=base_temperature,
        minibatch_rows=minibatch_rows,
        recompute_old_logprobs=recompute_old_logprobs,
        layout=make_layout(options, longest=longest, shards=shards, rows=cut.rows),
        chunk_tokens=cut.head_tokens,
        remat=cut.remat,
    )


def kept_bytes(
    policy: Policy, method: Method, optimizer: optimizer_lib.Optimizer
) -> int:
    """Bytes per device of a run's training state and reference."""
    found = sharding.per_device(state_lib.abstract(policy, optimizer, method))
    return found + (policy.reference_bytes() if method.needs_reference else 0)


def make_layout(
    options: ConfigDict, *, longest: int, shards: int, rows: int
) -> packing.Layout:
    """How the learner's rows are cut; see `learner` in `config.py`.

    Args:
      options: that section.
      longest: tokens of the longest prompt plus completion.
      shards: devices that rows are split over.
      rows: of a micro-batch, per shard.
    """
    share = options.share_prompts
    return packing.Layout(
        width=_width(options, longest),
        micro_rows=shards * rows,
        shards=shards,
        packing=options.packing,
        share_prompts=share == "on"
        or (share == "auto" and options.packing and target.platform() != "tpu"),
    )


def _width(options: ConfigDict, longest: int) -> int:
    """Of a row; on accelerators rounded up to what the attention kernels take."""
    width = options.row_tokens or longest
    if target.platform() != "cpu":
        width += -width % attention.KERNEL_COLUMNS
    return width


def make_sampling(
    config: ConfigDict, method: Method, *, stop_ids: tuple[int, ...], pad_id: int
) -> Sampling:
    """How a run samples what it trains on; tokens as the tokenizer has them."""
    r = config.rollout
    return Sampling(
        stop_ids=stop_ids,
        pad_id=pad_id,
        truncation=Truncation(top_k=r.top_k, top_p=r.top_p, min_p=r.min_p),
        temperature_fn=method.temperature,
    )


def drawn_per_prompt(config: ConfigDict) -> int:
    """Completions of a prompt: its group, and what else is drawn of it."""
    return config.rollout.group_size + config.rollout.greedy_baseline


def make_programs(
    config: ConfigDict,
    policy: Policy,
    sampling: Sampling,
    *,
    most_rows: int,
    group_size: int,
    beside: int = 0,
    processes: int | None = None,
) -> programs_lib.Programs:
    """Programs that sample, with as many slots as the config asks for, or as fit.

    Args:
      config, policy, sampling: what they work with.
      most_rows: completions that are asked for at a time, of all processes.
      group_size: completions of a prompt among them.
      beside: bytes per device of what is kept while it samples, but for the sampler's
        own copies of the parameters.
      processes: that share completions and slots; None: those there are.

    Raises:
      Refused: the slots do not fit into memory or onto the mesh.
    """
    r, mesh = config.rollout, policy.sample_mesh
    processes = processes or jax.process_count()
    if r.slots % processes:
        raise Refused(
            f"rollout.slots={r.slots} must be a multiple of the {processes} processes "
            "that share them; 0 chooses for you."
        )
    shards = math.prod(mesh.shape[axis] for axis in sharding.BATCH)
    # Rows that share a prompt stay until all have finished. That is worth it where
    # reading the prompt is a good part of a decode step.
    rows_per_lane = group_size if r.max_prompt_tokens >= r.share_prompts_from else 1
    # What it is given, and decoding's weights.
    copies = 2 * policy.sampler_bytes()
    budget = memory.budget_bytes(r.memory_fraction, beside + copies)
    slot_bytes = (
        memory.bytes_per_slot(
            policy.config,
            prompt_columns=r.max_prompt_tokens,
            completion_columns=r.max_completion_tokens + r.max_completion_tokens // 4,
            rows_per_lane=rows_per_lane,
            itemsize=policy.dtype.itemsize,
        )
        // mesh.shape["tensor"]
    )
    num_slots = memory.plan_slots(
        r.slots // processes,
        most=-(-most_rows // group_size // processes) * group_size,
        multiple=rows_per_lane * shards,
        slot_bytes=slot_bytes,
        budget_bytes=budget,
        shards=shards,
        round_up=tuning_lib.of_target().spare_rows,
    )
    return programs_lib.make(
        policy.config,
        policy.graphdef,
        mesh,
        policy.sample_shardings,
        sampling,
        num_slots=num_slots,
        rows_per_lane=rows_per_lane,
        max_prompt_tokens=r.max_prompt_tokens,
        max_completion_tokens=r.max_completion_tokens,
        chunk_tokens=r.chunk_tokens,
        dtype=policy.dtype,
    )


def make_generator(
    config: ConfigDict,
    policy: Policy,
    prompts: prompts_lib.PromptSet,
    pool: grading.GradingPool,
    sampling: Sampling,
    *,
    most_rows: int,
    group_size: int,
    beside: int = 0,
) -> Generator:
    """A Generator with programs of its own.

    Args:
      config, policy, prompts, pool, sampling: what it works with.
      most_rows, group_size, beside: see `make_programs`.

    Raises:
      Refused: the slots do not fit into memory or onto the mesh.
    """
    r, tokenizer = config.rollout, policy.tokenizer
    return Generator(
        programs=make_programs(
            config,
            policy,
            sampling,
            most_rows=most_rows,
            group_size=group_size,
            beside=beside,
        ),
        prompts=prompts,
        decode=tokenizer.decode,
        submit=functools.partial(pool.submit, config.task.name),
        rewards=Rewards(
            correct=config.reward.correct,
            wrong=config.reward.wrong,
            format_weight=config.reward.format_weight,
            max_tokens=r.max_completion_tokens,
            buffer_tokens=config.reward.overlong_buffer_tokens,
            factor=config.reward.overlong_factor,
        ),
        seed=config.seed,
    )
