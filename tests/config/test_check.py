"""Every conflict of a config is refused by name, before anything is compiled."""

import importlib.util
import pathlib

import pytest

from hapo_jax import sft, train
from hapo_jax.algo import method, methods, not_offered, settings
from hapo_jax.config import arguments, check, presets, resolution
from hapo_jax.system.errors import Refused

ROOT = pathlib.Path(__file__).parents[2]


def load(name, arg=None):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


EXPERIMENTS = ["countdown", "dapo_math", "forks", "gsm8k", "logic", "mbpp"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_set_what_is_read(name):
    check.check(load(name), num_devices=8)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("rollout.batch_prompt", "did you mean 'rollout.batch_prompts'"),
        ("model.remat", "model.remat is no setting"),
    ],
)
def test_a_key_that_nobody_reads_is_refused(key, words):
    config = load("countdown")
    with config.unlocked():
        config.update_from_flattened_dict({key: 3})
    with pytest.raises(ValueError, match=words):
        check.check(config, num_devices=8)


def refuse(program, config, workdir, changes):
    """The message with which a program refuses a config."""
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError) as error:
        program(config, str(workdir))
    assert not workdir.exists()
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learner.micro_rows": 7}, ["learner.micro_rows=7", "multiple of", "= 8"]),
        (
            {"algo.critic.name": "value_head", "learner.recompute_old_logprobs": False},
            ["learner.recompute_old_logprobs=False", "reads old_values"],
        ),
        (
            {"algo.demonstrations.share": 0.2, "rollout.second.share": 0.2},
            ["algo.demonstrations.share=0.2", "rollout.second.share=0.2", "one of"],
        ),
        (
            {"algo.demonstrations.share": 0.2, "task.demonstrations.give_up": 2.0},
            ["task.demonstrations.give_up=2.0"],
        ),
        (
            {"algo.demonstrations.share": 0.2, "task.demonstrations.max_attempts": 99},
            ["of task.demonstrations has", "max_completion_tokens=96"],
        ),
        ({"learner.row_tokens": 64}, ["learner.row_tokens=64", "103"]),
        ({"learner.remat": "ful"}, ["learner.remat='ful'", "did you mean 'full'"]),
        (
            {"learner.packing": False, "learner.share_prompts": "on"},
            ["learner.share_prompts='on'", "learner.packing"],
        ),
        ({"rollout.batch_prompts": 33}, ["rollout.batch_prompts=33", "multiple"]),
        ({"rollout.slots": 33}, ["rollout.slots=33", "multiple of 8"]),
        ({"rollout.memory_fraction": 1e-9}, ["slots fit", "GiB"]),
        ({"rollout.group_size": 1}, ["rollout.group_size=1", "at least 2"]),
        # The token-level average takes the place of the base advantage.
        (
            {"rollout.group_size": 1, "algo.advantage.name": "reinforce_pp"},
            ["token_group.strength=1.0", "advantage 0"],
        ),
        (
            {
                "rollout.group_size": 1,
                "algo.advantage.name": "reinforce_pp_baseline",
                "algo.token_group.strength": 0.0,
            },
            ["reinforce_pp_baseline", "advantage 0"],
        ),
        ({"rollout.max_rounds": 1, "rollout.round_prompts": 8}, ["never fill"]),
        ({"rollout.top_p": 0.0}, ["rollout.top_p=0.0"]),
        ({"rollout.min_p": 1.0}, ["rollout.min_p=1.0"]),
        ({"rollout.overlong_prompts": "cut"}, ["overlong_prompts='cut'", "truncate"]),
        ({"rollout.max_completion_tokens": 9999}, ["10006", "max_position_embeddings"]),
        ({"reward.overlong_buffer_tokens": 97}, ["overlong_buffer_tokens=97", "96"]),
        ({"reward.format_weight": -1.0}, ["reward.format_weight=-1.0"]),
        ({"data.on_error": "ignore"}, ["data.on_error='ignore'", "stop, skip"]),
        ({"data.on_error": "skip"}, ["data.on_error='skip'", "countdown"]),
        ({"reward.wrong": 2.0}, ["reward.correct=1.0", "reward.wrong=2.0"]),
        ({"algo.clip.low": -1.0}, ["algo.clip.low", "-1.0"]),
        ({"algo.advantage.name": "gpro"}, ["algo.advantage.name", "gpro"]),
        ({"model.path": ""}, ["model.path", "Hugging Face"]),
        ({"model.path": "nowhere"}, ["model.path", "no folder 'nowhere'"]),
        ({"model.dtype": "float16"}, ["model.dtype='float16'", "bfloat16"]),
        ({"task.name": "contdown"}, ["contdown", "did you mean 'countdown'"]),
        ({"task.chat_template": "chatt"}, ["chatt", "did you mean 'chat'"]),
        ({"task.train.operations": 3}, ["task.operations=3", "numbers - 1"]),
        ({"task.train.operators": "+/"}, ["task.operators='+/'"]),
        ({"mesh.tensor": 3}, ["'tensor': 3", "8 devices"]),
        ({"mesh.data": -1, "mesh.fsdp": -1}, ["at most one may be -1"]),
        ({"mesh.data": 1, "mesh.tensor": 8}, ["kv_heads=2", "mesh.tensor=8"]),
        ({"num_steps": 0}, ["num_steps=0", "[1, "]),
        ({"grading.workers": -1}, ["grading.workers=-1", "[0, "]),
        ({"method": "dapo"}, ["method='dapo'", "those of 'hapo'", ":method=dapo"]),
        ({"method": "dappo"}, ["method='dappo'", "did you mean 'dapo'"]),
        ({"rollout.top_p": 0.8}, ["rollout.top_p=0.8", "importance", "off_policy"]),
        ({"rollout.top_k": 5, "rollout.min_p": 0.1}, ["top_k=5, rollout.min_p=0.1"]),
        (
            {"rollout.top_k": 10**6, "rollout.off_policy": "accept"},
            ["rollout.top_k=1000000", "vocabulary of"],
        ),
        (
            {"rollout.batch_prompts": 10**6, "rollout.group_size": 32},
            ["below 2**31"],
        ),
        (
            {"learner.schedule": "cosine", "learner.decay_steps": 70},
            ["= 75 end before num_steps=150", "final_share"],
        ),
        (
            {"learner.schedule": "constant", "learner.decay_steps": 70},
            ["learner.decay_steps=70", "learner.schedule='constant'"],
        ),
    ],
    ids=lambda x: ",".join(x) if isinstance(x, dict) else "",
)
def test_a_conflict_is_refused_by_name(tmp_path, changes, words):
    message = refuse(train.train, load("countdown"), tmp_path / "run", changes)
    for word in words:
        assert word in message, message


def test_all_conflicts_come_at_once(tmp_path):
    changes = {"num_steps": 0, "rollout.top_p": 2.0, "model.dtype": "int8"}
    message = refuse(train.train, load("countdown"), tmp_path / "run", changes)
    # What depends on valid sizes is checked once the sizes are.
    assert "num_steps" in message and "model.dtype" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.path": "x"}, ["model.path='x'", "exactly one"]),
        ({"learner.micro_rows": 7}, ["learner.micro_rows=7"]),
        ({"max_completion_tokens": 5, "mesh.data": -1}, ["max_completion_tokens=5"]),
        ({"mesh.data": 0}, ["mesh.data=0", "-1 or a whole number in [1, "]),
        ({"mesh.tensor": 3}, ["'tensor': 3", "8 devices"]),
        ({"log.every_steps": 0}, ["log.every_steps=0", "[1, "]),
        ({"model.dtype": "float16"}, ["model.dtype='float16'", "bfloat16"]),
        ({"loss.name": "dff"}, ["loss.name='dff'", "did you mean 'dft'"]),
        ({"loss": {"name": "dft", "cap": 1}}, ["loss.cap is no option of", "none"]),
        ({"loss": {}}, ["loss.name is missing", "uniform"]),
    ],
    ids=lambda x: ",".join(x) if isinstance(x, dict) else "",
)
def test_sft_refuses_by_name(tmp_path, changes, words):
    config = load("countdown_sft")
    config.task.train.size = config.task.test.size = 100
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError) as error:
        sft.sft(config, str(tmp_path / "run"))
    for word in words:
        assert word in str(error.value)


def test_a_supervised_run_has_no_best_to_keep():
    config = load("countdown_sft")
    with config.unlocked():
        config.checkpoint.keep_best = 1
    with pytest.raises(ValueError, match="checkpoint.keep_best is no setting"):
        check.check_sft(config, num_devices=8)


def test_a_misspelt_key_names_the_right_one():
    with pytest.raises(AttributeError, match="high"):
        load("countdown").algo.clip.hihg = 0.3


@pytest.mark.parametrize("name", ["countdown", "gsm8k", "dapo_math"])
@pytest.mark.parametrize("method", methods.METHODS)
def test_every_method_makes_a_config(name, method):
    config = load(name, f"method={method},seed=3")
    assert config.method == method and config.seed == 3
    assert config.is_locked


@pytest.mark.parametrize(
    ("arg", "words"),
    [
        ("metod=dapo", "did you mean 'method'"),
        ("method=dappo", "did you mean 'dapo'"),
        ("method=paec", "Known of arXiv 2606.08543.* Missing: all constants"),
        ("method=erpo", "Known of arXiv 2603.28204.* edges of the windows"),
        ("seed=x", "must be of type int"),
    ],
)
def test_config_arguments_are_checked(arg, words):
    with pytest.raises(ValueError, match=words):
        load("countdown", arg)


@pytest.mark.parametrize(
    ("advantage", "singleton", "strength"),
    [
        ("reinforce_pp", "zero", 0.0),
        ("grpo", "verl", 0.0),
        ("rloo", "verl", 0.0),
        ("opo", "verl", 0.0),
        ("reinforce_pp_baseline", "verl", 0.0),
        ("grpo", "verl", 1.0),
        ("reinforce_pp", "zero", 0.5),
    ],
)
def test_groups_of_one_are_accepted_where_they_learn(advantage, singleton, strength):
    config = load("countdown")
    config.rollout.group_size = 1
    config.algo.advantage.name, config.algo.singleton = advantage, singleton
    config.algo.token_group.strength = strength
    resolved, _ = check.check(config, num_devices=8)
    made = method.make(settings.of(resolved.algo.to_dict()))
    check.check_method(resolved, made)


def test_truncated_sampling_is_accepted_where_ratios_are_of_it():
    config = load("countdown")
    config.rollout.top_p, config.algo.ratio_of = 0.8, "sampled"
    check.check(config, num_devices=8)


def checked(name, **rollout):
    """Runs `check_method` for a method of the table on the demo."""
    config = load("countdown", f"method={name}")
    for key, value in rollout.items():
        config.rollout[key] = value
    resolved, _ = check.check(config, num_devices=8)
    check.check_method(resolved, method.make(settings.of(resolved.algo.to_dict())))


@pytest.mark.parametrize("name", ["passk", "remax"])
def test_methods_with_few_advantages_are_accepted(name):
    """Pass@k has none in a group with two right completions."""
    checked(name)


def test_the_oracle_needs_a_task_that_knows_its_forks():
    for name in ("forks", "countdown"):
        config = load(name, "method=dapo")
        config.algo.mask.name = "forks"
        resolved, _ = check.check(config, num_devices=8)
        made = method.make(settings.of(resolved.algo.to_dict()))
        if name == "forks":
            check.check_method(resolved, made)
            continue
        with pytest.raises(Refused, match="task.name='countdown' has no function lab"):
            check.check_method(resolved, made)


def test_a_greedy_baseline_that_is_not_drawn_is_refused():
    with pytest.raises(Refused, match="rollout.greedy_baseline=False draws none"):
        checked("remax", greedy_baseline=False)


def test_what_is_left_open_follows_the_flags():
    """The argument comes first, flags afterwards, and what follows them last."""
    config = load("countdown", "method=dr_grpo")
    arguments.override(config, "rollout.max_completion_tokens", "200")
    arguments.override(config, "rollout.batch_prompts", "16")
    arguments.override(config, "num_steps", "300")
    resolved, derived = check.check(config, num_devices=8)
    assert resolved.algo.aggregation.scale_tokens == 200
    assert resolved.rollout.round_prompts == 16
    assert resolved.learner.decay_steps == 295
    assert {d.key for d in derived} == {
        "algo.aggregation.scale_tokens",
        "rollout.round_prompts",
        "learner.decay_steps",
    }
    # What was set is not derived.
    arguments.override(config, "algo.aggregation.scale_tokens", "7")
    resolved, derived = check.check(config, num_devices=8)
    assert resolved.algo.aggregation.scale_tokens == 7 and len(derived) == 2


@pytest.mark.parametrize(("longest", "buffer"), [(1024, 256), (256, 64)])
def test_the_penalty_of_gsm8k_stays_a_quarter(longest, buffer):
    config = load("gsm8k", "data=x")
    config.rollout.max_completion_tokens = longest
    assert resolution.resolve(config).config.reward.overlong_buffer_tokens == buffer


def test_departures_from_a_method_are_named():
    config = load("countdown", "method=dapo")
    assert not presets.departures(config)
    config.algo.clip.low = 0.1
    assert presets.departures(config) == {"algo.clip.low": (0.1, 0.2)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_steps": 5}, ["num_steps=5", "never reaches"]),
        (
            {
                "algo.importance.mode": "sequence",
                "rollout.max_completion_tokens": 4096,
            },
            ["4096 tokens is 0.15", "token"],  # 0.145 by simulation
        ),
        ({"algo.importance.mode": "sequence"}, []),  # 96 tokens: 0.98
        ({"algo.importance.mode": "token", "rollout.top_p": 0.5}, []),
        ({}, []),
    ],
)
def test_what_is_seldom_meant_is_said(changes, words):
    config = load("countdown")
    config.update_from_flattened_dict(changes)
    resolved, _ = check.check(config, num_devices=8)
    said = list(check.cautions(resolved))
    assert len(said) == bool(words)
    assert all(word in said[0] for word in words)


@pytest.mark.parametrize("name", not_offered.NOT_OFFERED)
def test_what_is_not_offered_is_no_method(name):
    assert name not in methods.METHODS
    with pytest.raises(ValueError, match=f"method={name!r} is not offered"):
        load("countdown", f"method={name}")
