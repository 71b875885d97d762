"""Checksums of rows say what of them has changed."""

import numpy as np
import pytest

from hapo_jax.rollout import prompts
from hapo_jax.system.errors import Refused
from hapo_jax.tasks.problems import Problem

ROWS = [("a", "1", [1, 2]), ("b", "2", [3]), ("c", "2", [4])]


def of(rows):
    ids, answers, tokens = zip(*rows)
    tokens = [np.array(t, np.int32) for t in tokens]
    return prompts.checksums(ids=ids, answers=answers, tokens=tokens)


@pytest.mark.parametrize(
    ("rows", "differing"),
    [
        (ROWS, set()),
        (ROWS[::-1], {"crc ids", "crc answers", "crc tokens"}),
        (ROWS[1:], {"number", "crc ids", "crc answers", "crc tokens", "crc rows"}),
        ([*ROWS[:2], ("c", "3", [4])], {"crc answers", "crc rows"}),
        ([*ROWS[:2], ("c", "2", [1, 3])], {"crc tokens", "crc rows"}),
        # Answers that change places: a column in another order, other rows.
        ([("a", "2", [1, 2]), ("b", "1", [3]), ROWS[2]], {"crc answers", "crc rows"}),
        # A row twice instead of another.
        (
            [ROWS[0], ROWS[0], ROWS[2]],
            {"crc ids", "crc answers", "crc tokens", "crc rows"},
        ),
    ],
)
def test_checksums(rows, differing):
    found, expected = of(rows), of(ROWS)
    assert {key for key in expected if found[key] != expected[key]} == differing


def test_texts_of_any_kind_have_checksums():
    odd = ["\ud800", "", "\x00", [{"role": "user", "content": "é"}]]
    found = [prompts.checksums(prompts=[text])["crc prompts"] for text in odd]
    assert len(set(found)) == len(odd)


def test_a_prompt_that_cannot_be_encoded_is_named():
    def encode(prompt):
        if "\ud800" in prompt:
            raise Refused("the text holds half a character")
        return [1]

    problems = [
        Problem(i, text, "1", "a.jsonl") for i, text in (("p", "x"), ("q", "\ud800"))
    ]
    with pytest.raises(ValueError, match="problem 'q' of a.jsonl: .*half a character"):
        prompts.tokenise(problems, encode, max_prompt_tokens=5, overlong="drop")
