"""Refuses a config that cannot work, before anything is compiled or written."""

import importlib.util
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from hapo_jax import tasks
from hapo_jax.algo import importance, methods, stages, supervised
from hapo_jax.algo import method as method_lib
from hapo_jax.algo.terms import Rows
from hapo_jax.config import defaults, dotted, ranges, resolution
from hapo_jax.model import folder
from hapo_jax.model.config import ModelConfig
from hapo_jax.rollout import labels
from hapo_jax.system.errors import Refused


def check(config: ConfigDict, *, num_devices: int) -> resolution.Resolved:
    """Checks what can be known without the model, and fills in what was left open.

    The settings of `config.algo` are checked by `method.make`, mesh sizes
    against the model by `sharding.param_shardings`.

    Args:
      config: with all that files and flags set.
      num_devices: that the mesh will span.

    Returns:
      The resolved config, and what of it was derived.

    Raises:
      Refused: names every conflict: key, value, rule and remedy.
    """
    check_alone(config, defaults.default())
    shards = _check_mesh(config, num_devices)
    resolved = resolution.resolve(config)
    c = resolved.config
    r, learner = c.rollout, c.learner
    problems, need = _collect()
    batch_rows = r.batch_prompts * r.group_size
    need(
        r.batch_prompts % learner.minibatch_prompts == 0,
        f"rollout.batch_prompts={r.batch_prompts} must be a multiple of "
        f"learner.minibatch_prompts={learner.minibatch_prompts}; change one of them.",
    )
    need(
        batch_rows % shards == 0,
        f"rollout.batch_prompts × rollout.group_size = {batch_rows} must be a multiple "
        f"of mesh.data × mesh.fsdp = {shards}; raise one, or shrink the mesh.",
    )
    _check_rows(
        learner, r.max_prompt_tokens + r.max_completion_tokens, shards, problems
    )
    need(
        r.dynamic_sampling or r.batch_prompts % r.round_prompts == 0,
        f"rollout.batch_prompts={r.batch_prompts} must be a multiple of "
        f"rollout.round_prompts={r.round_prompts} without dynamic sampling, since no "
        "group is carried over then.",
    )
    need(
        r.max_rounds * r.round_prompts >= r.batch_prompts,
        f"rollout.max_rounds={r.max_rounds} rounds of rollout.round_prompts="
        f"{r.round_prompts} never fill rollout.batch_prompts={r.batch_prompts}; raise "
        "rollout.max_rounds or rollout.round_prompts.",
    )
    tokens = batch_rows * (r.max_prompt_tokens + r.max_completion_tokens)
    need(
        tokens < 2**31,
        f"rollout.batch_prompts × rollout.group_size × (max_prompt_tokens + "
        f"max_completion_tokens) = {tokens:,} must be below 2**31, since tokens of a "
        "batch are counted in 32 bits; lower one of them.",
    )
    need(
        c.reward.overlong_buffer_tokens < r.max_completion_tokens,
        f"reward.overlong_buffer_tokens={c.reward.overlong_buffer_tokens} must be "
        f"below rollout.max_completion_tokens={r.max_completion_tokens}, or the first "
        "token is penalised already; lower it, or give reward.overlong_buffer_share "
        "(of the longest completion) in its place.",
    )
    need(
        c.reward.correct > c.reward.wrong,
        f"reward.correct={c.reward.correct} must exceed reward.wrong={c.reward.wrong}.",
    )
    need(
        c.data.on_error == "stop" or "path" in c.task.train,
        f"data.on_error={c.data.on_error!r} is about files, and "
        f"task.name={c.task.name!r} reads none; leave it at 'stop'.",
    )
    if c.data.order == "semantic_entropy":
        for name, what in (("samples", "completions"), ("stages", "stages")):
            need(
                c.data.curriculum[name] > 0,
                f"data.curriculum.{name} is missing: data.order='semantic_entropy' "
                f"needs its number of {what}, which arXiv 2512.04359 does not give.",
            )
    cut = [
        f"rollout.{name}={r[name]}"
        for name, whole in (("top_k", 0), ("top_p", 1.0), ("min_p", 0.0))
        if r[name] != whole
    ]
    need(
        not cut
        or c.algo.ratio_of == "sampled"
        or c.algo.importance.mode != "none"
        or r.off_policy == "accept",
        f"{', '.join(cut)} draws from a part of the vocabulary, and the learner's "
        "ratios are of all of it: they would be off in every update. Set "
        "algo.ratio_of='sampled', draw from the whole, correct by "
        "algo.importance.mode='token', or set rollout.off_policy='accept'.",
    )
    need(
        not r.correction.share or learner.recompute_old_logprobs,
        f"rollout.correction.share={r.correction.share} puts tokens into completions "
        "that nobody drew, and with learner.recompute_old_logprobs=False log-probs are "
        "those that the sampler recorded; set one of them to 0 or True.",
    )
    need(
        not (c.algo.demonstrations.share and r.second.share),
        f"algo.demonstrations.share={c.algo.demonstrations.share} and "
        f"rollout.second.share={r.second.share} both add completions beside the "
        "batch; set one of them to 0.",
    )
    for section in ("task.train", "task.test"):
        total_s = dotted.get(c, f"{section}.total_s")
        need(
            total_s is None or total_s < c.grading.timeout_s,
            f"grading.timeout_s={c.grading.timeout_s} must be above {section}.total_s="
            f"{total_s}, or the pool ends the grader before that ends the program.",
        )
    _check_schedule(c, problems)
    if problems:
        raise Refused(_message(problems))
    return resolved


def check_method(config: ConfigDict, method: method_lib.Method) -> None:
    """Refuses a method that cannot work under these settings.

    Asks the method itself for advantages, with a batch in which one completion of each
    group is right, or every other one where groups are of one.

    Args:
      config: resolved.
      method: of that config.

    Raises:
      Refused: every advantage is 0, or the method reads what the sampler does not
        record or the task does not know; names the settings that lead to it.
    """
    r = config.rollout
    scored = {*method.old_outputs, *(["values"] if method.has_critic else [])}
    if scored and not config.learner.recompute_old_logprobs:
        names = ", ".join(f"old_{name}" for name in sorted(scored))
        raise Refused(
            f"learner.recompute_old_logprobs=False must be True for a method that "
            f"reads {names}, which the sampler does not record."
        )
    if method.reads_forks:
        labels.of_task(config.task.name, tasks.get(config.task.name))
    number = np.arange(min(2, r.batch_prompts) * r.group_size, dtype=np.int32)
    right = number % max(r.group_size, 2) == 0
    shape = (len(number), 2)
    # Entropies that differ, for methods that weigh completions by them.
    entropy = (1 + number[:, None] + np.zeros(shape)).astype(np.float32)
    reference = np.zeros(shape, np.float32) if method.needs_reference else None
    rows = Rows(
        mask=np.ones(shape, bool),
        old_logprobs=-entropy,
        old_entropy=entropy,
        behavior_logprobs=-entropy,
        reference_logprobs=reference,
        rewards=np.where(right, config.reward.correct, config.reward.wrong).astype(
            np.float32
        ),
        scores=right.astype(np.float32),
        group_ids=number // r.group_size * r.group_size,
        prompt_ids=number // r.group_size,
        baselines=np.zeros(len(number), np.float32),
        **{f"old_{name}": 1 / (1 + entropy) for name in method.old_outputs},
        old_values=np.zeros(shape, np.float32) if method.has_critic else None,
        forks=np.ones(shape, bool) if method.reads_forks else None,
    )
    if "baselines" in method.reads and not r.greedy_baseline:
        raise Refused(
            f"algo.advantage.name={config.algo.advantage.name!r} reads baselines, the "
            "rewards of greedy completions, and rollout.greedy_baseline=False draws "
            "none; set it to True."
        )
    constants = method.constants(jax.tree.map(jnp.asarray, rows), method.init_state())
    if not np.any(np.asarray(constants["advantages"])):
        raise Refused(
            f"rollout.group_size={r.group_size} with algo.advantage.name="
            f"{config.algo.advantage.name!r}, algo.token_group.strength="
            f"{config.algo.token_group.strength} and algo.singleton="
            f"{config.algo.singleton!r} gives every completion the advantage 0, and "
            "nothing would be learnt; use a group of at least 2, or for groups of one "
            "algo.singleton='verl' or algo.advantage.name='reinforce_pp' with "
            "algo.token_group.strength=0."
        )


def cautions(config: ConfigDict) -> Iterator[str]:
    """What a config may do and seldom means; `config` is resolved."""
    learner = config.learner
    if learner.warmup_steps >= config.num_steps:
        yield (
            f"num_steps={config.num_steps} ends the run before "
            f"learner.warmup_steps={learner.warmup_steps} are over: the learning rate "
            f"never reaches {learner.learning_rate:g}."
        )
    if "algo" not in config or config.algo.importance.mode != "sequence":
        return
    tokens = config.rollout.max_completion_tokens
    weight = importance.mean_sequence_weight(
        tokens, spread=_SEQUENCE_SPREAD, cap=config.algo.importance.cap
    )
    if weight < 0.9:
        yield (
            "algo.importance.mode='sequence' multiplies the ratios of all tokens of a "
            f"completion: where each is off by {_SEQUENCE_SPREAD:.0%}, the weight of "
            f"rollout.max_completion_tokens={tokens} tokens is {weight:.2g} in the "
            "mean, and the gradient shrinks with it. With 'token' and 'icepop' the "
            "length does not matter."
        )


# Standard deviation of a token's log-ratio between sampler and learner, in nats, for
# which the weights of sequences are judged; bfloat16 and adaptive temperature reach it.
_SEQUENCE_SPREAD = 0.05


def check_sft(config: ConfigDict, *, num_devices: int) -> resolution.Resolved:
    """`check` for the config of a supervised run."""
    check_alone(config, defaults.default_sft())
    stages.bind("loss", supervised.LOSSES, config.loss.to_dict())
    shards = _check_mesh(config, num_devices)
    resolved = resolution.resolve(config)
    c = resolved.config
    problems, need = _collect()
    _check_rows(
        c.learner, c.max_prompt_tokens + c.max_completion_tokens, shards, problems
    )
    need(
        c.learner.batch_rows % shards == 0,
        f"learner.batch_rows={c.learner.batch_rows} must be a multiple of "
        f"mesh.data × mesh.fsdp = {shards}; raise it, or shrink the mesh.",
    )
    need(
        bool(c.model.path) != bool(c.model.init),
        f"model.path={c.model.path!r} and model.init={dict(c.model.init)}: give "
        "exactly one, a checkpoint to start from or the config.json of a new model.",
    )
    _check_schedule(c, problems)
    if problems:
        raise Refused(_message(problems))
    return resolved


def _collect():
    """A list of problems, and a function that adds to it what is not as it must be."""
    problems: list[str] = []

    def need(ok: bool, message: str) -> None:
        if not ok:
            problems.append(message)

    return problems, need


def check_alone(config: ConfigDict, default: ConfigDict | None = None) -> None:
    """What is checked first, since all else builds on it, for configs of both kinds.

    Args:
      config: with all that files and flags set.
      default: of its kind; None for the one that it looks like.

    Raises:
      Refused: a key that `default` lacks or has alone, an unknown task or method, a
        value that is wrong whatever the others are.
    """
    default = default or defaults.default_like(config)
    problems, need = _collect()
    problems += _unknown_keys(config, default)
    if problems:
        raise Refused(_message(problems))
    problems += ranges.check(config, default)
    _check_method(config, need)
    need(
        not config.log.wandb or importlib.util.find_spec("wandb"),
        f"log.wandb={config.log.wandb!r} needs wandb: pip install 'hapo_jax[wandb]', "
        "or leave log.wandb empty.",
    )
    try:
        task = tasks.get(config.task.name)
    except ValueError as error:
        problems.append(str(error))
    else:
        problems += _wrong_options(config, task)
    if problems:
        raise Refused(_message(problems))


def _check_mesh(config: ConfigDict, num_devices: int) -> int:
    """Sizes of the mesh, against each other and the devices.

    Returns:
      The devices that rows of a batch are split over.

    Raises:
      Refused: they do not fit.
    """
    sizes = {axis: config.mesh[axis] for axis in ("data", "fsdp", "tensor")}
    fixed = math.prod(size for size in sizes.values() if size > 0)
    problems, need = _collect()
    need(
        list(sizes.values()).count(-1) <= 1,
        f"mesh={sizes}: at most one may be -1.",
    )
    need(
        num_devices % fixed == 0 if -1 in sizes.values() else num_devices == fixed,
        f"mesh={sizes} does not fit {num_devices} devices; set one size to -1, or "
        "mesh.cpu_devices to their product on a CPU.",
    )
    if problems:
        raise Refused(_message(problems))
    rest = num_devices // fixed
    return math.prod(rest if sizes[a] == -1 else sizes[a] for a in ("data", "fsdp"))


def _check_method(config: ConfigDict, need) -> None:
    """A label stands for settings; without them it would be a lie, and without what
    its paper leaves open it is none."""
    method, of = dotted.get(config, "method"), dotted.get(config, "settings_of")
    if method is None and of is None:  # a supervised run
        return
    need(
        method in methods.METHODS,
        f"method={method!r} is unknown"
        f"{dotted.nearest(str(method), methods.METHODS)}; there are "
        f"{', '.join(methods.METHODS)}.",
    )
    need(
        method == of or method not in methods.METHODS,
        f"method={method!r} is a label, and the settings are those of {of!r}; choose "
        f"the method by the file's argument, --config=FILE:method={method}, or in "
        f"Python by config.apply_method(c, {method!r}).",
    )
    row = methods.METHODS.get(method)
    missing = [
        key for key in (row.given if row else ()) if dotted.get(config, key) is None
    ]
    need(
        not missing,
        f"method={method!r} needs what its source does not fix: give "
        f"{', '.join(missing)}. Open are: {row and row.open}.",
    )


def _wrong_options(config: ConfigDict, task: Any) -> Iterator[str]:
    """Messages about options of a task that its functions do not know, lack, or that
    are not of their type or range."""
    reads = "problems" if "rollout" in config else "demonstrations"
    functions = {"task.train": reads, "task.test": reads}
    # Without a method that imitates they are not read, and a config of one task may be
    # given another that has none.
    shown = dotted.get(config, "task.demonstrations")
    shown = shown and hasattr(task, "demonstrations")
    if shown or dotted.get(config, "algo.demonstrations.share"):
        functions["task.demonstrations"] = "demonstrations"
    if reads == "demonstrations" and not config.model.path:
        functions["task.words"] = "words"
    for section, name in functions.items():
        options = dotted.get(config, section)
        if not isinstance(options, ConfigDict):
            continue  # `ranges.check` says so
        function = getattr(task, name, None)
        if function is None:
            yield (
                f"task.name={config.task.name!r} has no {name}; choose a task that "
                "has, see hapo_jax/tasks/."
            )
            return
        known = options_of(function)
        if any(p.kind is p.VAR_KEYWORD for p in known.values()):
            known |= options_of(task.problems)
        names = [n for n, p in known.items() if p.kind is not p.VAR_KEYWORD]
        for key, value in options.items():
            if key not in names:
                yield (
                    f"{section}.{key} is no option of task.name={config.task.name!r}"
                    f"{dotted.nearest(key, names)}; it takes {', '.join(names)}."
                )
            elif rule := ranges.option(key, value, known[key].annotation):
                yield f"{section}.{key}={value!r} {rule}."
        for key in names:
            if known[key].default is inspect.Parameter.empty and key not in options:
                yield (
                    f"{section}.{key} is missing; task.name={config.task.name!r} "
                    "needs it."
                )


def options_of(function: Callable | None) -> dict[str, inspect.Parameter]:
    """A task's options by name; none of a function that it does not have."""
    if function is None:
        return {}
    return dict(inspect.signature(function, eval_str=True).parameters)


def _check_schedule(c: ConfigDict, problems: list[str]) -> None:
    """The learning rate must not be 0 for the rest of a run; `c` is resolved."""
    learner = c.learner
    end = learner.warmup_steps + learner.decay_steps
    if learner.schedule == "constant":
        if learner.decay_steps:
            problems.append(
                f"learner.decay_steps={learner.decay_steps} is of a schedule that "
                "decays, and learner.schedule='constant'; set it to 'cosine' or "
                "'linear', or learner.decay_steps to 0."
            )
    elif end < c.num_steps and not learner.final_share:
        problems.append(
            f"learner.warmup_steps + learner.decay_steps = {end} end before "
            f"num_steps={c.num_steps}, and the learning rate would be 0 from there on; "
            "set learner.decay_steps=0 (until the end of the run), or a rate to go on "
            "with by learner.final_share."
        )


def _check_rows(
    learner: ConfigDict, longest: int, shards: int, problems: list[str]
) -> None:
    """Widths and numbers of packed rows; `longest` is in tokens, prompt included."""
    if 0 < learner.row_tokens < longest:
        problems.append(
            f"learner.row_tokens={learner.row_tokens} must hold the longest sequence, "
            f"max_prompt_tokens + max_completion_tokens = {longest}; raise it, or set "
            "it to 0 for just that."
        )
    if learner.micro_rows % shards:
        problems.append(
            f"learner.micro_rows={learner.micro_rows} must be a multiple of "
            f"mesh.data × mesh.fsdp = {shards}; raise it, set it to 0, or shrink the "
            "mesh."
        )
    if learner.share_prompts == "on" and not learner.packing:
        problems.append(
            "learner.share_prompts='on' puts several sequences in a row and needs "
            "learner.packing=True; change one of them."
        )


def check_model(config: ConfigDict, model: ModelConfig, vocab_size: int) -> None:
    """Checks lengths and vocabulary against the model.

    Args:
      config: resolved.
      model: of the checkpoint.
      vocab_size: ids that the tokenizer knows.

    Raises:
      Refused: names every conflict.
    """
    lengths = config.get("rollout", config)  # an SFT config has them at the top
    total = lengths.max_prompt_tokens + lengths.max_completion_tokens
    problems = []
    if total > model.max_positions:
        problems.append(
            f"max_prompt_tokens + max_completion_tokens = {total} "
            f"exceeds the model's max_position_embeddings={model.max_positions}; "
            "shorten one, or extend the positions by rope_scaling in the checkpoint's "
            "config.json, see docs/models.md."
        )
    if vocab_size > model.vocab_size:
        problems.append(
            f"the tokenizer knows {vocab_size} ids and the model only "
            f"{model.vocab_size}; model.path={config.model.path!r} mixes two models."
        )
    top_k = dotted.get(config, "rollout.top_k") or 0
    if top_k > model.vocab_size:
        problems.append(
            f"rollout.top_k={top_k} exceeds the model's vocabulary of "
            f"{model.vocab_size} tokens; lower it, or set it to 0 for all of them."
        )
    if problems:
        raise Refused(_message(problems))


def check_model_path(path: str) -> None:
    """Checks that `model.path` is a folder with a model in it."""
    if not path:
        raise Refused(
            "model.path is empty; give the folder of a Hugging Face checkpoint, "
            "for example --config.model.path=/models/Qwen2.5-Math-1.5B."
        )
    try:
        folder.check(path)
    except Refused as error:
        raise Refused(f"model.path: {error}") from None


def _unknown_keys(config: ConfigDict, default: ConfigDict) -> list[str]:
    """A message for each key that an experiment file sets and nobody reads, and for
    each that it lacks."""
    known, present = list(dotted.keys(default)), set(dotted.keys(config))
    unknown = [
        f"{key} is no setting{dotted.nearest(key, known)}; see "
        "hapo_jax/config/defaults.py."
        for key in dotted.keys(config)
        if key not in known
    ]
    return unknown + [
        f"{key} is missing; start from config.default()."
        for key in known
        if key not in present
    ]


def _message(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return "the config has these conflicts:\n  - " + "\n  - ".join(problems)
