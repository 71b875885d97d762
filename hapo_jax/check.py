"""Refuses a config that cannot work, before anything is compiled or written."""

import math
import pathlib
from collections.abc import Iterator

from ml_collections import ConfigDict

from hapo_jax import config as config_lib
from hapo_jax import tasks
from hapo_jax.model import transformer
from hapo_jax.model.config import ModelConfig
from hapo_jax.tasks import problems as problems_lib


def check(config: ConfigDict, *, num_devices: int) -> None:
    """Checks what can be known without the model.

    The settings of `config.algo` are checked by `objective.make_objective`, mesh sizes
    against the model by `sharding.param_shardings`.

    Args:
      config: resolved.
      num_devices: that the mesh will span.

    Raises:
      ValueError: names every conflict: key, value, rule and remedy.
    """
    c, r, learner = config, config.rollout, config.learner
    shards = _check_alone(c, config_lib.default(), num_devices)
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
    need(
        r.group_size > 1 or c.algo.advantage.startswith("reinforce_pp"),
        f"rollout.group_size={r.group_size} leaves algo.advantage={c.algo.advantage!r} "
        "nothing to compare with; use at least 2.",
    )
    need(
        c.reward.overlong_buffer_tokens <= r.max_completion_tokens,
        f"reward.overlong_buffer_tokens={c.reward.overlong_buffer_tokens} must not "
        f"exceed rollout.max_completion_tokens={r.max_completion_tokens}.",
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
    for key in ("rollout.top_p", "eval.top_p"):
        need(0 < _get(c, key) <= 1, f"{key}={_get(c, key)} must be in (0, 1].")
    need(
        0 < r.memory_fraction <= 1,
        f"rollout.memory_fraction={r.memory_fraction} must be in (0, 1].",
    )
    need(0 <= r.min_p < 1, f"rollout.min_p={r.min_p} must be in [0, 1).")
    if problems:
        raise ValueError(_message(problems))


def check_sft(config: ConfigDict, *, num_devices: int) -> None:
    """`check` for the config of a supervised run."""
    c = config
    shards = _check_alone(c, config_lib.default_sft(), num_devices)
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
    if problems:
        raise ValueError(_message(problems))


def _collect():
    """A list of problems, and a function that adds to it what is not as it must be."""
    problems: list[str] = []

    def need(ok: bool, message: str) -> None:
        if not ok:
            problems.append(message)

    return problems, need


def _check_alone(config: ConfigDict, default: ConfigDict, num_devices: int) -> int:
    """What is checked first, since all else builds on it, for configs of both kinds.

    Returns:
      The devices that rows of a batch are split over.

    Raises:
      ValueError: a key that `default` lacks, an unknown task, a value that is wrong
        whatever the others are, a mesh that does not fit.
    """
    problems, need = _collect()
    problems += _unknown_keys(config, default)
    need(config.task.name in tasks.TASKS, _unknown_task(config.task.name))
    _check_values(config, need)
    _check_mesh(config, num_devices, need)
    if problems:
        raise ValueError(_message(problems))
    return _row_shards(config, num_devices)


def _check_rows(
    learner: ConfigDict, longest: int, shards: int, problems: list[str]
) -> None:
    """Widths and numbers of packed rows; `longest` is in tokens, prompt included."""
    if learner.remat not in transformer.REMATS:
        hint = config_lib.nearest(learner.remat, transformer.REMATS)
        problems.append(
            f"learner.remat={learner.remat!r} must be one of "
            f"{', '.join(transformer.REMATS)}{hint}."
        )
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
      ValueError: names every conflict.
    """
    lengths = config.get("rollout", config)  # an SFT config has them at the top
    total = lengths.max_prompt_tokens + lengths.max_completion_tokens
    problems = []
    if total > model.max_positions:
        problems.append(
            f"max_prompt_tokens + max_completion_tokens = {total} "
            f"exceeds the model's max_position_embeddings={model.max_positions}; "
            "shorten one, or extend the positions in the checkpoint's config.json."
        )
    if vocab_size > model.vocab_size:
        problems.append(
            f"the tokenizer knows {vocab_size} ids and the model only "
            f"{model.vocab_size}; model.path={config.model.path!r} mixes two models."
        )
    if problems:
        raise ValueError(_message(problems))


def check_model_path(path: str) -> None:
    """Checks that `model.path` is a folder with a model in it."""
    if not path:
        raise ValueError(
            "model.path is empty; give the folder of a Hugging Face checkpoint, "
            "for example --config.model.path=/models/Qwen2.5-Math-1.5B."
        )
    if not (pathlib.Path(path) / "config.json").is_file():
        raise ValueError(
            f"model.path={path!r} holds no config.json; it must be the folder of a "
            "Hugging Face checkpoint (download one, or write one with hapo-sft)."
        )


# Of configs of both kinds; one that lacks a key has no use for it.
_CHOICES = {
    "model.dtype": ("auto", "float32", "bfloat16"),
    "task.chat_template": ("auto", "chat", "plain"),
    "learner.share_prompts": ("auto", "on", "off"),
    "rollout.overlong_prompts": ("drop", "truncate"),
    "data.on_error": problems_lib.ON_ERROR,
}
_POSITIVE = (
    "num_steps",
    "mesh.cpu_devices",
    "max_prompt_tokens",
    "max_completion_tokens",
    "rollout.batch_prompts",
    "rollout.round_prompts",
    "rollout.group_size",
    "rollout.max_prompt_tokens",
    "rollout.max_completion_tokens",
    "rollout.chunk_tokens",
    "rollout.base_temperature",
    "rollout.max_rounds",
    "grading.timeout_s",
    "grading.memory_gib",
    "grading.start_timeout_s",
    "learner.batch_rows",
    "learner.minibatch_prompts",
    "learner.passes",
    "learner.learning_rate",
    "learner.max_grad_norm",
    "learner.max_skipped",
    "eval.k",
    "checkpoint.every_steps",
    "checkpoint.keep_latest",
    "log.every_steps",
    "log.record_every_steps",
)
_NOT_NEGATIVE = (
    "grading.workers",
    "rollout.top_k",
    "rollout.slots",
    "rollout.share_prompts_from",
    "reward.format_weight",
    "reward.overlong_buffer_tokens",
    "reward.overlong_factor",
    "learner.micro_rows",
    "learner.row_tokens",
    "learner.chunk_tokens",
    "learner.peak_tflops",
    "learner.warmup_steps",
    "learner.decay_steps",
    "learner.weight_decay",
    "eval.every_steps",
    "eval.num_problems",
    "eval.temperature",
    "checkpoint.keep_best",
    "log.record_groups",
)


def _check_values(config: ConfigDict, need) -> None:
    """Settings that are wrong whatever the others are."""
    for key, choices in _CHOICES.items():
        value = _get(config, key)
        need(
            value is None or value in choices,
            f"{key}={value!r} must be one of {', '.join(choices)}"
            f"{config_lib.nearest(str(value), choices)}.",
        )
    for key in _POSITIVE:
        value = _get(config, key)
        need(value is None or value > 0, f"{key}={value} must be positive.")
    for key in _NOT_NEGATIVE:
        value = _get(config, key)
        need(value is None or value >= 0, f"{key}={value} must not be negative.")


# Sections whose keys are those of a task, a template, or a model's config.json.
_OPEN = (
    "task.train",
    "task.test",
    "task.words",
    "task.template_options",
    "model.sizes",
    "model.init",
)


def _unknown_keys(config: ConfigDict, default: ConfigDict) -> list[str]:
    """A message for each key that an experiment file sets and nobody reads."""
    known = set(_keys(default))
    return [
        f"{key} is no setting{config_lib.nearest(key, known)}; see hapo_jax/config.py."
        for key in _keys(config)
        if key not in known
    ]


def _keys(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """Keys with their sections, as `eval.k`; an open section is one key."""
    for key, value in config.items():
        name = prefix + key
        if isinstance(value, ConfigDict) and name not in _OPEN:
            yield from _keys(value, f"{name}.")
        else:
            yield name


def _unknown_task(name: str) -> str:
    hint = config_lib.nearest(name, tasks.TASKS)
    return f"task.name={name!r} is unknown{hint}; there are {', '.join(tasks.TASKS)}."


def _check_mesh(config: ConfigDict, num_devices: int, need) -> None:
    """Sizes of the mesh, against each other and the devices."""
    sizes, fixed = _mesh_sizes(config)
    need(
        all(size >= 1 or size == -1 for size in sizes.values())
        and list(sizes.values()).count(-1) <= 1,
        f"mesh={sizes}: every size must be positive, and at most one may be -1.",
    )
    need(
        num_devices % fixed == 0 if -1 in sizes.values() else num_devices == fixed,
        f"mesh={sizes} does not fit {num_devices} devices; set one size to -1, or "
        "mesh.cpu_devices to their product on a CPU.",
    )


def _row_shards(config: ConfigDict, num_devices: int) -> int:
    """Devices that rows of a batch are split over: data × fsdp, -1 resolved."""
    sizes, fixed = _mesh_sizes(config)
    rest = num_devices // fixed
    return math.prod(rest if sizes[a] == -1 else sizes[a] for a in ("data", "fsdp"))


def _mesh_sizes(config: ConfigDict) -> tuple[dict[str, int], int]:
    """The sizes, and the product of those that are given."""
    sizes = {axis: config.mesh[axis] for axis in ("data", "fsdp", "tensor")}
    return sizes, math.prod(size for size in sizes.values() if size > 0)


def _get(config: ConfigDict, key: str):
    """The value of a key, None if the config has no such key."""
    for part in key.split("."):
        if part not in config:
            return None
        config = config[part]
    return config


def _message(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return "the config has these conflicts:\n  - " + "\n  - ".join(problems)
