"""The parts of a reward, and that their sum is what trains."""

import numpy as np
import pytest

from hapo_jax.rollout.rewards import Rewards

SCORES = np.array([1, 0, 0, 1], np.float32)
ANSWERED = np.array([True, True, False, True])
TRUNCATED = np.array([False, False, False, True])
LENGTHS = np.array([4, 8, 9, 10])


def parts(**changes):
    settings = dict(
        correct=1.0,
        wrong=0.0,
        format_weight=0.0,
        max_tokens=10,
        buffer_tokens=0,
        factor=1.0,
    )
    return Rewards(**settings | changes).parts(
        SCORES, answered=ANSWERED, truncated=TRUNCATED, lengths=LENGTHS
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"correctness": [1, 0, 0, 1]}),
        ({"wrong": -1.0}, {"correctness": [1, -1, -1, 1]}),
        ({"correct": 2.0, "wrong": 0.5}, {"correctness": [2, 0.5, 0.5, 2]}),
        # An answer that can be read and an end; whether it is right does not matter.
        (
            {"format_weight": 0.1},
            {"correctness": [1, 0, 0, 1], "format": [0.1, 0.1, 0, 0]},
        ),
        # In tokens: 0 up to 6, then linear, -2 at the longest.
        (
            {"buffer_tokens": 4, "factor": 2.0},
            {"correctness": [1, 0, 0, 1], "overlong": [0, -1, -1.5, -2]},
        ),
    ],
)
def test_parts(changes, expected):
    found = parts(**changes)
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], values, rtol=1e-6)


def test_a_partial_score_is_between():
    half = Rewards(1.0, -1.0, 0.0, 10, 0, 1.0).parts(
        np.array([0.5], np.float32),
        answered=np.array([True]),
        truncated=np.array([False]),
        lengths=np.array([1]),
    )
    assert half["correctness"] == [0.0]
