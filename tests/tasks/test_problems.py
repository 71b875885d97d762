"""Reading problem files: both schemas, all kinds of files, and broken ones."""

import functools
import gzip
import json
import logging

import pytest

from hapo_jax.tasks import problems

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402, behind the skip

OURS = [
    {"id": "a", "problem": "What is {1} + 1?", "answer": "2", "source": "sums"},
    {"id": "b", "problem": "Ünïcödé ∑", "answer": "\\frac{1}{2}", "level": 3},
]
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1 + 1?"},
]
VERL = [
    {
        "prompt": MESSAGES,
        "reward_model": {"ground_truth": "2", "style": "rule"},
        "data_source": "math_dapo",
        "extra_info": {"index": "7", "split": "train"},
    },
    {
        "prompt": MESSAGES[1:],
        "reward_model": {"ground_truth": "2", "style": "rule"},
        "data_source": "aime",
        "extra_info": {"index": None, "split": "test"},
    },
]


def write(folder, suffix, rows):
    path = folder / f"file.{suffix}"
    if suffix == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    return path


suffixes = pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "parquet"])


@suffixes
def test_our_schema(tmp_path, suffix):
    path = write(tmp_path, suffix, OURS)
    got = problems.read_problems(path, prompt_template="Q: {problem}\nA: {")
    assert got == [
        problems.Problem(
            "a", "Q: What is {1} + 1?\nA: {", "2", "sums", "What is {1} + 1?"
        ),
        problems.Problem(
            "b", "Q: Ünïcödé ∑\nA: {", "\\frac{1}{2}", "file", "Ünïcödé ∑"
        ),
    ]


@suffixes
def test_verl_schema(tmp_path, suffix):
    first, second = problems.read_problems(
        write(tmp_path, suffix, VERL), prompt_template=""
    )
    assert first == problems.Problem(
        "math_dapo-7", MESSAGES, "2", "math_dapo", "1 + 1?"
    )
    assert (second.prompt, second.answer, second.source) == (MESSAGES[1:], "2", "aime")
    assert second.id.startswith("aime-")
    # The hash depends on the content alone, not on the place in the file.
    again = problems.read_problems(
        write(tmp_path, suffix, VERL[::-1]), prompt_template=""
    )
    assert again[0].id == second.id


def test_no_template_leaves_the_problem(tmp_path):
    path = write(tmp_path, "jsonl", OURS)
    assert problems.read_problems(path, prompt_template="")[0].prompt == (
        "What is {1} + 1?"
    )


@pytest.mark.parametrize(
    ("given", "read"), [(18, "18"), (0.5, "0.5"), ({"target": ["1"]}, "1")]
)
def test_answers_that_are_no_text(tmp_path, given, read):
    path = write(tmp_path, "jsonl", [{**OURS[0], "answer": given}])
    assert problems.read_problems(path, prompt_template="")[0].answer == read


@suffixes
def test_repeated_rows_are_read_once_and_said(tmp_path, suffix, caplog):
    path = write(tmp_path, suffix, VERL * 3)
    with caplog.at_level(logging.WARNING):
        assert len(problems.read_problems(path, prompt_template="")) == 2
    assert "4 repeated rows" in caplog.text


def test_one_id_for_two_problems_is_an_error(tmp_path):
    path = write(tmp_path, "jsonl", [*OURS, {**OURS[0], "answer": "3"}])
    with pytest.raises(ValueError, match=r"line 3: id 'a' was used before"):
        problems.read_problems(path, prompt_template="")


def test_blank_lines_are_skipped_but_counted(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(OURS[0]) + "\n\n[]\n")
    with pytest.raises(ValueError, match="line 3: a list where an object belongs"):
        problems.read_problems(path, prompt_template="")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "c", "problem": "p"}, "line 2: .*'plain'.*needs 'answer' too"),
        ({"id": "c", "problem": "p", "answer": None}, "field 'answer'.*got null"),
        ({"id": "c", "problem": "p", "answer": ""}, 'line 2: field .answer.*got ""'),
        ({"id": "c", "problem": "p", "answer": True}, "field 'answer'.*got true"),
        ({"id": "c", "problem": " ", "answer": "1"}, "line 2: field 'problem'"),
        ({"id": [3], "problem": "p", "answer": "1"}, r"line 2: field 'id'.*got \[3\]"),
        ({"id": "c", "question": "p"}, "'gsm8k'.*needs 'answer' too. Rename"),
        ({**VERL[0], "prompt": 3}, "line 2: field 'prompt' must be a text, or a list"),
        ({**VERL[0], "prompt": []}, "line 2: field 'prompt' must be a text, or a list"),
        ({**VERL[0], "prompt": [{"role": "user"}]}, r"prompt\[0\] must be a message"),
        ({**VERL[0], "reward_model": None}, "'reward_model.ground_truth' must be a"),
        ({**VERL[0], "reward_model": {}}, "field 'reward_model.ground_truth'"),
        ({**VERL[0], "data_source": 0.5}, "line 2: field 'data_source'"),
    ],
)
def test_a_broken_row_names_line_field_and_remedy(tmp_path, row, message):
    path = write(tmp_path, "jsonl", [OURS[0], row])
    with pytest.raises(ValueError, match=message) as caught:
        problems.read_problems(path, prompt_template="")
    assert str(path) in str(caught.value)


def test_a_broken_parquet_row_is_named(tmp_path):
    path = write(tmp_path, "parquet", [OURS[0], {**OURS[0], "id": "b", "answer": None}])
    with pytest.raises(ValueError, match="row 2: field 'answer'"):
        problems.read_problems(path, prompt_template="")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"id": \n', "line 1 is not JSON"),
        ("a.jsonl", b'{"id": "\xff"}\n', "line 1 is not JSON.*UTF-8"),
        ("a.jsonl", b"[" * 100_000 + b"\n", "line 1 is not JSON"),
        ("a.jsonl", b"", "a.jsonl is empty"),
        ("a.jsonl", b"\n", "holds no problems"),
        ("a.jsonl.gz", b"no gzip", "is something else and not what its name says"),
        (
            "a.jsonl.gz",
            gzip.compress(b"{}" * 9_999, mtime=0)[:-9],
            "damaged after line 0",
        ),
        ("a.parquet", b"no parquet", "is something else and not what its name says"),
        ("a.xlsx", b"", "must end in one of .jsonl"),
    ],
)
def test_a_broken_file(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        problems.read_problems(tmp_path / name, prompt_template="")


BROKEN = [
    b'{"id": ',
    b'{"id": "\xff"}',
    b"[]",
    b'{"id": "b", "problem": "p"}',
    b'{"id": "b", "problem": " ", "answer": "1"}',
    b'{"id": "a", "problem": "another", "answer": "1"}',
    b'{"id": "b", "problem": "p", "answer": "ungradable"}',
]


def no_words(answer):
    if answer.isalpha():
        raise ValueError("must be a number")


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_line_stops_or_is_skipped_and_counted(tmp_path, caplog, line):
    good = json.dumps(OURS[0]).encode()
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([good, line, good, line]) + b"\n")
    read = functools.partial(
        problems.read_problems, path, prompt_template="", check=no_words
    )
    with pytest.raises(ValueError, match="line 2"):
        read()
    with caplog.at_level(logging.WARNING):
        assert [problem.id for problem in read(on_error="skip")] == ["a"]
    assert "2 broken rows were skipped, first: " in caplog.text
    assert f"{path}, line 2" in caplog.text


def test_nothing_but_broken_lines_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(BROKEN[0])
    with pytest.raises(ValueError, match="holds no problems"):
        problems.read_problems(
            tmp_path / "a.jsonl", prompt_template="", on_error="skip"
        )


def test_on_error_is_checked(tmp_path):
    with pytest.raises(ValueError, match="on_error='ignore' must be one of stop, skip"):
        problems.read_problems(tmp_path, prompt_template="", on_error="ignore")


@suffixes
def test_rows_of_another_kind(tmp_path, suffix):
    rows = [{"question": "1 + 1?", "final": "2", "level": 3}]
    read = functools.partial(
        problems.read_problems,
        write(tmp_path, suffix, rows),
        prompt_template="Q: {problem}",
    )
    (problem,) = read(
        row=lambda row: {"problem": row["question"], "answer": row["final"]}
    )
    assert (problem.prompt, problem.answer) == ("Q: 1 + 1?", "2")
    assert problem.id.startswith("file-")  # a hash of its content

    def refuse(row):
        raise ValueError("nothing here")

    with pytest.raises(ValueError, match="(line|row) 1: nothing here"):
        read(row=refuse)


def test_rows_without_an_id_are_named_by_their_content(tmp_path):
    row = {"problem": "p", "answer": "1"}
    other = {"problem": "p", "answer": "2"}
    first, second = problems.read_problems(
        write(tmp_path, "jsonl", [row, row, other]), prompt_template=""
    )
    assert first.id != second.id and first.source == "file"


def test_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match="there is no file .*none.jsonl"):
        problems.read_problems(tmp_path / "none.jsonl", prompt_template="")


def test_a_template_must_hold_the_problem(tmp_path):
    with pytest.raises(ValueError, match="must contain {problem}"):
        problems.read_problems(
            write(tmp_path, "jsonl", OURS), prompt_template="Solve {}"
        )


def test_messages_take_no_template(tmp_path):
    with pytest.raises(ValueError, match="set prompt_template to the empty"):
        problems.read_problems(
            write(tmp_path, "jsonl", VERL), prompt_template="{problem}"
        )


@suffixes
def test_demonstrations_need_no_id_and_no_answer(tmp_path, suffix):
    rows = [
        {"problem": "1 + 1?", "solution": "2", "level": 3},
        {"problem": "1 + 2?", "solution": "3", "level": 4},
    ]
    path = write(tmp_path, suffix, rows)
    read = functools.partial(problems.read_demonstrations, path)
    first = problems.Demonstration("Q: 1 + 1?", "2")
    assert read(prompt_template="Q: {problem}", size=1) == [first]
    assert read(prompt_template="", size=0) == [("1 + 1?", "2"), ("1 + 2?", "3")]
    with pytest.raises(ValueError, match="holds 2 demonstrations where size=3"):
        read(prompt_template="", size=3)
    with pytest.raises(ValueError, match="size=-1 must not be negative"):
        read(prompt_template="", size=-1)


@suffixes
def test_a_demonstration_of_messages(tmp_path, suffix):
    row = {"prompt": MESSAGES, "completion": "<think>1 + 1</think> 2", "solution": "2"}
    path = write(tmp_path, suffix, [row])
    assert problems.read_demonstrations(path, prompt_template="", size=0) == [
        problems.Demonstration(MESSAGES, "<think>1 + 1</think> 2")
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"problem": "p"}, "line 1: .*needs 'completion' too"),
        ({"problem": "p", "solution": " "}, "line 1: field 'solution'.*non-empty"),
        ({"solution": "s"}, "line 1: .*needs 'problem' too"),
    ],
)
def test_a_broken_demonstration_names_line_field_and_remedy(tmp_path, row, message):
    path = write(tmp_path, "jsonl", [row])
    with pytest.raises(ValueError, match=message):
        problems.read_demonstrations(path, prompt_template="", size=0)
