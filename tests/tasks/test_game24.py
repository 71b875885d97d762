"""Expressions are read exactly, and only the hand's numbers make the target."""

import json
import random
import time

import pytest

from hapo_jax.tasks import game24
from tests import real_data

OPTIONS = dict(
    path="", prompt_template="", size=2_000, seed=0, max_number=13, target=24
)
ANSWER = json.dumps({"numbers": [8, 3, 8, 3], "target": 24})
RIGHT = "8 / (3 - 8 / 3)"


@pytest.mark.parametrize(
    "completion",
    [
        RIGHT,
        f"{RIGHT} = 24",
        f"Let me try.\n3 + 3 = 6\n{RIGHT} = 24.",
        f"<answer>{RIGHT}</answer>",
        f"<answer>8 + 3</answer> no, <answer> {RIGHT} = 24 </answer> fits",
        f"Answer: {RIGHT}\nI hope.",
        f"\\boxed{{{RIGHT}}}",
        "\\boxed{\\frac{8}{3 - \\frac{8}{3}} = 24}",
        "$\\boxed{8 \\div \\left(3 - 8 \\div 3\\right)}$",
        "8 ÷ (3 − 8 ÷ 3)",
        "8/[3-8/3]",
        "24 = 24 is what I want.\n8/(3-8/3)",
    ],
)
def test_right_answers(completion):
    assert game24.grade(completion, ANSWER).score == 1.0


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "24",
        "8 + 8 + 3 + 3",
        "8 * 3",  # not all numbers
        "8 * 3 * (8 - 8) + 8 * 3 + 3 - 3",  # too many
        "83 - 8 - 3",
        "8 / (3 - 8 / 3) + 0",
        "8 / (3 - 8 / 3) * 1",
        "8 / (3 - 3) * 8",
        "-8 / (8 / 3 - 3)",  # a sign is no operation of the game
        "8 // (3 - 8 // 3)",
        "3 ** 3 - 8 + 8",
        "8 * 3 % 8 * 3",
        "8 * 3 if 8 else 3",
        "[x for x in (8, 8, 3, 3)]",
        "__import__('os').system('true')",
        "8.0 / (3 - 8 / 3)",
        "0x8 / (3 - 8 / 3)",
        "0_8 / (3 - 8 / 3)",
        "8e0 / (3 - 8 / 3)",
        "8 / (3 - 8 / 3",
        "8 / (3 - 8 / 3) # 24",
        "x = 8 / (3 - 8 / 3)",
        f"<answer>{RIGHT}</answer> or rather <answer>8 * 3</answer>",
        f"{RIGHT}, or 8 * 3",
        "٨ / (3 - ٨ / 3)",
        f"{RIGHT} {'+ 0 ' * 300}",
        "8 / (3 - 8 / 3)\n\nIs that right?",
        "(" * 100 + RIGHT,
        "9" * 199,
        "9" * 3_000_000,
        "-" * 199,
        "(" * 3_000_000,
        "\\frac{" * 100_000,
        "\\boxed{" * 100_000,
        "Answer:" * 100_000,
    ],
)
def test_wrong_answers(completion):
    start = time.monotonic()
    assert game24.grade(completion, ANSWER).score == 0.0
    assert time.monotonic() - start < 2.0


def test_all_hands_are_listed_once():
    train = game24.problems("train", **OPTIONS)
    test = game24.problems("test", **OPTIONS)
    hands = [tuple(sorted(json.loads(p.answer)["numbers"])) for p in train + test]
    assert len(set(hands)) == len(hands) == 1_362  # the known number of solvable hands
    assert len(test) > 200
    fewer = game24.problems("train", **OPTIONS | {"size": 10})
    assert fewer == train[:10]
    other = game24.problems("train", **OPTIONS | {"seed": 1})
    assert {p.id for p in other} == {p.id for p in train}
    assert [p.id for p in other] != [p.id for p in train]
    assert "make 24" in train[0].prompt


def test_solvable_agrees_with_a_search_of_everything():
    rng = random.Random(0)
    for _ in range(15):
        hand = tuple(sorted(rng.randint(1, 13) for _ in range(4)))
        target = rng.choice([0, 1, 24, 25])
        assert game24.solvable(hand, target) == (target in game24._reachable(hand))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"max_number": 0}, "max_number=0"), ({"max_number": 101}, "max_number=101")],
)
def test_options_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        game24.problems("train", **OPTIONS | change)
    with pytest.raises(ValueError, match="split='dev'"):
        game24.problems("dev", **OPTIONS)


ROW = {"id": "a", "problem": "Make 24.", "numbers": [8, 3, 8, 3], "target": 24}


def test_rows_without_a_solution_are_left_out(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [ROW, ROW | {"id": "b", "solvable": False}]
    path.write_text("\n".join(map(json.dumps, rows)))
    (problem,) = game24.problems("train", **OPTIONS | {"path": path})
    assert (problem.id, problem.answer) == ("a", ANSWER)


@pytest.mark.parametrize(
    "change", [{"numbers": None}, {"numbers": []}, {"numbers": [1.5]}, {"target": "24"}]
)
def test_broken_rows_are_refused(tmp_path, change):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW | change))
    with pytest.raises(ValueError, match="line 1: fields 'numbers' and 'target'"):
        game24.problems("train", **OPTIONS | {"path": path})


@pytest.mark.parametrize("name", ["game24.jsonl", "countdown_1000.jsonl"])
def test_solutions_of_the_files_are_right(name):
    path = real_data.FOLDER / name
    if not path.is_file():
        pytest.skip(f"{path} is not there; set HAPO_DATA_DIR")
    rows = {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}
    for problem in game24.problems("test", **OPTIONS | {"path": path}):
        row = rows[problem.id]
        assert game24.grade(row["solution"], problem.answer).score == 1.0
        assert game24.grade(f"{row['solution']} + 1", problem.answer).score == 0.0
