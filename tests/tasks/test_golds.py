"""Gold answers as files have them: understood, refused, or named as hopeless."""

import decimal
import json
import logging

import pytest

from hapo_jax.tasks import game24, golds, math

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("value", "as_text", "else_"),
    [
        (18, "18", "18"),
        (10**20, "1" + "0" * 20, "1" + "0" * 20),
        (18.0, "18", "18.0"),
        (-0.5, "-0.5", "-0.5"),
        (1e20, "1" + "0" * 20, "1e+20"),
        (1e23, "1" + "0" * 23, "1e+23"),
        (decimal.Decimal("18.00"), "18", "18"),
        ("18.0", "18.0", "18.0"),  # a text stays as it was written
        (["18"], "18", "18"),
        ([[18]], "18", "18"),
        ({"target": ["18"]}, "18", "18"),
        ('["18"]', "18", "18"),
        ('{"target": ["\\\\frac12"]}', "\\frac12", "\\frac12"),
        ("[1, 2]", "[1, 2]", "[1, 2]"),  # an interval
        ("48 / 2 = 24\n#### 72", "72", "72"),
        ("#### 1,234,567.5\n", "1234567.5", "1234567.5"),
        ("#### 1,2", "1,2", "1,2"),
        ("so $\\boxed{72}$.", "72", "so $\\boxed{72}$."),
        ("$\\boxed{72}$", "$\\boxed{72}$", "$\\boxed{72}$"),
    ],
)
def test_understood(value, as_text, else_):
    assert golds.text(value, compared_as_text=True) == as_text
    assert golds.text(value) == else_


REFUSED = [
    (None, "got null"), (True, "got true"), ("", "non-empty"), (" ", "non-empty"),
    (NAN, "got NaN, a missing value"), (INFINITY, "got Infinity.*infty"),
    ("nan", "a missing value"), ("NaN", "a missing value"), ("<NA>", "a missing value"),
    ("None", r"\\text\{none\}"), ([NAN], "NaN"), (["1", "2"], "a list of 2"),
    ([], "a list of 0"), ('["1", "2"]', "a list of 2"), ({"a": 1}, "the keys 'a'"),
    ({"target": ["1", "2"]}, "a list of 2"), ({}, "the keys none"),
    (12345678901234567890.0, "lost its last digits"), ("so it is\n####", "behind"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "message"), REFUSED)
def test_refused_by_file_line_and_field(tmp_path, value, message):
    path = tmp_path / "a.jsonl"
    rows = [{"problem": "1?", "answer": "1"}, {"problem": "2?", "answer": value}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for grading in ("lenient", "dapo"):
        options = dict(path=path, prompt_template="", grading=grading)
        with pytest.raises(
            ValueError, match=f"a.jsonl, line 2: .*'answer' .*{message}"
        ):
            math.problems("train", **options)
        assert len(math.problems("train", on_error="skip", **options)) == 1


@pytest.mark.parametrize("grading", math.GRADINGS)
@pytest.mark.parametrize(
    ("answer", "completion"),
    [
        ("Half of 144 is 72.\n#### 72", "72"),
        ({"target": ["18"]}, "18"),
        (18.0, "18"),
        (1e20, "100000000000000000000"),
        ("Thus\n$x = \\boxed{72}$, as asked.", "72"),
    ],
)
def test_a_right_completion_wins(tmp_path, grading, answer, completion):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"problem": "1?", "answer": answer}))
    options = dict(path=path, prompt_template="", grading=grading)
    (problem,) = math.problems("train", **options)
    for text, score in ((completion, 1.0), (completion + "1", 0.0)):
        text = (
            f"Answer: {text}" if grading in ("dapo", "hapo") else f"\\boxed{{{text}}}"
        )
        assert math.grade(text, problem.answer).score == score


def test_whole_floats_of_a_table_of_texts(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("problem,answer\n1?,18.0\n2?,18.5\n3?,18.50\n")
    options = dict(path=path, prompt_template="", grading="dapo")
    found = [math.unpack(p.answer)[0] for p in math.problems("train", **options)]
    assert found == ["18", "18.5", "18.50"]


LOST = ["1\n2", "7" * 400]  # over two lines; out of DAPO's reach


def write(path, answers):
    rows = [
        {"id": f"p{i}", "problem": "1?", "answer": a} for i, a in enumerate(answers)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("grading", ["dapo", "hapo"])
def test_golds_that_cannot_win_are_named(tmp_path, caplog, grading):
    path = tmp_path / "a.jsonl"
    options = dict(path=path, prompt_template="", grading=grading)
    write(path, ["1", *LOST, *LOST])
    assert len(math.problems("train", **options)) == 5
    said = "4 of 5 gold answers are not equal to themselves under"
    assert f"{said} {grading!r}, so no completion can be right: p1 (" in caplog.text
    assert "p3 (" in caplog.text and "p4 (" not in caplog.text
    assert " and 1 more" in caplog.text
    write(path, LOST)
    with pytest.raises(ValueError, match="2 of 2 gold answers are not equal to them"):
        math.problems("train", **options)


def test_golds_that_win_are_not(tmp_path, caplog):
    path = tmp_path / "a.jsonl"
    write(path, ["1", "\\frac{1}{2}", "(-\\infty, 2]", "x = 1", "\\text{(B)}", "1, 2"])
    caplog.set_level(logging.WARNING)
    for grading in math.GRADINGS:
        math.problems("train", path=path, prompt_template="", grading=grading)
    assert not caplog.records


def test_whole_solutions_are_named(tmp_path, caplog):
    path = tmp_path / "a.jsonl"
    write(
        path, ["1", "Since he sold half as many in May as in April he sold " * 2 + "72"]
    )
    math.problems("train", path=path, prompt_template="")
    assert "1 of 2 gold answers are whole sentences: p1 (" in caplog.text


def test_hands_without_a_solution_are_named(tmp_path, caplog):
    path = tmp_path / "a.jsonl"
    rows = [
        {"id": f"h{n}", "problem": "24", "numbers": [n, 1, 1, 1], "target": 24}
        for n in (1, 8)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    game24.problems(
        "test", path=path, prompt_template="", size=0, seed=0, max_number=13, target=24
    )
    assert "1 of 2 gold answers are not equal to themselves" in caplog.text
    assert "h1 (" in caplog.text


def test_runs_find_the_problems_that_they_began_with(tmp_path):
    """A resumed run compares ids and gold answers: they may never change."""
    answers = (18, 18.0, 1e20, "$\\boxed{3}$", "so \\boxed{4} ok", "[1, 2]")
    rows = [{"problem": "p", "answer": answer} for answer in answers]
    rows += [
        {
            "prompt": [{"role": "user", "content": "v"}],
            "data_source": "m",
            "reward_model": {"ground_truth": "7"},
            "extra_info": {"index": index},
        }
        for index in (None, 3, 1.0, "x")
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = math.problems("train", path=path, prompt_template="")
    assert [(p.id, p.answer) for p in found] == [
        ("mine-918b6d6dc578aec1", "18"),
        ("mine-06fb8816c7a73e0e", "18.0"),
        ("mine-eec3445a35de2360", "1e+20"),
        ("mine-9607e10721ade9eb", "$\\boxed{3}$"),
        ("mine-5a8dba71fd46b27c", "so \\boxed{4} ok"),
        ("mine-21f4f245da41bbda", "[1, 2]"),
        ("m-4b84fcd3be39a00e", "7"),
        ("m-3", "7"),
        ("m-1.0", "7"),
        ("m-x", "7"),
    ]
