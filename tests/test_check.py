"""Every conflict of a config is refused by name, before anything is compiled."""

import importlib.util
import pathlib

import pytest

from hapo_jax import check, sft, train
from hapo_jax import config as config_lib

ROOT = pathlib.Path(__file__).parent.parent


def load(name, arg=None):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


EXPERIMENTS = ["countdown", "dapo_math", "gsm8k", "logic", "mbpp"]


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
        ({"algo.advantage": "gpro"}, ["algo.advantage", "gpro"]),
        ({"model.path": ""}, ["model.path", "Hugging Face"]),
        ({"model.path": "nowhere"}, ["nowhere", "config.json"]),
        ({"model.dtype": "float16"}, ["model.dtype='float16'", "bfloat16"]),
        ({"task.name": "contdown"}, ["contdown", "did you mean 'countdown'"]),
        ({"task.chat_template": "chatt"}, ["chatt", "did you mean 'chat'"]),
        ({"task.train.operations": 3}, ["task.operations=3", "numbers - 1"]),
        ({"task.train.operators": "+/"}, ["task.operators='+/'"]),
        ({"mesh.tensor": 3}, ["'tensor': 3", "8 devices"]),
        ({"mesh.data": -1, "mesh.fsdp": -1}, ["at most one may be -1"]),
        ({"mesh.data": 1, "mesh.tensor": 8}, ["kv_heads=2", "mesh.tensor=8"]),
        ({"num_steps": 0}, ["num_steps=0", "positive"]),
        ({"grading.workers": -1}, ["grading.workers=-1", "negative"]),
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
        ({"mesh.data": 0}, ["'data': 0", "must be positive"]),
        ({"mesh.tensor": 3}, ["'tensor': 3", "8 devices"]),
        ({"log.every_steps": 0}, ["log.every_steps=0", "positive"]),
        ({"model.dtype": "float16"}, ["model.dtype='float16'", "bfloat16"]),
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
@pytest.mark.parametrize("method", config_lib.METHODS)
def test_every_method_makes_a_config(name, method):
    config = load(name, f"method={method},seed=3")
    assert config.method == method and config.seed == 3
    assert config.is_locked
    if method == "dr_grpo":
        scale = config.algo.aggregation_scale_tokens
        assert scale == config.rollout.max_completion_tokens


@pytest.mark.parametrize(
    ("arg", "words"),
    [
        ("metod=dapo", "did you mean 'method'"),
        ("method=dappo", "did you mean 'dapo'"),
        ("seed=x", "must be of type int"),
    ],
)
def test_config_arguments_are_checked(arg, words):
    with pytest.raises(ValueError, match=words):
        load("countdown", arg)
