"""Puzzles have one solution, and that one alone is graded right."""

import gzip
import itertools
import json
import random

import pytest

from hapo_jax.tasks import logic
from tests import real_data

OPTIONS = dict(path="", prompt_template="", size=60, seed=0, min_people=2, max_people=8)
TRUTH = {"Ada": True, "Bo": False}
ANSWER = json.dumps(TRUTH)
RIGHT = "Ada is a knight\nBo is a knave"


def told(truth):
    return "\n".join(
        f"({i}) {name} is a {'knight' if knight else 'knave'}"
        for i, (name, knight) in enumerate(truth.items(), start=1)
    )


def check_every_assignment(problem):
    truth = json.loads(problem.answer)
    for knights in itertools.product((True, False), repeat=len(truth)):
        said = dict(zip(truth, knights))
        grade = logic.grade(f"So:\n<answer>\n{told(said)}\n</answer>", problem.answer)
        assert grade.score == float(said == truth)
        assert grade.extracted.count(":") == len(truth)


def test_drawn_puzzles_have_one_solution():
    for people in range(2, 9):
        rng = random.Random(people)
        for _ in range(20):
            claims = logic.draw(rng, people)
            (truth,) = logic.solutions(claims)
            assert len(truth) == len(claims) == people


def test_solutions_are_those_of_the_rules():
    """Worked by hand: Ada says that Bo is a knave; Bo says that both are knights."""
    claims = [(1, False), ("and", (0, True), (1, True))]
    assert logic.solutions(claims) == [(True, False)]
    # "I am a knave" fits nobody; "I am a knight" fits both.
    assert logic.solutions([(0, False)]) == []
    assert logic.solutions([(0, True)]) == [(True,), (False,)]


@pytest.mark.parametrize(
    ("kind", "table"),
    [
        ("and", [True, False, False, False]),
        ("or", [True, True, True, False]),
        ("implies", [True, False, True, True]),
        ("iff", [True, False, False, True]),
    ],
)
def test_connectives_have_their_truth_tables(kind, table):
    claim = (kind, (0, True), (1, True))
    rows = itertools.product((True, False), repeat=2)
    assert [logic._holds(claim, knights) for knights in rows] == table


def test_every_assignment_of_drawn_puzzles_but_one_is_wrong():
    for problem in logic.problems("train", **OPTIONS):
        check_every_assignment(problem)


def test_puzzles_are_told_in_words():
    problems = logic.problems("train", **OPTIONS)
    for problem in problems:
        truth = json.loads(problem.answer)
        assert problem.prompt.count("knave") >= 3
        assert all(name in problem.prompt for name in truth)
        assert problem.source == f"logic_{len(truth)}"
    assert {len(json.loads(p.answer)) for p in problems} == set(range(2, 9))
    (templated,) = logic.problems(
        "train", **OPTIONS | {"size": 1, "prompt_template": "Think. {problem}"}
    )
    assert templated.prompt == f"Think. {problems[0].prompt}"


def test_splits_are_disjoint_and_draws_repeat():
    train = logic.problems("train", **OPTIONS | {"size": 300})
    test = logic.problems("test", **OPTIONS | {"size": 100})
    assert train == logic.problems("train", **OPTIONS | {"size": 300})
    assert train != logic.problems("train", **OPTIONS | {"size": 300, "seed": 1})
    assert not {p.id for p in train} & {p.id for p in test}
    assert (len(train), len(test)) == (300, 100)


def test_a_small_space_is_exhausted_without_hanging():
    problems = logic.problems("test", **OPTIONS | {"size": 10**6, "max_people": 2})
    assert 1 <= len(problems) < 100


@pytest.mark.parametrize(
    "completion",
    [
        RIGHT,
        f"Suppose not.\n\n{RIGHT}\n",
        f"Answer: {RIGHT}",
        "answer: ada is the KNIGHT, and bo is a knave.",
        f"<answer>Bo is a knight</answer> no: <answer>{RIGHT}</answer> done",
        f"Ada is a knave? Then Bo is a knight.\n<answer>{RIGHT}</answer>",
        f"Ada is a knave? Then Bo is a knight.\nAnswer: {RIGHT}",
        f"<answer>{RIGHT}",
    ],
)
def test_right_answers(completion):
    assert logic.grade(completion, ANSWER) == (1.0, "Ada: knight, Bo: knave")


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "Ada is a knight",
        "Ada is a knight\nBo is a knight",
        "Ada is a knave\nBo is a knight",
        f"{RIGHT}\nBo is a knight",
        f"<answer>{RIGHT}\nAda is a knave</answer>",
        f"<answer>{RIGHT}\nAda is a knight\nBo is a knave</answer>",
        f"{RIGHT}\n<answer>Ada is a knave</answer>",
        f"{RIGHT}\nI do not know\nwho is who",
        "<answer>Ada is not a knight\nBo is a knave</answer>",
        "<answer>Ada is a knight or a knave\nBo is one too</answer>",
        "<answer>Adam is a knight\nBo is a knave</answer>",
        "<answer>Ada is a knighthood\nBo is a knave</answer>",
        f"<answer>{RIGHT}{' ' * 3_000}</answer>",
        "<answer>" * 100_000,
        "Ada is a knight " * 100_000,
    ],
)
def test_wrong_answers(completion):
    assert logic.grade(completion, ANSWER).score == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_people": 1}, "min_people=1"),
        ({"max_people": 9}, "max_people=9"),
        ({"min_people": 5, "max_people": 4}, "in this order"),
    ],
)
def test_options_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        logic.problems("train", **OPTIONS | change)
    with pytest.raises(ValueError, match="split='dev'"):
        logic.problems("dev", **OPTIONS)


ROW = {"id": "a", "problem": "Who?", "answer": RIGHT, "names": ["Ada", "Bo"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": None}, "line 1: field 'names'"),
        ({"answer": "Ada is a knight"}, "line 1: field 'answer' must call each of"),
        ({"answer": ""}, "line 1: field 'answer'"),
    ],
)
def test_broken_rows_are_refused(tmp_path, change, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW | change))
    with pytest.raises(ValueError, match=message):
        logic.problems("train", **OPTIONS | {"path": path})


@pytest.mark.parametrize("name", ["kk_test.jsonl", "kk_train.jsonl.gz"])
@pytest.mark.parametrize(
    "every", [25, pytest.param(1, marks=pytest.mark.long)], ids=["some", "all"]
)
def test_answers_of_the_files_are_right_and_all_others_wrong(name, every):
    path = real_data.FOLDER / name
    if not path.is_file():
        pytest.skip(f"{path} is not there; set HAPO_DATA_DIR")
    problems = logic.problems("test", **OPTIONS | {"path": path})
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        answers = {row["id"]: row["answer"] for row in map(json.loads, file)}
    assert len(problems) == len(answers)
    for problem in problems[::every]:
        assert logic.grade(answers[problem.id], problem.answer).score == 1.0
        check_every_assignment(problem)
