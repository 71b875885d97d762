"""Phases: which pass of updates a token belongs to, and what may decide it."""

import numpy as np
import pytest

from hapo_jax import assembly
from hapo_jax.algo import phases
from hapo_jax.config import defaults
from hapo_jax.system.errors import Refused
from tests import tiny
from tests.algo import given


def test_unlikely_tokens_come_first():
    old = np.log([[0.1, 0.5, 0.49], [1.0, 0.7, 0.3]]).astype(np.float32)
    found = phases.low_probability_first(old)
    np.testing.assert_array_equal(found, [[False, True, False], [True, True, False]])
    found = phases.low_probability_first(old, below=0.2)
    np.testing.assert_array_equal(found, [[False, True, True], [True, True, True]])
    np.testing.assert_array_equal(phases.one(old < 0), np.zeros((2, 3), bool))


def test_padding_belongs_to_no_pass():
    made = tiny.method("grpo", phases="low_probability_first")
    old = np.log(np.full((2, 3), 0.9, np.float32))
    mask = np.array([[True, True, False], [True, False, False]])
    tokens = given.Tokens(old, None, old, -old, old, old, old, mask)
    constants = made.constants(given.rows(tokens), made.init_state())
    np.testing.assert_array_equal(constants["waits"], mask)
    assert made.phases == 2 and tiny.method("grpo").phases == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"aggregation": "token_mean_micro"}, "whole completions; set it to 'one'"),
        ({"phases": "tests.algo.own_stages:by_ratio"}, "reads ratio, and a token's"),
        ({"phases": "low_probabilty_first"}, "mean 'low_probability_first'"),
    ],
)
def test_what_cannot_be_known_beforehand_is_refused(changes, words):
    with pytest.raises(Refused, match="algo.phases.name") as error:
        tiny.method("grpo", **{"phases": "low_probability_first"} | changes)
    assert words in str(error.value)


def test_the_learning_rate_counts_the_updates_of_all_phases():
    config = defaults.default()
    before = assembly.work_of(config).updates
    config.algo.phases.name = "low_probability_first"
    assert assembly.work_of(config).updates == 2 * before
