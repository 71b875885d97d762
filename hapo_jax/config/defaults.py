"""Every setting with its default, its unit, and the methods as sets of settings.

An experiment file in `configs/` starts from `default()`, changes what it needs, applies
a method and returns the config. `arguments.py` then sets what the command line says,
`resolve` fills in what follows from other settings, and `check.py` refuses what cannot
work.
"""

import ast
import copy
import difflib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from hapo_jax.algo import settings
from hapo_jax.algo.methods import METHODS
from hapo_jax.system.errors import Refused


def default() -> ConfigDict:
    """The config that every experiment starts from. `task` is the experiment's own."""
    c = ConfigDict()
    # The label of the run. `apply_method` sets it together with the settings that it
    # stands for, and notes in `settings_of` that it has.
    c.method = "hapo"
    c.settings_of = "hapo"
    c.seed = 0
    c.num_steps = 100  # steps: a rollout and the updates from it. All `_steps` count so

    c.task = ConfigDict()
    c.task.name = ""  # a name of tasks.TASKS
    # Options of the task's `problems`; of files: path, columns, …, see docs/data.md.
    c.task.train = ConfigDict()  # for training …
    c.task.test = ConfigDict()  # … and for evaluation
    c.task.chat_template = "auto"  # auto | chat | plain
    # Variables of the chat template, such as enable_thinking (Qwen3). Prompts that name
    # a day need it as date_string, "26 Jul 2024" or "2024-07-26".
    c.task.template_options = ConfigDict()
    # A system message before each prompt: of `problem` rows, and of rows whose own
    # messages have none. "": none, and what the template itself puts there.
    c.task.system_prompt = ""

    c.data = ConfigDict()
    c.data.on_error = "stop"  # stop | skip (and count) rows of a file that are broken
    # Training problems to leave out: JSON files of ids or flags, joined by commas, each
    # perhaps with the flags that count, as in "flags.json:broken_ids+chinese_ids".
    c.data.exclude_ids = ""

    c.model = ConfigDict()
    c.model.path = ""  # Hugging Face folder: config.json, *.safetensors, tokenizer
    # Fields of a config.json, for hapo-plan where there is no folder.
    c.model.sizes = ConfigDict()
    c.model.dtype = "auto"  # compute: float32 | bfloat16 | auto (float32 on CPU)
    c.model.stop_tokens = ()  # further stop tokens, as strings

    c.mesh = ConfigDict()
    c.mesh.data = -1  # -1: all devices that are left
    c.mesh.fsdp = 1
    c.mesh.tensor = 1
    c.mesh.cpu_devices = 1  # devices to simulate on a CPU, so as to use its cores

    c.rollout = ConfigDict()
    c.rollout.batch_prompts = 32  # groups in a training batch
    c.rollout.round_prompts = 0  # prompts sampled at a time; 0: batch_prompts
    c.rollout.group_size = 8  # completions per prompt, G
    c.rollout.max_prompt_tokens = 256
    c.rollout.overlong_prompts = "drop"  # drop | truncate (on the left)
    c.rollout.max_completion_tokens = 256  # stop token included
    c.rollout.chunk_tokens = 16  # decode steps between looks at what has finished
    c.rollout.slots = 0  # completions that decode together; 0: as many as fit
    # Of a device's memory, for the slots; 0: what training state and weights leave, on
    # a CPU 0.3.
    c.rollout.memory_fraction = 0.0
    c.rollout.share_prompts_from = 256  # prompt tokens from which a group's rows share
    c.rollout.base_temperature = 1.0
    c.rollout.top_k = 0  # 0: off
    c.rollout.top_p = 1.0  # 1: off
    c.rollout.min_p = 0.0  # 0: off
    # What to do about tokens that are cut off by these three where the learner's
    # ratios are of the whole vocabulary (algo.ratio_of='base') and algo.importance
    # does not correct them: they are off. refuse | accept
    c.rollout.off_policy = "refuse"
    # One more completion of each prompt, greedy, whose reward is a baseline (ReMax).
    c.rollout.greedy_baseline = False
    c.rollout.dynamic_sampling = True  # replace groups whose scores are all equal
    c.rollout.max_rounds = 4  # then train on the groups there are

    c.reward = ConfigDict()  # the sum of the parts correctness, format and overlong
    c.reward.correct = 1.0  # correctness of a right completion …
    c.reward.wrong = 0.0  # … and of a wrong one; -1 is DAPO's code
    c.reward.format_weight = 0.0  # for an answer that can be read; 0: off
    # Length of the penalty's slope. 0: overlong_buffer_share of max_completion_tokens,
    # which is off where that is 0 too.
    c.reward.overlong_buffer_tokens = 0
    c.reward.overlong_buffer_share = 0.0
    c.reward.overlong_factor = 1.0  # penalty at max_completion_tokens

    c.grading = ConfigDict()
    c.grading.workers = 0  # processes; 0: one per core that this process may use
    c.grading.timeout_s = 10.0  # wall clock per completion
    c.grading.memory_gib = 4.0  # per process
    c.grading.start_timeout_s = 120.0  # for a process to start and import its grader

    c.algo = ConfigDict(settings.defaults())  # HAPO; see algo/settings.py

    c.learner = ConfigDict()
    c.learner.minibatch_prompts = 16  # groups per optimizer update
    c.learner.passes = 1  # over the batch
    # By a forward pass. False: those that the sampler recorded, which spares the pass;
    # ratios then correct for what sampler and learner round differently, and for the
    # policies of earlier steps that drew groups which were carried over.
    c.learner.recompute_old_logprobs = True
    c.learner.packing = True  # several sequences in a row; False: one, padded
    # A prompt once for its group, where that saves rows: on | off | auto, which is off
    # without packing and for TPUs, whose attention kernel knows sequences in a row and
    # not sequences that branch.
    c.learner.share_prompts = "auto"
    c.learner.row_tokens = 0  # width of a row; 0: longest prompt + completion
    # Rows per gradient accumulation, over all devices; 0: about 1024 tokens per device
    # on a CPU, elsewhere as many as fit, up to 8192.
    c.learner.micro_rows = 0
    # Tokens per device whose logits exist at a time; 0: 128 MiB of them on a CPU,
    # elsewhere 1/32 of the memory, up to 4096 tokens.
    c.learner.chunk_tokens = 0
    # Made again in the backward pass: none | dots (all but weight products) | full |
    # auto, which is dots where that fits.
    c.learner.remat = "auto"
    c.learner.peak_tflops = 0.0  # per device, for perf/mfu; 0: known or measured
    c.learner.learning_rate = 1e-6  # the peak
    # The rate rises over the updates of `warmup_steps`, falls as `schedule` says
    # (constant | cosine | linear) over those of `decay_steps`, and then stays at
    # `final_share` of the peak.
    c.learner.warmup_steps = 10
    c.learner.schedule = "constant"
    c.learner.decay_steps = 0  # 0: until the end of the run
    c.learner.final_share = 0.0
    # adam | optimistic_adam | optimistic_adagrad; see learner/optimizer.py. Adam and
    # optimistic AdaGrad keep two numbers per parameter, optimistic Adam three.
    c.learner.optimizer = "adam"
    c.learner.b1 = 0.9  # of Adam, as b2
    c.learner.b2 = 0.999
    c.learner.eps = 1e-8
    c.learner.weight_decay = 0.1
    c.learner.max_grad_norm = 1.0
    c.learner.max_skipped = 5  # non-finite updates in a row before the run stops

    c.eval = ConfigDict()
    c.eval.every_steps = 50  # 0: only at the end
    c.eval.at_start = True
    c.eval.num_problems = 256  # of the test split; 0: all
    c.eval.k = 8  # completions per problem
    c.eval.temperature = 1.0
    c.eval.top_p = 1.0
    c.eval.greedy = True  # one more, greedy, completion per problem
    # As hapo-eval's --sets, such as "DATA/aime24,DATA/amc23"; "": task.test alone. In
    # training the first is what best checkpoints and curves go by.
    c.eval.sets = ""

    c.checkpoint = ConfigDict()
    c.checkpoint.every_steps = 20
    c.checkpoint.keep_latest = 2
    c.checkpoint.keep_best = 1  # by avg@k; of each protocol that the run evaluates by
    c.checkpoint.export_hf = True  # write <workdir>/hf at the end

    c.log = ConfigDict()
    c.log.record_groups = 1  # groups per record in rollouts/
    c.log.record_every_steps = 10
    # Without any progress, compiling included, after which the process ends with all
    # stacks printed; 0: never.
    c.log.watchdog_s = 3600.0
    return c


def default_sft() -> ConfigDict:
    """The config that every supervised fine-tuning run starts from."""
    full = default()
    c = ConfigDict()
    c.seed = 0
    c.num_steps = 1000  # optimizer updates

    c.task = ConfigDict()
    c.task.name = ""  # a task with `demonstrations`
    c.task.train = ConfigDict()  # options of the task's `demonstrations` …
    c.task.test = ConfigDict()  # … and those of the held-out ones
    c.task.words = ConfigDict()  # options of the task's `words`, if model.path is empty
    c.task.chat_template = "auto"  # auto | chat | plain
    c.task.template_options = ConfigDict()  # variables of the chat template
    c.task.system_prompt = ""  # a system message before each prompt

    c.model = full.model
    c.model.init = ConfigDict()  # config.json of a new model, if model.path is empty

    c.mesh = full.mesh
    # What a token weighs: a name of algo/supervised.py, and its options.
    c.loss = ConfigDict({"name": "uniform"})
    c.max_prompt_tokens = 256  # longer prompts are an error
    c.max_completion_tokens = 256  # end token included; longer ones are an error

    c.learner = full.learner
    for key in ("minibatch_prompts", "passes", "recompute_old_logprobs"):
        del c.learner[key]
    c.learner.batch_rows = 64  # demonstrations per update

    c.eval = ConfigDict()
    c.eval.every_steps = 250  # 0: only at the end

    c.checkpoint = full.checkpoint
    for key in ("keep_best", "export_hf"):  # the end is what counts, and is exported
        del c.checkpoint[key]
    c.checkpoint.every_steps = 250
    c.log = ConfigDict()
    c.log.every_steps = 10
    c.log.watchdog_s = 3600.0  # see above
    return c


# Protocols of papers: settings of the section `eval`.
EVAL_PRESETS = {
    "hapo": dict(temperature=0.5, top_p=0.7, k=8, num_problems=0, greedy=False),
    "dapo": dict(temperature=1.0, top_p=0.7, k=32, num_problems=0, greedy=False),
}


def apply_preset(config: ConfigDict, name: str) -> ConfigDict:
    """Sets `config.eval` to a protocol; returns the config.

    Raises:
      Refused: the protocol is unknown.
    """
    if name not in EVAL_PRESETS:
        raise Refused(
            f"--preset={name!r} is unknown{nearest(name, EVAL_PRESETS)}; there are "
            f"{', '.join(EVAL_PRESETS)}."
        )
    config.eval.update(EVAL_PRESETS[name])
    return config


def apply_method(config: ConfigDict, name: str) -> ConfigDict:
    """Sets what the method sets and leaves the rest; returns the config.

    Raises:
      Refused: the method is unknown.
    """
    if name not in METHODS:
        raise Refused(
            f"method={name!r} is unknown{nearest(name, METHODS)}; "
            f"there are {', '.join(METHODS)}."
        )
    config.method = config.settings_of = name
    for key, value in METHODS[name].settings.items():
        _set(config, key, value)
    return config


def _set(config: ConfigDict, key: str, value: Any) -> None:
    """Sets a key with its section; a dict takes the place of the whole section."""
    section, _, name = key.rpartition(".")
    holder = get(config, section) if section else config
    with holder.unlocked():
        if isinstance(value, dict):
            del holder[name]
            value = ConfigDict(value)
        holder[name] = value


def departures(config: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """Settings of `algo` that are not the method's: key → (the config's, the method's).

    Args:
      config: before `resolve`, so that what follows from other settings is left open.
    """
    own = apply_method(default(), config.method)
    found = {
        key: (_plain(get(config, key)), _plain(get(own, key)))
        for key in keys(own)
        if key.startswith("algo.")
    }
    return {key: pair for key, pair in found.items() if pair[0] != pair[1]}


def _plain(value: Any) -> Any:
    """A section as a dict, which compares by what it holds."""
    return value.to_dict() if isinstance(value, ConfigDict) else value


class Derived(NamedTuple):
    """A setting that was left open and follows from others."""

    key: str
    given: Any
    value: Any
    rule: str  # what it follows from, in words


class _Rule(NamedTuple):
    """How an open setting follows from others."""

    key: str
    open: Any  # the value that leaves it open
    applies: Callable[[ConfigDict], bool]
    value: Callable[[ConfigDict], Any]
    words: str


def _decays(c: ConfigDict) -> bool:
    return c.learner.schedule != "constant"


# Of configs of both kinds; a rule whose key a config lacks is not its own.
_RULES = (
    _Rule(
        "rollout.round_prompts",
        0,
        lambda c: True,
        lambda c: c.rollout.batch_prompts,
        "rollout.batch_prompts",
    ),
    _Rule(
        "reward.overlong_buffer_tokens",
        0,
        lambda c: c.reward.overlong_buffer_share > 0,
        lambda c: round(
            c.reward.overlong_buffer_share * c.rollout.max_completion_tokens
        ),
        "reward.overlong_buffer_share × rollout.max_completion_tokens",
    ),
    _Rule(
        "algo.aggregation.scale_tokens",
        None,
        lambda c: get(c, "algo.aggregation.name") == "seq_mean_token_sum_norm",
        lambda c: c.rollout.max_completion_tokens,
        "rollout.max_completion_tokens",
    ),
    _Rule(
        "learner.decay_steps",
        0,
        _decays,
        lambda c: max(0, c.num_steps - c.learner.warmup_steps),
        "num_steps - learner.warmup_steps",
    ),
)


class Resolved(NamedTuple):
    """A config in which nothing is open, and what of it was derived."""

    config: ConfigDict
    derived: tuple[Derived, ...]


def resolve(config: ConfigDict) -> Resolved:
    """Fills in what was left open, once files and flags have set all they set.

    Returns:
      A locked copy, and what was derived.
    """
    found = []
    resolved = ConfigDict(copy.deepcopy(config.to_dict()))
    for rule in _RULES:
        is_open = get(resolved, rule.key) == rule.open  # None where there is no key
        if is_open and rule.applies(resolved):
            value = rule.value(resolved)
            _set(resolved, rule.key, value)
            found.append(Derived(rule.key, rule.open, value, rule.words))
    return Resolved(resolved.lock(), tuple(found))


# Sections whose keys are options of a task or of a stage, variables of a template, or
# fields of a model's config.json.
OPEN = (
    *(f"algo.{name}" for name in settings.STAGES),
    "loss",
    "task.train",
    "task.test",
    "task.words",
    "task.template_options",
    "model.sizes",
    "model.init",
)


def keys(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """Keys with their sections, as `eval.k`; an open section is one key."""
    for key, value in config.items():
        name = prefix + key
        if isinstance(value, ConfigDict) and name not in OPEN:
            yield from keys(value, f"{name}.")
        else:
            yield name


def get(config: ConfigDict, key: str) -> Any:
    """The value of a key with its section, as `eval.k`; None if there is none."""
    for part in key.split("."):
        if not isinstance(config, ConfigDict) or part not in config:
            return None
        config = config[part]
    return config


def has(config: ConfigDict, key: str) -> bool:
    """Whether the config has this key."""
    section, _, name = key.rpartition(".")
    found = get(config, section) if section else config
    return isinstance(found, ConfigDict) and name in found


def default_like(config: ConfigDict) -> ConfigDict:
    """The defaults of a config's kind."""
    return default() if "rollout" in config else default_sft()


def upgraded(saved: dict, format: int) -> dict:
    """A config from a run's config.json in today's keys and units.

    Args:
      saved: nested dicts, resolved.
      format: see `run_records.FORMAT`.
    """
    if format < 3 and "algo" in saved:
        saved = saved | {"algo": _with_stages(saved["algo"])}
    if format >= 2 or "learner" not in saved:
        return saved
    updates, learner = 1, dict(saved["learner"])
    if "rollout" in saved:
        saved = saved | {"settings_of": saved["method"]}
        per_pass = saved["rollout"]["batch_prompts"] / learner["minibatch_prompts"]
        updates = per_pass * learner["passes"]
    learner["schedule"] = "cosine" if learner["decay_steps"] else "constant"
    for key in ("warmup_steps", "decay_steps"):
        steps = learner[key] / updates
        learner[key] = int(steps) if steps == int(steps) else steps
    return saved | {"learner": learner}


def _with_stages(algo: dict) -> dict:
    """Advantage and aggregation were names, and the scale of one a setting."""
    algo = dict(algo)
    scale = algo.pop("aggregation_scale_tokens", 0)
    algo["advantage"] = {"name": algo["advantage"]}
    aggregation = {"name": algo["aggregation"]}
    if aggregation["name"] == "seq_mean_token_sum_norm":
        aggregation["scale_tokens"] = scale
    return algo | {"aggregation": aggregation}


def from_saved(saved: dict) -> ConfigDict:
    """The config of a run from its config.json; what that lacks has its default.

    Raises:
      Refused: it is not the config of a run of hapo-train.
    """
    if "method" not in saved:
        raise Refused(
            "the folder's config.json is not of hapo-train; give --config, and for a "
            "supervised run its hf/ as --checkpoint."
        )
    config = default()
    config.update(_tuples(saved))
    return config.lock()


def _tuples(value):
    """JSON's lists as the tuples that they were."""
    if isinstance(value, dict):
        return {key: _tuples(v) for key, v in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def parse_arg(arg: str | None, **defaults):
    """Reads the argument string of a config: `configs/x.py:method=dapo,seed=3,tiny`.

    Args:
      arg: comma-separated `key=value`, or `key` alone for True; None is empty.
      **defaults: the keys that the config knows, with their defaults, whose types the
        values take.

    Returns:
      ConfigDict of the defaults with the given values.

    Raises:
      Refused: an unknown key, or a value that is not of the default's type.
    """
    values = dict(defaults)
    for part in filter(None, (arg or "").split(",")):
        key, _, text = part.partition("=")
        if key not in defaults:
            raise Refused(
                f"config argument {key!r} is unknown"
                f"{nearest(key, defaults)}; this config takes "
                f"{', '.join(defaults) or 'none'}."
            )
        said = f"config argument {key}={text!r}"
        if isinstance(defaults[key], bool) and not text:
            text = "true"
        values[key] = like(said, text, defaults[key])
    return ConfigDict(values)


def like(said: str, text: str, like: Any):
    """A text as a value of the type of `like`."""
    if isinstance(like, bool):
        if text.lower() not in ("true", "false", "1", "0"):
            raise Refused(f"{said} must be true or false.")
        return text.lower() in ("true", "1")
    if isinstance(like, tuple | list):
        value = literal(text)
        return type(like)(value if isinstance(value, tuple | list) else (text,))
    if like is None:
        return literal(text)
    try:
        return type(like)(text)
    except ValueError:
        raise Refused(f"{said} must be of type {type(like).__name__}.") from None


def literal(text: str):
    """A Python literal, true and false in any case, or the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def nearest(name: str, known) -> str:
    """` (did you mean …?)` for a misspelt name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
