"""Tokens of a batch get the labels that their task gives them."""

import numpy as np
import pytest

from hapo_jax import tasks
from hapo_jax.rollout import batch as batch_lib
from hapo_jax.rollout import labels
from hapo_jax.rollout.prompts import PromptSet
from hapo_jax.system.errors import Refused
from hapo_jax.tasks.problems import Problem

T = 5
# Answer: the word at which somebody chose.
PROBLEMS = tuple(Problem(f"p{i}", "", answer, "test") for i, answer in enumerate("ab"))
PROMPTS = PromptSet(PROBLEMS, (np.ones(1, np.int32),) * 2, 0)


def pieces(ids):
    return [chr(i) for i in ids]


def chosen(tokens, answer):
    return ["choice" if token == answer else "forced" for token in tokens]


def test_marks_choices_where_there_are_tokens():
    texts = ["aba", "abbab", "b", ""]
    tokens = np.full((4, T), ord("b"), np.int32)
    mask = np.zeros((4, T), bool)
    for text, own, kept in zip(texts, tokens, mask, strict=True):
        own[: len(text)] = [ord(c) for c in text]
        kept[: len(text)] = True
    batch = batch_lib.RolloutBatch.of_tokens(
        prompt_tokens=np.ones((4, 1), np.int32),
        prompt_lengths=np.ones(4, np.int32),
        completion_tokens=tokens,
        completion_mask=mask,
    )._replace(prompt_ids=np.array([0, 1, 1, -1]))
    assert not batch.forks.any()
    found = labels.mark(batch, PROMPTS, pieces, chosen).forks
    expected = np.zeros((4, T), bool)
    expected[0, [0, 2]] = True
    expected[1, [1, 2, 4]] = True
    expected[2, 0] = True
    np.testing.assert_array_equal(found, expected)
    # What is beside the batch is imitated, and no stage sees it.
    beside = batch._replace(beside=np.array([False, True, False, False]))
    expected[1] = False
    found = labels.mark(beside, PROMPTS, pieces, chosen).forks
    np.testing.assert_array_equal(found, expected)


def test_a_task_without_labels_is_refused():
    module = tasks.get("forks")
    assert labels.of_task("forks", module) is module.labels
    with pytest.raises(Refused, match="task.name='countdown' has no function labels"):
        labels.of_task("countdown", tasks.get("countdown"))
