"""What a run keeps beside parameters comes back to the bit: optimizers, rollouts."""

import pytest

from hapo_jax import train
from tests.test_real_input import (  # noqa: F401, fixtures
    assert_same_run,
    checkpoint,
    data,
    make_config,
)

# By name: the method, and settings with a state of their own.
RUNS = {
    "optimistic_adam": ("hapo", {"learner.optimizer": "optimistic_adam"}),
    "remax": ("remax", {"rollout.group_size": 2}),
    "aepo": (
        "aepo",
        {"learner.minibatch_prompts": 2, "rollout.second.entropy_target": 1.9},
    ),
    "correction": (
        "edge_grpo",
        {
            "rollout.max_completion_tokens": 12,
            "rollout.correction.share": 1.0,
            "rollout.correction.new_tokens": 2,
            "algo.importance.mode": "token",
        },
    ),
    "optimistic_adagrad": ("dapo", {"learner.optimizer": "optimistic_adagrad"}),
}

# The others are in `make test-long`; test_every_method.py has their states in short.
SUITE = ("correction", "optimistic_adam")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=pytest.mark.slow if name in SUITE else pytest.mark.long
        )
        for name in RUNS
    ],
)
def test_a_run_that_stops_in_between_ends_the_same(
    checkpoint,  # noqa: F811
    data,  # noqa: F811
    tmp_path,
    name,
):
    method, changes = RUNS[name]
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    for workdir, ends in ((whole, (3,)), (parts, (2, 3))):
        for num_steps in ends:
            given = {**changes, "num_steps": num_steps, "eval.every_steps": 1}
            train.train(make_config(checkpoint, data, method, **given), str(workdir))
    assert_same_run(parts, whole)
