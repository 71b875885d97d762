"""Kinds of rows: those of docs/data.md are read, others are refused by the nearest."""

import json
import logging
import pathlib
import re

import pytest

from hapo_jax.tasks import math, schemas

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "data.md"
EXAMPLES = re.findall(r"\*\*(\S+?)\*\*[^\n]*\n+```json\n(.*?)\n```", DOCS.read_text())
# Schema -> gold answer, or completion, of its row on the page.
EXPECTED = {
    "plain": "7", "nemo": "5", "boxed": r"\frac{3}{2}", "verl": "4", "rlvr": "81",
    "slime": "14", "trl": "7", "trl-solution": "7", "trl-truth": "23",
    "gsm8k": "1200", "question-final": "2", "question-truth": "32",
    "question-boxed": "42", "capitals": "6", "completion": "1 + 2 = 3\n#### 3",
    "solution": r"It is $\boxed{4}$.", "prompt-completion": "5",
    "prompt-solution": "2 + 4 = 6", "prompt-response": "2 + 5 = 7", "chat": "8",
    "sharegpt": "9", "gsm8k-solution": "2 + 8 = <<2+8=10>>10\n#### 10",
    "question-solution": r"It is \boxed{11}.", "question-response": "It is 12.",
    "alpaca": "13",
}  # fmt: skip


def write(folder, *rows):
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def problems(path, **options):
    return math.problems("train", path=path, prompt_template="", **options)


def demonstrations(path, **options):
    options = {"size": 0, "prompt_template": "", **options}
    return math.demonstrations("train", path=path, **options)


def test_the_page_shows_each_schema_in_its_order():
    assert [name for name, _ in EXAMPLES] == [schema.name for schema in schemas.SCHEMAS]


@pytest.mark.parametrize(("name", "row"), EXAMPLES)
def test_rows_of_the_page_are_read(tmp_path, caplog, name, row):
    path = write(tmp_path, json.loads(row))
    caplog.set_level(logging.INFO)
    expected = EXPECTED[name]
    if "answer" in next(s for s in schemas.SCHEMAS if s.name == name).fields:
        for grading in ("lenient", "dapo"):
            (problem,) = problems(path, grading=grading)
            assert "What is" in problem.statement or len(problem.statement) > 15
            for completion in (f"Answer: {expected}", f"Answer: {expected}1"):
                right = float(completion == f"Answer: {expected}")
                assert math.grade(completion, problem.answer).score == right
    else:
        (example,) = demonstrations(path)
        assert example.completion == expected and example.prompt
    assert f"1 rows as {name!r} (" in caplog.text


def test_ids_sources_and_indices(tmp_path):
    base = {"problem": "1?", "answer": "1"}
    verl = {"prompt": "2?", "reward_model": {"ground_truth": "2"}}
    found = problems(
        write(
            tmp_path,
            base | {"id": 7},
            base | {"id": 8.0, "source": None},
            base | {"id": float("nan"), "source": ""},
            verl | {"data_source": "", "extra_info": {"index": 3}},
            verl | {"extra_info": {"index": 4}},
            verl | {"data_source": "sums", "extra_info": {"index": None}},
        )
    )
    assert [p.id for p in found[:2]] == ["7", "8"]
    assert [p.source for p in found] == ["mine"] * 5 + ["sums"]
    assert [p.id for p in found[3:5]] == ["mine-3", "mine-4"]
    assert re.fullmatch("mine-[0-9a-f]{16}", found[2].id)


def test_columns_name_fields(tmp_path, caplog):
    row = {"id": 1, "query": "1 + 1?", "meta": {"gold": 2}, "a.b": "3", "solution": "x"}
    path = write(tmp_path, row)
    caplog.set_level(logging.INFO)
    (problem,) = problems(path, columns="problem=query, answer=meta.gold")
    assert (problem.prompt, problem.answer, problem.id) == ("1 + 1?", "2", "1")
    assert "1 rows as 'named' (id=id, problem=query, answer=meta.gold)" in caplog.text
    (problem,) = problems(path, columns="problem=query,answer=a.b,id=")
    assert problem.answer == "3" and problem.id.startswith("mine-")
    # What is not named is guessed.
    path = write(tmp_path, {"problem": "1?", "answer": "long text", "short": "1"})
    assert problems(path, columns="answer=short")[0].answer == "1"
    path = write(tmp_path, {"prompt": "1?", "answer": "1", "solution": r"\boxed{2}"})
    (first,), (second,) = problems(path), problems(path, columns="trl-solution")
    assert (first.answer, second.answer) == ("1", r"\boxed{2}")
    (example,) = demonstrations(path, columns="completion=answer")
    assert example == ("1?", "1")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("problem", "must be of the form WHAT=FIELD"),
        ("problm=question", r"did you mean 'problem'\?"),
        ("gsm8", r"did you mean 'gsm8k'\?"),
        ("problem=a,problem=b", "each once"),
        ("problem=", "problem needs a field"),
        ("problem=qestion", r"the field 'qestion' .* \(did you mean 'question'\?\)"),
        ("slime", "The nearest is 'slime' .*'prompt' and 'label' too"),
    ],
)
def test_wrong_columns_are_refused(tmp_path, columns, message):
    path = write(tmp_path, {"question": "1?", "answer": "1"})
    with pytest.raises(ValueError, match=message):
        problems(path, columns=columns)


@pytest.mark.parametrize(
    ("row", "nearest"),
    [
        ({"problem": "1?", "awnser": "1"}, "'plain' .*'answer' too"),
        ({"prompt": "1?", "lable": "1"}, "'slime' .*'label' too"),
        ({"qestion": "1?", "final_answer": "1"}, "'question-final' .*'question' too"),
        ({"prompt": "1?", "reward_modl": {}}, "'verl' .*'reward_model.ground_truth'"),
    ],
)
def test_the_nearest_schema_is_named(tmp_path, row, nearest):
    with pytest.raises(ValueError, match=f"line 1: .*{', '.join(row)}.*{nearest}"):
        problems(write(tmp_path, row))


CHAT = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (CHAT[:1], "must end with the assistant's reply"),
        (CHAT[1:], "must end with the assistant's reply"),
        ([CHAT[0], {"role": "assistant", "content": ""}], r"\[-1\].content' must be a"),
        ([CHAT[0], CHAT[1] | {"tool_calls": [{}]}], r"messages\[1\] calls a tool"),
        ([{"from": "function", "value": "1"}, CHAT[1]], r"messages\[0\].from must be"),
        ("[{'role': 'user'}]", "must be a text, or a list of messages"),
    ],
)
def test_broken_conversations(tmp_path, messages, message):
    with pytest.raises(ValueError, match=f"line 1: .*{message}"):
        demonstrations(write(tmp_path, {"messages": messages}))


def test_conversations_of_several_replies(tmp_path, caplog):
    parts = [{"type": "text", "text": "And 2 "}, {"type": "text", "text": "+ 2?"}]
    more = [*CHAT, {"role": "user", "content": parts}, {**CHAT[1], "content": "4"}]
    (example,) = demonstrations(write(tmp_path, {"messages": more}))
    assert example.completion == "4"
    assert example.prompt == [*CHAT, {"role": "user", "content": "And 2 + 2?"}]
    assert "1 of 1 conversations have several replies; only the last" in caplog.text


def test_an_input_below_its_instruction(tmp_path):
    row = {"task": {"ask": "Add."}, "given": "1 2", "reply": 3}
    path = write(tmp_path, row, row | {"given": ""})
    columns = "problem=task.ask,completion=reply,input=given"
    found = demonstrations(path, columns=columns, prompt_template="Q: {problem}")
    assert found == [("Q: Add.\n\n1 2", "3"), ("Q: Add.", "3")]


def test_the_message_of_the_system(tmp_path):
    row = {"talk": CHAT, "system": "Be brief.", "messages": [{"role": "user"}]}
    (example,) = demonstrations(write(tmp_path, row), columns="conversation=talk")
    assert example == (CHAT[:1], "2")  # only what was named
    (example,) = demonstrations(
        write(tmp_path, row), columns="conversation=talk,system=system"
    )
    assert example.prompt == [{"role": "system", "content": "Be brief."}, CHAT[0]]
    # One that is there already stays.
    row = {"messages": [*example.prompt, CHAT[1]], "system": "Be long."}
    assert demonstrations(write(tmp_path, row)) == [example]


def test_messages_as_python_prints_them(tmp_path):
    row = {"prompt": str(CHAT[:1]), "answer": "2"}
    with pytest.raises(ValueError, match="holds messages as Python prints them"):
        problems(write(tmp_path, row))


@pytest.mark.parametrize("field", ["problem", "answer", "id", "source"])
def test_a_lone_surrogate_is_refused_or_skipped(tmp_path, caplog, field):
    good = {"id": "a", "problem": "1?", "answer": "1", "source": "s", "more": "\udfff"}
    path = write(tmp_path, good, good | {"id": "b"} | {field: "1\ud800"})
    with pytest.raises(ValueError, match=f"line 2: field '{field}' has half a char.*"):
        problems(path)
    assert [p.id for p in problems(path, on_error="skip")] == ["a"]
    assert "1 broken rows were skipped" in caplog.text
