"""The experiments on programs and puzzles find their problems."""

import os
import pathlib
import sys

import pytest

from hapo_jax import tasks
from tests.test_check import load

DATA = pathlib.Path(os.environ.get("HAPO_DATA", "../shared/data"))


def sizes(config):
    task = tasks.get(config.task.name)
    return [
        len(task.problems(**options.to_dict()))
        for options in (config.task.train, config.task.test)
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="confines programs on Linux alone")
def test_mbpp_and_humaneval():
    if not (DATA / "mbpp.jsonl").is_file():
        pytest.skip(f"{DATA} holds no mbpp.jsonl; set HAPO_DATA to the data sets")
    config = load("mbpp", f"data={DATA}")
    assert sizes(config) == [374, 164]
    for options in (config.task.train, config.task.test):
        assert options.total_s < config.grading.timeout_s
        assert options.memory_mib < 1024 * config.grading.memory_gib


def test_puzzles():
    assert sizes(load("logic", "people=4")) == [5_000, 500]
