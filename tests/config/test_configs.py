"""The experiments on programs and puzzles find their problems."""

import sys

import pytest

from hapo_jax import tasks
from tests import real_data
from tests.config.test_check import load


def sizes(config):
    task = tasks.get(config.task.name)
    return [
        len(task.problems(**options.to_dict()))
        for options in (config.task.train, config.task.test)
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="confines programs on Linux alone")
def test_mbpp_and_humaneval():
    if not (real_data.FOLDER / "mbpp.jsonl").is_file():
        pytest.skip(f"no mbpp.jsonl in {real_data.FOLDER}; set HAPO_DATA_DIR")
    config = load("mbpp", f"data={real_data.FOLDER}")
    assert sizes(config) == [374, 164]
    for options in (config.task.train, config.task.test):
        assert options.total_s < config.grading.timeout_s
        assert options.memory_mib < 1024 * config.grading.memory_gib


def test_puzzles():
    assert sizes(load("logic", "people=4")) == [5_000, 500]
