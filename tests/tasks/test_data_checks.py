"""Duplicates, leaks into evaluation and flag files, on small sets."""

import json
import logging
import os

import pytest

from hapo_jax.tasks import data_checks, math
from hapo_jax.tasks.problems import Problem
from tests.real_data import FOLDER as DATA


def problem(name, statement, answer="1"):
    prompt = f"Solve this.\n{statement}\nThink first."
    return Problem(name, prompt, answer, "set", statement)


TRAIN = [
    problem("a", "What is $1 + \\dfrac{1}{2}$?"),
    problem("b", "what is  1+\\frac{1}{2}"),
    problem("c", "What is $1 - \\frac{1}{2}$?", "2"),
    problem("d", "What is \\(1 - \\frac12\\)?", "2"),
    problem("e", "What is $1-\\frac{1}{2}$ ?", "3"),
]


def test_duplicates_differ_in_looks_alone():
    groups = data_checks.duplicates(TRAIN)
    # \frac12 is another spelling of the mathematics, but braces are dropped.
    assert [[p.id for p in group] for group in groups] == [["a", "b"], ["c", "d", "e"]]


def test_overlap_does_not_depend_on_the_template():
    test = [
        Problem("t", "Q: anything", "1", "test", "What is $1+\\tfrac{1}{2}$."),
        problem("u", "What is $2 - \\frac{1}{2}$?"),
    ]
    found = data_checks.overlap(TRAIN, test)
    assert [(p.id, other.id) for p, other in found] == [("a", "t"), ("b", "t")]


def test_problems_without_a_statement_are_known_by_their_prompt():
    made = Problem("x", "numbers 1 2 target 3", "{}", "game")
    assert data_checks.overlap([made], [made]) == [(made, made)]
    other = Problem("y", "numbers 1 2 target 4", "{}", "game")
    assert data_checks.overlap([made], [other]) == []


def test_report(caplog):
    with caplog.at_level(logging.WARNING):
        counts = data_checks.report(TRAIN, [TRAIN[0], problem("z", "new")])
    assert counts == {
        "data/train_problems": 5,
        "data/test_problems": 2,
        "data/duplicates": 3,
        "data/conflicts": 1,
        "data/overlap": 1,
    }
    assert "3 training problems repeat" in caplog.text
    assert "1 of 2 evaluation problems occur in training (a as b)" in caplog.text


def test_clean_sets_give_no_warning(caplog):
    with caplog.at_level(logging.INFO):
        found = data_checks.report(TRAIN[:1], [problem("z", "new")])
    assert not caplog.records
    assert found["data/overlap"] == 0 and found["data/test_problems"] == 1


FLAGS = {
    "note": "free text",
    "duplicate_groups": [["a", "b"], ["c", "d", "e"]],
    "conflicting_answer_groups": [["c", "e"]],
    "eval_overlap": [{"train": "f", "eval": "t", "kind": "norm"}],
    "broken_ids": ["g"],
    "chinese_ids": ["h"],
}


@pytest.mark.parametrize(
    ("content", "flags", "ids"),
    [
        (FLAGS, "", "bcdefg"),
        (FLAGS, ":broken_ids", "g"),
        (FLAGS, ":broken_ids+chinese_ids", "gh"),
        (FLAGS, ":duplicate_groups", "bde"),
        ({"eval_overlap": FLAGS["eval_overlap"]}, "", "f"),
        (["x", "y"], "", "xy"),
    ],
)
def test_flag_files(tmp_path, content, flags, ids):
    path = tmp_path / "flags.json"
    path.write_text(json.dumps(content))
    assert data_checks.excluded_ids([f"{path}{flags}"]) == set(ids)


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        (FLAGS, ":broken", "has no flag broken; it has duplicate_groups, "),
        ({"note": ""}, "", "has no flag at all; it has none of"),
        ("ids", "", "must hold a list of ids, or an object"),
        ({"eval_overlap": ["f"]}, "", "not in the form of a flag file"),
        ({"broken_ids": 3}, "", "not in the form of a flag file"),
    ],
)
def test_bad_flag_files(tmp_path, content, flags, message):
    path = tmp_path / "flags.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        data_checks.excluded_ids([f"{path}{flags}"])


def test_a_flag_file_that_is_missing_or_no_json(tmp_path):
    with pytest.raises(ValueError, match="none.json does not exist"):
        data_checks.excluded_ids([str(tmp_path / "none.json")])
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        data_checks.excluded_ids([str(tmp_path / "a.json")])


def test_without():
    assert [p.id for p in data_checks.without(TRAIN, {"a", "c", "q"})] == list("bde")
    with pytest.raises(ValueError, match="leaves none of 5 problems"):
        data_checks.without(TRAIN, set("abcde"))


@pytest.mark.skipif(
    not (DATA / "dapo_math_17k_flags.json").is_file(), reason=f"no data in {DATA}"
)
def test_the_published_sets():
    """Exact copies of evaluation problems, as counted when the data were gathered."""

    def read(name):
        return math.problems("train", path=DATA / name, prompt_template="{problem}")

    train = read("dapo_math_17k.jsonl.gz")
    flags = os.fspath(DATA / "dapo_math_17k_flags.json")
    kept = data_checks.without(train, data_checks.excluded_ids([flags]))
    for name, copies in (("amc23", 8), ("amc22_23", 14), ("aime24", 0), ("math500", 7)):
        test = read(f"{name}.jsonl")
        found = {other.id for _, other in data_checks.overlap(train, test)}
        assert len(found) == copies, name
        assert not data_checks.overlap(kept, test), name
