"""From the command line to a config: every mistake is named, with the nearest key."""

import json
import subprocess
import sys

import pytest

from hapo_jax.config import arguments, dotted
from tests.config.test_check import ROOT, load


def test_split_takes_overrides_out():
    found, rest = arguments.split(
        "--config=x.py --config.a=1 -config.b 2 --workdir=w --config.c=x=y "
        "--config.learner.packing --noconfig.eval.greedy A -- --config.d=4".split()
    )
    assert found == [
        ("a", "1"),
        ("b", "2"),
        ("c", "x=y"),
        ("learner.packing", "true"),
        ("eval.greedy", "false"),
    ]
    assert rest == ["--config=x.py", "--workdir=w", "A", "--", "--config.d=4"]


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("num_steps", "7", 7),
        ("learner.learning_rate", "1", 1.0),
        ("learner.packing", "False", False),
        ("model.path", "a=b", "a=b"),
        ("model.stop_tokens", "('a', 'b')", ("a", "b")),
        ("model.stop_tokens", "<|end|>", ("<|end|>",)),
        ("task.train.size", "5", 5),
        ("task.train.new", "[1, 'x']", [1, "x"]),  # the task's own, checked later
        ("task.train.new", "true", True),
        ("method", "hapo", "hapo"),
    ],
)
def test_override_takes_the_type_of_the_setting(key, text, value):
    config = load("countdown")
    arguments.override(config, key, text)
    found = dotted.get(config, key)
    assert found == value and type(found) is type(value)
    assert config.is_locked


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("learner.learning_rat", "1", "did you mean 'learner.learning_rate'"),
        ("num_step", "5", "did you mean 'num_steps'"),
        ("learning_rate", "1", "did you mean 'learner.learning_rate'"),
        ("rollout.temperature", "1", "rollout.temperature is no setting"),
        ("learner", "3", "learner is a section; set what is in it"),
        ("task.train", "5", "task.train is a section"),
        ("num_steps.x", "5", "num_steps.x is no setting"),
        ("num_steps", "five", "must be of type int"),
        ("num_steps", "", "must be of type int"),
        ("learner.learning_rate", "fast", "must be of type float"),
        ("learner.packing", "maybe", "must be true or false"),
        ("method", "dapo", ":method=dapo"),
        ("method", "nonsense", "not a label alone"),
        ("settings_of", "dapo", ":method=dapo"),
        ("", "1", "no setting"),
    ],
)
def test_a_wrong_override_is_refused_by_name(key, text, words):
    with pytest.raises(ValueError) as error:
        arguments.override(load("countdown"), key, text)
    assert f"--config.{key}={text}" in str(error.value) and words in str(error.value)


def test_files_that_are_no_experiments_are_refused(tmp_path):
    (tmp_path / "none.py").write_text("x = 1")
    (tmp_path / "wrong.py").write_text("def get_config(arg=None): return {}")
    (tmp_path / "text.txt").write_text("")
    for name, words in {
        "absent.py": "not a file",
        "none.py": "no function get_config",
        "wrong.py": "returned dict",
        "text.txt": "must be a Python file",
    }.items():
        with pytest.raises(ValueError, match=words):
            arguments.load(str(tmp_path / name))


# Of hapo-train: a flag, and what it is told.
REFUSED = {
    "--config.num_step=5": "did you mean 'num_steps'",
    "--config.learner=3": "learner is a section",
    "--config.task.train.sizes=5": "did you mean 'size'",
    f"--config.mesh.cpu_devices={10**23}": "mesh.cpu_devices=",
    "--wrkdir=x": "wrkdir",
}


def test_a_program_ends_with_one_line_and_status_2(tmp_path):
    workdir = tmp_path / "run"
    line = ["hapo_jax.train", "--config=configs/countdown.py", f"--workdir={workdir}"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.run_commands", str(tmp_path / "results")],
        input="\n".join(json.dumps([*line, flag]) for flag in REFUSED),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results = (tmp_path / "results").read_text().splitlines()
    assert [json.loads(result)[0] for result in results] == [2] * len(REFUSED)
    said = done.stderr.split("\n$ ")[1:]
    for words, lines in zip(REFUSED.values(), said, strict=True):
        _, *lines = lines.strip().splitlines()  # the first is the command
        assert len(lines) == 1 and words in lines[0]
    assert not workdir.exists()
