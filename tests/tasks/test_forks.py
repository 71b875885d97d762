"""Roads are what they say they are, and every word of a walk is judged and labelled."""

import itertools
import json
import statistics

import pytest

from hapo_jax.system.errors import Refused
from hapo_jax.tasks import forks

ROAD = dict(columns=24, exits=2, luck=0.1, senses=forks.SENSES)
# Forks in the columns 0, 1, 5 and 6, the last with an exit.
SPEC = {
    "rows": ["3 5 + 7 ; 2 exit 4", "3 9 + 7 ; 8 1 4"],
    "sense": "over",
    "goal": 16,
}
ANSWER = json.dumps(SPEC)
SHORT = dict(columns=12, exits=1)


def make(split="train", *, size=50, seed=0, forced=0.5, **changes):
    return forks.problems(
        split, size=size, seed=seed, forced=forced, **{**ROAD, **changes}
    )


def shown(**changes):
    given = dict(size=200, seed=0, shares=(0.5,), num_problems=50, skill=1.0, **ROAD)
    return forks.demonstrations("train", **{**given, **changes})


def rows(problem):
    return [row.split() for row in json.loads(problem.answer)["rows"]]


@pytest.mark.parametrize("forced", forks.SHARES)
def test_a_road_has_its_length_and_its_share_of_forced_words(forced):
    for problem in make(forced=forced):
        top, bottom = rows(problem)
        assert len(top) == len(bottom) == ROAD["columns"]
        agree = sum(a == b for a, b in zip(top, bottom, strict=True))
        assert agree == forced * ROAD["columns"]
        assert (top + bottom).count(forks.EXIT) == ROAD["exits"]
        assert len(problem.prompt.split()) == 2 * ROAD["columns"] + 4


def test_a_prompt_says_what_the_grader_knows():
    for problem in make():
        sense, goal, *road = problem.prompt.split()
        spec = json.loads(problem.answer)
        assert (sense, int(goal)) == (spec["sense"], spec["goal"])
        assert road == [*rows(problem)[0], "/", *rows(problem)[1], ":"]


def test_the_same_seed_gives_the_same_problems_and_another_seed_others():
    assert make() == make()
    assert not {p.id for p in make(seed=1)} & {p.id for p in make()}
    assert shown() == shown()


def test_no_held_out_problem_is_trained_on():
    of = {split: {p.id for p in make(split, size=200)} for split in ("train", "test")}
    assert all(len(ids) == 200 for ids in of.values())
    assert not of["train"] & of["test"]
    with_seeds = {p.id for seed in range(5) for p in make("test", seed=seed)}
    assert not of["train"] & with_seeds


@pytest.mark.parametrize("forced", forks.SHARES)
def test_a_random_walker_reaches_the_goal_as_often_as_was_asked(forced):
    """By trying all walks."""
    problems = make(forced=forced, size=30, **SHORT)
    shares = []
    for problem in problems:
        columns = list(zip(*rows(problem), strict=True))
        sense = json.loads(problem.answer)["sense"]
        forked = [pair for pair in columns if pair[0] != pair[1]]
        won = 0
        for picks in itertools.product((0, 1), repeat=len(forked)):
            walk, left = [], iter(picks)
            for pair in columns:
                word = pair[next(left)] if pair[0] != pair[1] else pair[0]
                carried = word == forks.CARRY
                walk.append(forks._carried(walk, sense) if carried else word)
                if word == forks.EXIT:
                    break
            won += forks.grade(" ".join(walk), problem.answer).score
        shares.append(won / 2 ** len(forked))
        assert 0 < shares[-1] < 1
    assert statistics.mean(shares) == pytest.approx(0.1, abs=0.04)


@pytest.mark.parametrize("forced", forks.SHARES)
def test_who_looks_solves_all_and_who_chooses_at_random_few(forced):
    answers = {p.prompt: p.answer for p in make(forced=forced, size=50)}
    scores = {}
    for skill in (0.5, 1.0):
        walks = shown(shares=(forced,), skill=skill, size=1_000)
        grades = [forks.grade(w.completion, answers[w.prompt]) for w in walks]
        assert all(grade.extracted is not None for grade in grades)
        scores[skill] = statistics.mean(grade.score for grade in grades)
    assert scores[1.0] == 1.0
    assert scores[0.5] == pytest.approx(0.1, abs=0.04)


def test_demonstrations_are_of_every_share():
    walks = shown(shares=forks.SHARES)
    found = set()
    for walk in walks:
        words = walk.prompt.split()
        top, bottom = words[2:26], words[27:51]
        agree = sum(a == b for a, b in zip(top, bottom, strict=True))
        found.add(agree / ROAD["columns"])
    assert found == set(forks.SHARES)


@pytest.mark.parametrize(
    ("completion", "score", "extracted"),
    [
        ("3 9 0 7 ; 8 1 4", 1.0, "18"),
        ("3 9 0 7 ; 8 exit", 1.0, "17"),
        ("3 5 6 7 ; 8 1 4", 0.0, "14"),  # legal and too little
        ("3 9 0 7 ; 2 exit", 0.0, "11"),
        ("3 9 3 7 ; 8 1 4", 0.0, None),  # a wrong result
        ("3 9 + 7 ; 8 1 4", 0.0, None),  # none at all
        ("3 7 8 7 ; 8 1 4", 0.0, None),  # on neither way
        ("4 9 3 7 ; 8 1 4", 0.0, None),  # a wrong copy
        ("3 9 0 7 ; 8 1", 0.0, None),  # too short
        ("3 9 0 7 ; 8 1 4 4", 0.0, None),  # too long
        ("3 9 0 7 ; 8 exit 4", 0.0, None),  # on from an exit
        ("3 9 0 7 exit", 0.0, None),  # where there is none
        ("", 0.0, None),
        ("exit", 0.0, None),
        ("٣ 9 2 7 ; 8 1 4", 0.0, None),
        ("over " * 10_000, 0.0, None),
    ],
)
def test_grades(completion, score, extracted):
    assert forks.grade(completion, ANSWER) == (score, extracted)


def test_under_is_the_opposite():
    answer = json.dumps({**SPEC, "sense": "under"})
    assert forks.grade("3 5 4 7 ; 8 1 4", answer) == (1.0, "14")
    assert forks.grade("3 9 8 7 ; 8 1 4", answer) == (0.0, "18")
    assert forks.grade("3 5 6 7 ; 8 1 4", answer) == (0.0, None)  # carried wrongly
    at_goal = json.dumps({**SPEC, "goal": 18})
    assert forks.grade("3 9 0 7 ; 8 1 4", at_goal) == (0.0, "18")


F, C = forks.FORCED, forks.CHOICE


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("3 9 0 7 ; 8 1 4 <eos>", [F, C, F, F, F, C, C, F, F]),
        ("3 9 0 7 ; 8 exit <eos>", [F, C, F, F, F, C, C, F]),
        ("3 7 0", [F, C, F]),  # a wrong word has its column's label
        ("3 9 0 7 ; 8 1 4 4 4 <eos>", [F, C, F, F, F, C, C, F, F, F, F]),
        ("exit 9 2", [F, F, F]),
        ("", []),
    ],
)
def test_labels(completion, expected):
    assert forks.labels(completion.split(), ANSWER) == expected


@pytest.mark.parametrize("forced", forks.SHARES)
def test_every_token_of_a_correct_completion_is_forced_or_a_choice(forced):
    """And what is called forced is: another word there is wrong, and no other is."""
    answers = {p.prompt: p.answer for p in make(forced=forced, size=50)}
    for walk in shown(shares=(forced,), size=10):
        tokens, answer = walk.completion.split(), answers[walk.prompt]
        found = forks.labels([*tokens, "<eos>"], answer)
        assert len(found) == len(tokens) + 1
        for i, label in enumerate(found[:-1]):
            legal = 0
            for word in [*forks.DIGITS, forks.MARK, forks.EXIT]:
                begun = [*tokens[:i], word]
                if word == forks.EXIT:
                    read = forks.grade(" ".join(begun), answer).extracted
                    legal += read is not None
                    continue
                rest = continued(begun, answer)
                legal += forks.grade(" ".join(rest), answer).extracted is not None
            assert legal == (1 if label == F else 2)


def continued(begun, answer):
    """The walk, to the end by the way that does not leave the road."""
    spec = json.loads(answer)
    top, bottom = (row.split() for row in spec["rows"])
    walk = list(begun)
    for a, b in list(zip(top, bottom, strict=True))[len(begun) :]:
        word = b if a == forks.EXIT else a
        carried = word == forks.CARRY and walk[-1].isdigit()
        walk.append(forks._carried(walk, spec["sense"]) if carried else word)
    return walk


def test_a_digit_occurs_as_forced_and_as_a_choice():
    answers = {p.prompt: p.answer for p in make(size=50)}
    found = {F: set(), C: set()}
    for walk in shown():
        tokens = walk.completion.split()
        for token, label in zip(
            tokens, forks.labels(tokens, answers[walk.prompt]), strict=True
        ):
            found[label].add(token)
    assert found[F] & found[C] >= set(forks.DIGITS)


@pytest.mark.parametrize("forced", forks.SHARES)
def test_the_vocabulary_holds_every_word(forced):
    known = set(forks.words(columns=ROAD["columns"]))
    for problem in make(forced=forced):
        assert set(problem.prompt.split()) <= known
    for walk in shown(shares=(forced,)):
        assert set(walk.completion.split()) <= known


@pytest.mark.parametrize(
    "change",
    [
        dict(split="dev"),
        dict(forced=1.0),
        dict(forced=-0.1),
        dict(columns=3),
        dict(exits=7),
        dict(exits=-1),
        dict(luck=0.0),
        dict(luck=1.0),
        dict(senses=()),
        dict(senses=("over", "above")),
    ],
)
def test_refuses_options_out_of_range(change):
    (name,) = change
    with pytest.raises(Refused, match=name):
        make(**{"split": "train", **change})


def test_refuses_a_skill_that_is_no_probability():
    with pytest.raises(Refused, match="skill"):
        shown(skill=1.5)
