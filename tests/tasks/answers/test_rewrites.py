"""All gold answers of the data sets: rewrites that keep the value, and near misses.

The tables are `keeping.py` and `changing.py`; the full test prints how often each entry
applied. The suite tries every twentieth gold answer,
and some of each kind without data.
"""

import time

import pytest

from hapo_jax.tasks import math
from tests.tasks.answers import changing, golds, keeping

LIMIT_S = 2.0
TABLES = {True: keeping.REWRITES, False: changing.REWRITES}
OF_EACH_KIND = (
    *("42", "-7", "0.25", "1234", "\\frac{3}{4}", "-\\frac{5}{2}", "10\\frac{1}{12}"),
    *("2\\sqrt{3}", "\\frac{9\\pi}{4}", "3-2i", "x^2+4x-7", "(x-2)(x+2)", "10t + 12"),
    *("4R^2", "2RC+R+C", "e^{-2 t} \\cos (3 t)", "\\csc 10", "\\frac{1}{s+a}",
      "4.5e33"),
    *("x = 5", "y = 2x + 3", "2x - y + 3z + 8 = 0", "\\frac{d x}{d t}=k x-a"),
    *("y^{\\prime}+r y-r x(t)=0", "I(0) e^{-\\frac{t}{R C}}", "s^2 \\le 8r^2"),
    *("(3,-1)", "[0,3)", "(-\\infty, 2) \\cup (3, \\infty)", "(2,\\infty)",
    "1, -2, \\frac12"),
    *("-2, 2", "\\{4,5,7\\}", "1 \\pm \\sqrt{19}", "(1,2), (3,4)", "$69$,$84$"),
    *("\\begin{pmatrix} 4/7 \\\\ -3 \\end{pmatrix}",
      "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}"),
    *("13.5\\text{ pounds}", "15\\mbox{ cm}^2", "\\$18.90", "17\\%", "73^\\circ",
      "3:1"),
    *("\\text{Evelyn}", "\\text{CBAD}", "CD", "\\text{(B)}", "\\text{A,B}", "52_8"),
    *("8\\!:\\!34 \\text{ p.m.}", "\\text{two lines}", "E_{1},E_{2}", "MR=SRMC"),
)  # fmt: skip


@pytest.fixture(scope="module")
def all_golds() -> list[str]:
    try:
        return list(golds.unique())
    except ValueError as missing:
        pytest.skip(f"no data: {missing}")


def check(answers: list[str], equal: bool) -> int:
    """Grades every rewrite of every answer; prints counts, returns their sum."""
    wrong, counts, slowest = [], dict.fromkeys(TABLES[equal], 0), (0.0, "")
    for name, rewrite in TABLES[equal].items():
        for gold in answers:
            for other in rewrite(gold):
                counts[name] += 1
                started = time.perf_counter()
                found = math.equal(gold, other)
                slowest = max(slowest, (time.perf_counter() - started, other))
                if found != equal:
                    wrong.append(f"{name}: {gold!r} -> {other!r}")
    for name, count in counts.items():
        print(f"{count:7} {name}")
    print(f"{sum(counts.values()):7} in all; {slowest[0]:.3f} s for {slowest[1]!r}")
    assert not wrong, wrong[:20]
    assert slowest[0] < LIMIT_S, slowest
    return sum(counts.values())


@pytest.mark.parametrize("equal", TABLES)
def test_some_of_each_kind(equal):
    assert check(OF_EACH_KIND, equal) > 1_000


@pytest.mark.slow
@pytest.mark.parametrize("equal", TABLES)
def test_some_of_the_data_sets(all_golds, equal):
    assert check(all_golds[::20], equal) > 5_000


@pytest.mark.long
@pytest.mark.parametrize("equal", TABLES)
def test_all_of_the_data_sets(all_golds, equal):
    assert len(all_golds) > 5_000
    assert len(TABLES[equal]) >= 20
    assert check(all_golds, equal) > 100_000


# Completions around a gold answer without the dollars that sets put around theirs.
SENTENCES = (
    *("The answer is {}", "The answer is {}.", "So the final answer is: {}\n",
      "Answer: {}"),
    *("Answer: The number that we want is {}.", "Thus we find that the result is {}."),
    *("so \\boxed{{{}}}.", "The answer is ${}$.", "Therefore, it is \\({}\\).",
      "#### {}"),
    *("Hence\n\\[{}\\]\n", "The answer is **{}**.",
      "<think>Answer: 7</think>Answer: {}"),
)  # fmt: skip


def missed(answers: list[str]) -> dict[str, list[str]]:
    """Of each kind of completion, the gold answers that are not found in it."""
    return {
        sentence: [
            gold
            for gold in answers
            if not math.grade(sentence.format(golds.bare(gold)), gold).score
        ]
        for sentence in SENTENCES
    }


@pytest.mark.slow
def test_gold_answers_are_found_in_sentences(all_golds):
    for sentence, golds_missed in missed(all_golds[::3]).items():
        print(len(golds_missed), sentence, golds_missed)
        assert len(golds_missed) <= 3, (sentence, golds_missed)


@pytest.mark.long
def test_all_gold_answers_are_found_in_sentences(all_golds):
    for sentence, golds_missed in missed(all_golds).items():
        print(len(golds_missed), sentence, golds_missed)
        assert len(golds_missed) <= 4, (sentence, golds_missed)
