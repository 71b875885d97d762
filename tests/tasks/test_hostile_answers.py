"""Hostile completions: none is right, none outlives its limit, and the pool goes on."""

import time

import pytest

from hapo_jax.grading import pool as pool_lib
from hapo_jax.tasks import math
from tests.tasks import hostile_answers

LIMIT_S = 3.0


@pytest.fixture(scope="module")
def pool():
    with pool_lib.GradingPool(
        num_workers=1, timeout_s=LIMIT_S, memory_gib=2.0, start_timeout_s=120.0
    ) as pool:
        pool.grade("math", [(r"\boxed{\frac{84}{2}}", "42")])  # loads math-verify
        yield pool


# math-verify works on these until its time is up, half a minute in all.
BY_LIBRARY = pytest.param("hapo", marks=pytest.mark.long)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["lenient", "strict", "dapo", BY_LIBRARY])
def test_hostile_answers(pool, mode):
    assert len(hostile_answers.COMPLETIONS) >= 250
    gold = math.pack("42", mode)
    for completion in hostile_answers.COMPLETIONS:
        started = time.monotonic()
        (result,) = pool.grade("math", [(completion, gold)])
        took = time.monotonic() - started
        shown = f"{completion[:60]!r}: {result}"
        assert result.score == 0, shown
        assert took < LIMIT_S + 2, f"{took:.1f} s for {shown}"
    right = r"\boxed{42}" if mode == "strict" else "Answer: 42"
    (after,) = pool.grade("math", [(right, gold)])
    assert after.score == 1


# Gold answers of other kinds: what is compared with them is computed, or paired up.
GOLDS = (
    *("x^2 + 1", "e^{-2t} \\cos(3t)", "1, 2, 3", "(1, 2)", "y = 2x + 3", "[0, 1)"),
    *("\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}", "2^{4181}", "\\text{odd}"),
    *("\\binom{2n}{n}", "(-\\infty, 2) \\cup (3, \\infty)", "\\frac{dx}{dt} = kx"),
)


@pytest.mark.slow
@pytest.mark.parametrize("gold", GOLDS)
def test_hostile_answers_for_other_gold_answers(gold):
    for completion in hostile_answers.COMPLETIONS:
        started = time.process_time()
        assert math.grade(completion, gold).score == 0, completion[:60]
        assert time.process_time() - started < 2, completion[:60]


@pytest.mark.parametrize("mode", math.GRADINGS)
def test_finding_an_answer_is_linear(mode):
    """What runs before any limit of sizes, on the largest texts."""
    for completion in hostile_answers.COMPLETIONS:
        started = time.process_time()
        math.extract(completion, mode)
        assert time.process_time() - started < 2, completion[:60]
