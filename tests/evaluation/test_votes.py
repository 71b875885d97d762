"""Majority votes by hand."""

import pytest

from hapo_jax.evaluation import votes as votes_lib
from hapo_jax.tasks import math, math_votes

# name -> answers, scores, pairs that are equal (None: compared as text), votes, maj@k
CASES = {
    "most frequent wins": ("aab", [0, 0, 1], (), [0, 0, 1], 0.0),
    "right ones are one answer": ("xyab", [1, 1, 0, 0], (), [0, 0, 1, 2], 1.0),
    "equal wrong ones join": ("xabc", [1, 0, 0, 0], ("ab",), [0, 1, 1, 2], 0.0),
    "a tie is shared": ("xya", [1, 0, 0], (), [0, 1, 2], 1 / 3),
    "no answer does not vote": ([None, None, "x"], [0, 0, 1], (), [None, None, 0], 1.0),
    "nobody answers": ([None, None], [0, 0], (), [None, None], 0.0),
    # Countdown: the last result is right and the claim of success is missing.
    "one text, two scores": ("557", [1, 0, 1], None, [0, 0, 1], 0.5),
}


@pytest.mark.parametrize("name", CASES)
def test_votes_by_hand(name):
    answers, scores, equal, votes, majority = CASES[name]
    equal = None if equal is None else {tuple(pair) for pair in equal}
    found = votes_lib.classes(list(answers), scores, equal)
    assert found == votes
    assert votes_lib.majority_score(found, scores) == pytest.approx(majority)


def test_only_what_can_decide_is_compared():
    assert votes_lib.pairs(list("xxab"), [1, 1, 0, 0]) == [("a", "b")]
    assert votes_lib.pairs(list("xxxab"), [1, 1, 1, 0, 0]) == []
    # The more frequent first, and no right answer, and none twice.
    assert votes_lib.pairs([*list("abbx"), None], [0, 0, 0, 1, 0]) == [("b", "a")]


@pytest.mark.parametrize(
    ("first", "second", "grading", "expected"),
    [
        ("1/2", "2/4", "lenient", 1.0),
        ("1/2", "2/4", "strict", 0.0),
        (r"\frac{1}{2}", r"\dfrac12", "strict", 1.0),
        ("3", "4", "lenient", 0.0),
        ('{"gold": ', '{"gold": ', "lenient", 1.0),  # no way to smuggle in a grading
    ],
)
def test_answers_of_mathematics_are_compared_as_they_are_graded(
    first, second, grading, expected
):
    item = math_votes.item(first, second, math.pack("7", grading))
    assert math_votes.grade(*item).score == expected
