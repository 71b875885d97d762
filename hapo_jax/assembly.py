"""From config to run: the one place where a program's parts are put together.

`assemble` makes the `Run` of hapo-train and its dry run. Who needs less, or has a
policy of its own (hapo-sft, hapo-eval, hapo-plan, the benchmarks), makes one from its
policy. What is open while a run goes on is in `session.py`.
"""

import collections
import dataclasses
import functools
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from hapo_jax import tasks
from hapo_jax.algo import method as method_lib
from hapo_jax.algo import phases, settings
from hapo_jax.algo.method import Method
from hapo_jax.config import check, dotted
from hapo_jax.config.eval_sets import EvalSet
from hapo_jax.grading import pool as pool_lib
from hapo_jax.learner import cuts, packing, train_step
from hapo_jax.learner import optimizer as optimizer_lib
from hapo_jax.learner import state as state_lib
from hapo_jax.learner.state import TrainState
from hapo_jax.model import attention, huggingface, sharding
from hapo_jax.model import policy as policy_lib
from hapo_jax.model import tokenizer as tokenizer_lib
from hapo_jax.model.policy import Policy
from hapo_jax.rollout import correction as correction_lib
from hapo_jax.rollout import demonstrations, memory, second
from hapo_jax.rollout import programs as programs_lib
from hapo_jax.rollout import prompts as prompts_lib
from hapo_jax.rollout import tuning as tuning_lib
from hapo_jax.rollout.correction import Correction
from hapo_jax.rollout.demonstrations import Demonstrations
from hapo_jax.rollout.generate import Generator
from hapo_jax.rollout.prompts import PromptSet
from hapo_jax.rollout.rewards import Rewards
from hapo_jax.rollout.sampler import Sampling, Truncation
from hapo_jax.system import distributed, target
from hapo_jax.system.errors import Refused
from hapo_jax.tasks import data_checks

_log = logging.getLogger(__name__)

# What ending a program may take longer than its own clock, on a busy machine.
_CLOCK_SLACK_S = 2.0


class Work(NamedTuple):
    """What a step gives the learner to do.

    Attributes:
      prompt_tokens, completion_tokens: of the longest.
      batch_rows: completions of a step, and places for those beside the batch.
      minibatch_rows: of an update.
      beside_rows: of them places for a second rollout, or for demonstrations.
      shown_rows: demonstrations in these places.
      passes: over the batch.
      phases: that each of them has, see `algo/phases.py`.
      recompute_old_logprobs, base_temperature: see `train_step.make_learner`.
    """

    prompt_tokens: int
    completion_tokens: int
    batch_rows: int
    minibatch_rows: int
    beside_rows: int
    shown_rows: int
    passes: int
    phases: int
    recompute_old_logprobs: bool
    base_temperature: float

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt plus completion."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def updates(self) -> int:
        """Of the optimizer, per step."""
        return self.batch_rows // self.minibatch_rows * self.passes * self.phases


class Draws(NamedTuple):
    """How completions are drawn.

    Attributes:
      sampling: what ends one, and which tokens are drawn.
      group_size: of a prompt, all that is drawn of it.
      most_rows: that are asked for at a time, of all processes.
    """

    sampling: Sampling
    group_size: int
    most_rows: int


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What a run is made of, as its config says; no number of it is computed yet.

    A program that does not learn has no method and no optimizer, and one that does not
    sample has no prompts. What is costly is made when it is first asked for.

    Attributes:
      config: resolved.
      policy: what is trained or evaluated.
      method: what learns from rewards, and sets temperatures.
      optimizer: with its learning rate.
      prompts: the problems that are trained on.
      demonstrations: that are imitated beside them.
      correction: of wrong completions; None if they stay as they are.
    """

    config: ConfigDict
    policy: Policy
    method: Method | None = None
    optimizer: optimizer_lib.Optimizer | None = None
    prompts: PromptSet | None = None
    demonstrations: Demonstrations | None = None
    correction: Correction | None = None

    @property
    def work(self) -> Work:
        """What a step gives the learner to do."""
        return work_of(self.config, shards=_shards(self.policy.mesh))

    @property
    def draws(self) -> Draws:
        """How the completions are drawn that are trained on."""
        r, tokenizer = self.config.rollout, self.policy.tokenizer
        group_size = r.group_size + r.greedy_baseline
        return Draws(
            sampling=Sampling(
                stop_ids=tokenizer.stop_ids,
                pad_id=tokenizer.pad_id,
                truncation=Truncation(top_k=r.top_k, top_p=r.top_p, min_p=r.min_p),
                temperature_fn=self.method.temperature,
            ),
            group_size=group_size,
            most_rows=r.round_prompts * group_size,
        )

    @functools.cached_property
    def abstract(self) -> TrainState:
        """The TrainState as ShapeDtypeStructs with shardings."""
        return state_lib.abstract(self.policy, self.optimizer, self.method)

    @functools.cached_property
    def learner(self) -> train_step.Learner:
        """The learner's jitted functions."""
        return _make_learner(self)

    @functools.cached_property
    def to_sampler(self) -> Callable[[nnx.State], nnx.State]:
        """See `Policy.to_sampler`."""
        return self.policy.to_sampler()

    @property
    def kept_bytes(self) -> int:
        """Bytes per device of what is there beside a sampler, but for the copies of the
        parameters that it works with: training state and reference."""
        if self.optimizer is None:
            return 0
        reference = self.policy.reference_bytes() if self.method.needs_reference else 0
        return sharding.per_device(self.abstract) + reference

    def first_state(self, params: nnx.State) -> TrainState:
        """The state before the first update, in its layout; consumes `params`."""
        return state_lib.place(params, self.optimizer, self.method, self.abstract)

    def load_reference(self) -> nnx.State | None:
        """Parameters of the reference policy, if the method reads one."""
        return self.policy.load_reference() if self.method.needs_reference else None


def assemble(config: ConfigDict) -> Run:
    """The run of hapo-train that a resolved config describes.

    Raises:
      Refused: the method, the model's folder, the problems or the demonstrations
        cannot be used.
    """
    check.check_method(config, make_method(config))  # before anything is read
    policy = describe(config)
    prompts = make_prompts(
        config, policy, config.task.train, exclude_ids=config.data.exclude_ids
    )
    shown = None
    if config.algo.demonstrations.share:
        shown = make_demonstrations(config, policy, "task.demonstrations")
    method = make_method(config, num_prompts=len(prompts))
    run = dataclasses.replace(
        of_policy(config, policy, method), prompts=prompts, demonstrations=shown
    )
    return dataclasses.replace(run, correction=_make_correction(run))


def of_policy(config: ConfigDict, policy: Policy, method: Method) -> Run:
    """A run that learns, around a policy that is there already."""
    return Run(
        config=config, policy=policy, method=method, optimizer=make_optimizer(config)
    )


def make_method(config: ConfigDict, *, num_prompts: int = 1) -> Method:
    """The method of the config's section `algo`; of so many training problems."""
    found = settings.of(config.algo.to_dict())
    return method_lib.make(found, seed=config.seed, num_prompts=num_prompts)


def work_of(config: ConfigDict, *, shards: int = 1) -> Work:
    """What a step gives the learner to do.

    Args:
      config: resolved, of either kind.
      shards: devices that rows are split over.
    """
    options = config.learner
    if "rollout" not in config:  # a supervised run
        return Work(
            prompt_tokens=config.max_prompt_tokens,
            completion_tokens=config.max_completion_tokens,
            batch_rows=options.batch_rows,
            minibatch_rows=options.batch_rows,
            beside_rows=0,
            shown_rows=0,
            passes=1,
            phases=1,
            recompute_old_logprobs=False,
            base_temperature=1.0,
        )
    r = config.rollout
    num_minibatches = r.batch_prompts // options.minibatch_prompts
    free = second.places(
        second.Second(**r.second.to_dict()),
        batch_prompts=r.batch_prompts,
        group_size=r.group_size,
        num_minibatches=num_minibatches,
        multiple=shards,
    )
    sampled = options.minibatch_prompts * r.group_size
    shown = demonstrations.per_minibatch(config.algo.demonstrations.share, sampled)
    free = free or -(-shown // shards) * shards
    rows = sampled + free
    return Work(
        prompt_tokens=r.max_prompt_tokens,
        completion_tokens=r.max_completion_tokens,
        batch_rows=num_minibatches * rows,
        minibatch_rows=rows,
        beside_rows=free,
        shown_rows=shown,
        passes=options.passes,
        phases=phases.number(config.algo.phases.name),
        recompute_old_logprobs=options.recompute_old_logprobs,
        base_temperature=r.base_temperature,
    )


def describe(config: ConfigDict, mesh: jax.sharding.Mesh | None = None) -> Policy:
    """Reads sizes and tokenizer of `config.model.path`; no weights yet.

    Args:
      config: of the run.
      mesh: None for the config's, over all devices.

    Raises:
      Refused: the folder, its model or its tokenizer cannot be used, or the model
        does not fit the mesh or the lengths of the config.
    """
    path = config.model.path
    if mesh is None:
        mesh = policy_lib.make_mesh(config)
    check.check_model_path(path)
    model_config = huggingface.load_config(path)
    tokenizer = tokenizer_lib.load(path, stop=config.model.stop_tokens)
    tokenizer = tokenizer.within(model_config.vocab_size)
    check.check_model(config, model_config, tokenizer.vocab_size)
    unused = tokenizer.unused_ids(model_config.vocab_size)
    model_config = dataclasses.replace(model_config, unused_ids=unused)
    policy = policy_lib.make(model_config, tokenizer, path, config.model.dtype, mesh)
    warn_of_prompts(config, policy)
    return policy


def warn_of_prompts(config: ConfigDict, policy: Policy) -> None:
    """Says what may be wrong with the form of prompts, in process 0."""
    warning = policy.tokenizer.prompt_mode(config.task.chat_template).warning
    if warning and distributed.is_first():
        _log.warning("%s", warning)


def make_prompts(
    config: ConfigDict,
    policy: Policy,
    options: ConfigDict,
    *,
    task: str = "",
    exclude_ids: str = "",
) -> PromptSet:
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


def make_demonstrations(
    config: ConfigDict, policy: Policy, section: str
) -> Demonstrations:
    """The demonstrations that a section of the config asks for.

    Args:
      config, policy: of the run, of either kind.
      section: with the options of the task's `demonstrations`.

    Raises:
      Refused: the task's files cannot be used, or a demonstration is too long.
    """
    options = dotted.get(config, section).to_dict()
    texts = tasks.get(config.task.name).demonstrations(**options)
    work = work_of(config)
    rows = demonstrations.tokenise(
        texts,
        policy.tokenizer,
        prompt_encoder(config, policy),
        max_prompt_tokens=work.prompt_tokens,
        max_completion_tokens=work.completion_tokens,
        section=section,
    )
    return Demonstrations(texts, rows)


def make_pool(config: ConfigDict, sets: Sequence[EvalSet] = ()) -> pool_lib.GradingPool:
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
    return pool_lib.GradingPool(
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
    options, updates = config.learner, work_of(config).updates
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


def _make_learner(run: Run) -> train_step.Learner:
    """See `Run.learner`; work is cut so that it fits into memory."""
    options, policy, work = run.config.learner, run.policy, run.work
    shards = _shards(policy.mesh)
    width = _width(options, work.longest)
    cut = cuts.choose(
        policy.config,
        cuts.Memory(
            usable=memory.usable_bytes(),
            kept=run.kept_bytes,
            parameters=sharding.per_device(run.abstract.params) // 4,
        ),
        width=width,
        most_rows=-(-work.minibatch_rows // shards),
        shards=shards,
        tensor=policy.mesh.shape["tensor"],
        rows=options.micro_rows // shards,
        remat=options.remat,
        head_tokens=options.chunk_tokens,
    )
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
        run.method,
        run.optimizer,
        policy.mesh,
        jax.tree.map(lambda x: x.sharding, run.abstract),
        base_temperature=work.base_temperature,
        minibatch_rows=work.minibatch_rows,
        recompute_old_logprobs=work.recompute_old_logprobs,
        layout=make_layout(options, longest=work.longest, shards=shards, rows=cut.rows),
        chunk_tokens=cut.head_tokens,
        remat=cut.remat,
        beside_rows=work.beside_rows,
    )


def _shards(mesh: jax.sharding.Mesh) -> int:
    """Devices that rows of a batch are split over."""
    return math.prod(mesh.shape[axis] for axis in sharding.BATCH)


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


def make_programs(
    run: Run,
    draws: Draws,
    *,
    processes: int | None = None,
    prompt_tokens: int | None = None,
    completion_tokens: int | None = None,
) -> programs_lib.Programs:
    """Programs that sample, with as many slots as the config asks for, or as fit.

    Args:
      run, draws: what they are for.
      processes: that share completions and slots; None: those there are.
      prompt_tokens, completion_tokens: of the longest; None: the config's.

    Raises:
      Refused: the slots do not fit into memory or onto the mesh.
    """
    r, policy, mesh = run.config.rollout, run.policy, run.policy.sample_mesh
    group_size = draws.group_size
    P, T = prompt_tokens or r.max_prompt_tokens, r.max_completion_tokens
    T = completion_tokens or T
    processes = processes or jax.process_count()
    if r.slots % processes:
        raise Refused(
            f"rollout.slots={r.slots} must be a multiple of the {processes} processes "
            "that share them; 0 chooses for you."
        )
    shards = math.prod(mesh.shape[axis] for axis in sharding.BATCH)
    # Rows that share a prompt stay until all have finished. That is worth it where
    # reading the prompt is a good part of a decode step.
    rows_per_lane = group_size if r.share_prompts_from <= P else 1
    # What it is given, and decoding's weights.
    copies = 2 * policy.sampler_bytes()
    budget = memory.budget_bytes(r.memory_fraction, run.kept_bytes + copies)
    slot_bytes = (
        memory.bytes_per_slot(
            policy.config,
            prompt_columns=P,
            completion_columns=T + T // 4,
            rows_per_lane=rows_per_lane,
            itemsize=policy.dtype.itemsize,
        )
        // mesh.shape["tensor"]
    )
    num_slots = memory.plan_slots(
        r.slots // processes,
        most=-(-draws.most_rows // group_size // processes) * group_size,
        multiple=rows_per_lane * shards,
        slot_bytes=slot_bytes,
        budget_bytes=budget,
        shards=shards,
        round_up=tuning_lib.of_target().spare_rows,
    )
    return programs_lib.make(
        policy,
        draws.sampling,
        num_slots=num_slots,
        rows_per_lane=rows_per_lane,
        max_prompt_tokens=P,
        max_completion_tokens=T,
        chunk_tokens=r.chunk_tokens,
    )


def _make_correction(run: Run) -> Correction | None:
    """What corrects wrong completions, as the config's `rollout.correction` says.

    Raises:
      Refused: the task has no reference solutions, some problem has none, or a
        correction has no room in a completion.
    """
    config, r = run.config, run.config.rollout
    options, encode = r.correction, run.policy.tokenizer.encode
    if not options.share:
        return None
    task = tasks.get(config.task.name)
    if not (hasattr(task, "demonstrations") and hasattr(task, "gold_text")):
        raise Refused(
            f"rollout.correction.share={options.share} writes answers and reference "
            f"solutions into completions, and task.name={config.task.name!r} has none "
            "(functions gold_text and demonstrations); set it to 0, or choose a task "
            "that has."
        )
    known = check.options_of(task.demonstrations)
    given = {k: v for k, v in config.task.train.items() if k in known}
    given |= {"columns": options.columns, "size": 0}
    shown = task.demonstrations(**{k: v for k, v in given.items() if k in known})
    answers, solutions = correction_lib.texts(
        run.prompts.problems,
        {json.dumps(d.prompt): d.completion for d in shown},
        gold=task.gold_text,
        encode=encode,
        key=json.dumps,
    )
    doubt = np.asarray(encode(correction_lib.DOUBT), np.int32)
    first = r.max_completion_tokens - len(doubt) - options.new_tokens
    if first < 1:
        raise Refused(
            f"rollout.correction.new_tokens={options.new_tokens} and the {len(doubt)} "
            "tokens before them leave no room in "
            f"rollout.max_completion_tokens={r.max_completion_tokens} for a completion "
            "that could be corrected; raise that, or lower the former."
        )
    draws = run.draws._replace(group_size=1, most_rows=r.round_prompts * r.group_size)
    return Correction(
        programs=make_programs(
            run,
            draws,
            prompt_tokens=r.max_prompt_tokens + first + len(doubt),
            completion_tokens=options.new_tokens,
        ),
        doubt=doubt,
        answers=answers,
        solutions=solutions,
        share=options.share,
        extend=options.extend,
        below_prompt_tokens=options.below_prompt_tokens,
    )


def make_generator(
    run: Run,
    programs: programs_lib.Programs,
    prompts: PromptSet,
    pool: pool_lib.GradingPool,
    *,
    task: str = "",
    correction: Correction | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    beat: Callable[[], None] = lambda: None,
) -> Generator:
    """What draws and grades completions of some prompts.

    Args:
      run: decides on rewards and the seed.
      programs, prompts, pool: what it works with.
      task: that grades; empty for the config's.
      correction, should_stop, beat: see Generator.
    """
    config = run.config
    return Generator(
        programs=programs,
        prompts=prompts,
        decode=run.policy.tokenizer.decode,
        submit=functools.partial(pool.submit, task or config.task.name),
        rewards=Rewards(
            correct=config.reward.correct,
            wrong=config.reward.wrong,
            format_weight=config.reward.format_weight,
            max_tokens=config.rollout.max_completion_tokens,
            buffer_tokens=config.reward.overlong_buffer_tokens,
            factor=config.reward.overlong_factor,
        ),
        seed=config.seed,
        correction=correction,
        should_stop=should_stop,
        beat=beat,
    )
