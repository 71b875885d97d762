"""What each setting may be: its choices, or its range. `check.py` refuses the rest.

Those of `algo` are beside its settings, and those of a task's options below.
"""

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from hapo_jax.algo.ranges import Range
from hapo_jax.config import dotted
from hapo_jax.learner import optimizer
from hapo_jax.model import tokenizer, transformer
from hapo_jax.rollout import prompts
from hapo_jax.tasks import logic, problems

# Of configs of both kinds; one that lacks a key has no use for it.
CHOICES = {
    "model.dtype": ("auto", "float32", "bfloat16"),
    "task.chat_template": tokenizer.CHAT_MODES,
    "learner.share_prompts": ("auto", "on", "off"),
    "rollout.overlong_prompts": ("drop", "truncate"),
    "rollout.off_policy": ("refuse", "accept"),
    "data.on_error": problems.ON_ERROR,
    "data.order": prompts.ORDERS,
    "learner.remat": ("auto", *transformer.REMATS),
    "learner.schedule": optimizer.SCHEDULES,
    "learner.optimizer": optimizer.OPTIMIZERS,
}
_MOST_STEPS = 10**9
_TOKENS = Range(1, 2**24, whole=True)
_EVERY = Range(1, _MOST_STEPS, whole=True)
_EVERY_OR_OFF = Range(0, _MOST_STEPS, whole=True)
_SHARE = Range(0, 1)
_TOP_P = Range(0, 1, above=True)
_SECONDS = Range(0.1, 86_400)
_ROWS = Range(1, 10**6, whole=True)
_AXIS = Range(1, 10**6, whole=True, also=-1)  # -1: what is left
_BETA = Range(0, 1, below=True)
# Of the numbers of both kinds of configs, those of `algo` excepted (algo/settings.py).
RANGES = {
    "seed": Range(0, 2**32 - 1, whole=True),  # what random keys are made of
    "num_steps": _EVERY,
    "max_sampled_tokens": Range(0, 10**15, whole=True),
    "mesh.data": _AXIS,
    "mesh.fsdp": _AXIS,
    "mesh.tensor": _AXIS,
    "mesh.cpu_devices": Range(1, 1024, whole=True),
    "max_prompt_tokens": _TOKENS,
    "max_completion_tokens": _TOKENS,
    "data.curriculum.samples": Range(0, 10**6, whole=True),
    "data.curriculum.stages": Range(0, 10**9, whole=True),
    "rollout.batch_prompts": _ROWS,
    "rollout.round_prompts": Range(0, 10**6, whole=True),
    "rollout.group_size": _ROWS,
    "rollout.max_prompt_tokens": _TOKENS,
    "rollout.max_completion_tokens": _TOKENS,
    "rollout.chunk_tokens": Range(1, 2**16, whole=True),
    "rollout.slots": Range(0, 10**6, whole=True),
    "rollout.memory_fraction": Range(0, 1),
    "rollout.share_prompts_from": Range(0, 2**24, whole=True),
    "rollout.base_temperature": Range(0.01, 100),
    "rollout.top_k": Range(0, 2**24, whole=True),
    "rollout.top_p": _TOP_P,
    "rollout.min_p": Range(0, 1, below=True),
    "rollout.second.share": _SHARE,
    "rollout.second.entropy_target": Range(0, 1_000),
    "rollout.second.high_temperature": Range(0.01, 100),
    "rollout.second.low_temperature": Range(0.01, 100),
    "rollout.second.most_rows": _ROWS,
    "rollout.second.least_advantage": Range(0, 1_000),
    "rollout.correction.share": _SHARE,
    "rollout.correction.extend": _SHARE,
    "rollout.correction.new_tokens": _TOKENS,
    "rollout.correction.below_prompt_tokens": _TOKENS,
    "rollout.max_rounds": Range(1, 10**6, whole=True),
    "reward.correct": Range(-1_000, 1_000),
    "reward.wrong": Range(-1_000, 1_000),
    "reward.format_weight": Range(0, 1_000),
    "reward.overlong_buffer_tokens": Range(0, 2**24, whole=True),
    "reward.overlong_buffer_share": Range(0, 1, below=True),
    "reward.overlong_factor": Range(0, 1_000),
    "grading.workers": Range(0, 4096, whole=True),
    "grading.timeout_s": _SECONDS,
    "grading.memory_gib": Range(0.125, 4096),  # Python and a grader take 0.1
    "grading.start_timeout_s": Range(1, 86_400),
    "learner.batch_rows": _ROWS,
    "learner.minibatch_prompts": _ROWS,
    "learner.passes": Range(0, 1_000, whole=True),
    "learner.row_tokens": Range(0, 2**24, whole=True),
    "learner.micro_rows": Range(0, 10**6, whole=True),
    "learner.chunk_tokens": Range(0, 2**24, whole=True),
    "learner.peak_tflops": Range(0, 1e6),
    "learner.learning_rate": Range(0, 1, above=True),
    "learner.warmup_steps": Range(0, _MOST_STEPS, whole=True),
    "learner.decay_steps": Range(0, _MOST_STEPS, whole=True),
    "learner.final_share": _SHARE,
    "learner.b1": _BETA,
    "learner.b2": _BETA,
    "learner.eps": Range(0, 1, above=True),
    "learner.weight_decay": Range(0, 100),
    "learner.max_grad_norm": Range(0, 1e9, above=True),  # a large one never acts
    "learner.max_skipped": Range(1, 10**6, whole=True),
    "eval.every_steps": _EVERY_OR_OFF,
    "eval.num_problems": Range(0, 10**9, whole=True),
    "eval.k": Range(1, 10**5, whole=True),
    "eval.temperature": Range(0.01, 100, also=0),  # 0: greedy
    "eval.top_p": _TOP_P,
    "checkpoint.every_steps": _EVERY,
    "checkpoint.keep_latest": Range(1, 10**6, whole=True),
    "checkpoint.keep_best": Range(0, 10**6, whole=True),
    "log.every_steps": _EVERY,
    "log.record_groups": Range(0, 10**6, whole=True, word="all"),
    "log.record_every_steps": _EVERY,
    "log.doctor_every_steps": _EVERY,
    "log.record_gib": Range(0, 1e6, above=True),
    "log.watchdog_s": Range(10, 1e7, also=0),
}

# Of tasks' options, by their name; an option of another name is any finite number.
_FINITE = Range(-1e300, 1e300)
_SIZE = Range(0, 10**7, whole=True)  # 0 is all of them where a task says so
OPTIONS = {
    "size": _SIZE,
    "seed": RANGES["seed"],
    "numbers": Range(2, 100, whole=True),
    "max_number": Range(1, 10**6, whole=True),
    "operations": Range(1, 99, whole=True),
    "num_problems": Range(1, 10**7, whole=True),
    "give_up": _SHARE,
    "forced": _SHARE,
    "columns": Range(4, 10**4, whole=True),
    "exits": Range(0, 10**4, whole=True),
    "luck": _SHARE,
    "skill": _SHARE,
    "min_people": Range(logic.MIN_PEOPLE, logic.MAX_PEOPLE, whole=True),
    "max_people": Range(logic.MIN_PEOPLE, logic.MAX_PEOPLE, whole=True),
    "max_attempts": Range(1, 10**6, whole=True),
    "target": Range(-(10**9), 10**9, whole=True),
    "test_s": _SECONDS,
    "total_s": _SECONDS,
    "memory_mib": Range(64, 2**22, whole=True),  # Python itself needs 40
}


def option(name: str, value: Any, annotation: Any) -> str:
    """What an option of a task must be, if its value is not; an empty string else.

    Args:
      name, value: of the option.
      annotation: the type that the task's function gives it.
    """
    if annotation in (int, float):
        whole = dataclasses.replace(_FINITE, whole=True) if annotation is int else None
        numbers = OPTIONS.get(name, whole or _FINITE)
        return "" if numbers.holds(value) else f"must be {numbers}"
    if annotation is inspect.Parameter.empty or isinstance(value, annotation):
        return ""
    return f"must be of type {getattr(annotation, '__name__', annotation)}"


def check(config: ConfigDict, default: ConfigDict) -> Iterator[str]:
    """A message for each value that is wrong whatever the others are.

    Args:
      config: any.
      default: of its kind; each of its keys has a choice, a range or a type.
    """
    for key in dotted.keys(default):
        if not dotted.has(config, key):
            continue
        value, like = dotted.get(config, key), dotted.get(default, key)
        if key in CHOICES:
            choices = CHOICES[key]
            if value not in choices:
                hint = dotted.nearest(str(value), choices)
                yield f"{key}={value!r} must be one of {', '.join(choices)}{hint}."
        elif key in RANGES:
            if not RANGES[key].holds(value):
                yield f"{key}={value!r} must be {RANGES[key]}."
        elif key in dotted.OPEN:
            if not isinstance(value, ConfigDict):
                yield f"{key}={value!r} must be a section, as in dict(size=100)."
        elif not key.startswith("algo.") and not isinstance(value, type(like)):
            yield f"{key}={value!r} must be of type {type(like).__name__}."
