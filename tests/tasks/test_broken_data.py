"""Mutated data files: each is refused by name, or read right; nothing else happens.

Bytes, values and fields of every kind of data file are changed at random.
`test_in_short` is in the suite, `test_in_long` tries many times as many.
"""

import copy
import csv
import gzip
import json
import logging
import pathlib
import random
import traceback

import pyarrow
import pytest
from pyarrow import ipc, parquet

import hapo_jax
from hapo_jax.system.errors import Refused
from hapo_jax.tasks import code, data_checks, files, game24, logic, math

PACKAGE = str(pathlib.Path(hapo_jax.__file__).parent)
CHAT = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
VERL = [
    {
        "prompt": [{"role": "user", "content": f"{i} + 1?"}],
        "data_source": "sums",
        "reward_model": {"style": "rule", "ground_truth": str(i + 1)},
        "extra_info": {"index": i, "split": "train"},
    }
    for i in range(6)
]
PLAIN = [
    {"id": f"p{i}", "problem": f"{i} + é?", "answer": f"{i}", "source": "s", "level": i}
    for i in range(6)
]
ROWS = {
    "plain": PLAIN,
    "verl": VERL,
    "gsm8k": [{"question": "1 + 1?", "answer": "1 + 1 = 2\n#### 1,002"}] * 2,
    "solution": [{"problem": "1?", "solution": "so $\\boxed{1}$", "level": 2.5}] * 2,
    "chat": [{"messages": CHAT, "source": "x"}] * 2,
    "sharegpt": [
        {
            "conversations": [
                {"from": "human", "value": "1 + 1?"},
                {"from": "gpt", "value": "2"},
            ]
        }
    ],
    "alpaca": [{"instruction": "Add.", "input": "1 1", "output": "2"}],
    "hands": [{"id": "h", "problem": "24", "numbers": [1, 2, 3, 4], "target": 24}],
    "people": [
        {
            "id": "k",
            "problem": "Who lies?",
            "names": ["Ada", "Bo"],
            "answer": "(1) Ada is a knight (2) Bo is a knave",
        }
    ],
    "programs": [
        {
            "id": "c",
            "problem": "Add.",
            "entry_point": "add",
            "tests": [{"type": "call", "args": [1, 2], "output": 3}],
        }
    ],
}
FLAGS = {
    "broken_ids": ["a", 3],
    "duplicate_groups": [["a", "b"], ["c"]],
    "eval_overlap": [{"train": "a", "eval": "t"}],
}
VALUES = (
    None, True, 0, -1, 7, 1.5, 18.0, 1e20, 1e308, 10**30, 10**400, float("nan"),
    float("inf"), "", " ", "18.0", "nan", "None", "#### ", "a #### 7", "\\boxed{", "é",
    "\ud800", "a\udfff", "\0", "[", '["18"]', '{"target": ["18"]}', '["1", "2"]',
    "[" * 5000, "x" * 3000, [], {}, [[]], [1], ["18"], ["1", "2"], {"target": ["18"]},
    {"a": 1}, [None], [{"role": "user"}], [{"role": 1, "content": 2}],
    [{"role": "user", "content": [{"type": "text", "text": "1?"}]}],
    [{"from": "bot", "value": "1"}], [{"role": "user", "content": "\ud800"}],
)  # fmt: skip
FIELDS = (
    "id", "problem", "answer", "source", "prompt", "solution", "label", "question",
    "expected_answer", "messages", "ground_truth", "reward_model", "data_source",
    "extra_info", "completion", "numbers", "tests", "names", "target", "output",
)  # fmt: skip
WHOLE = (
    b"", b"\n", bytes(300), b"null", b"[]", b"{}", b"3", b'"text"', b"[" * 20_000,
    b"<!DOCTYPE html>\n<html>", b"\x80\x02}q\x00.", b"PK\x03\x04", b"PAR1", b"PAR1PAR1",
    b"ARROW1\0\0", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xff\xff\xff\xff\0\0\0\0",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
)  # fmt: skip


# --- files to start from ------------------------------------------------------------


def flat(row):
    """A row as a table of texts has it."""
    return {
        key: json.dumps(v) if isinstance(v, list | dict) else v
        for key, v in row.items()
    }


def write(path, rows):
    """Writes rows in the kind of file that the name says."""
    known = files.kind(path)
    if known.kind in (".jsonl", ".ndjson"):
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    elif known.kind == ".json":
        data = json.dumps(rows, indent=1).encode()
    elif known.kind in (".csv", ".tsv"):
        with path.open("w", newline="") as file:
            mark = "\t" if known.kind == ".tsv" else ","
            table = csv.DictWriter(file, fieldnames=list(rows[0]), delimiter=mark)
            table.writeheader()
            table.writerows(map(flat, rows))
        data = path.read_bytes()
    else:
        table = pyarrow.Table.from_pylist(rows)
        if known.kind == ".parquet":
            packing = "zstd" if len(rows) % 2 else "none"
            parquet.write_table(table, path, row_group_size=4, compression=packing)
            return path
        new = ipc.new_file if "file" in known.stem else ipc.new_stream
        with new(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
        return path
    if known.packing == ".gz":
        data = gzip.compress(data, mtime=0)
    elif known.packing == ".zst":
        data = pyarrow.compress(data, codec="zstd", asbytes=True)
    path.write_bytes(data)
    return path


ENDINGS = (
    ".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".csv", ".csv.zst",
    ".tsv", ".parquet", ".arrow", "_file.arrow",
)  # fmt: skip


# --- changes ------------------------------------------------------------------------


def garble(draw, data):
    data = bytearray(data)
    at, length = draw.randrange(len(data)), draw.randrange(1, 40)
    how = draw.choice(["cut", "flip", "flip", "drop", "twice", "insert", "utf-16"])
    if how == "cut":
        del data[at:]
    elif how == "flip":
        data[at] ^= 1 << draw.randrange(8)
    elif how == "drop":
        del data[at : at + length]
    elif how == "twice":
        data[at:at] = data[at : at + length]
    elif how == "insert":
        data[at:at] = draw.randbytes(length)
    else:
        data = data.decode("latin-1").encode("utf-16")
    return bytes(data), f"{how} at {at}"


def edit(draw, rows):
    """Changes one place of the rows."""
    rows = copy.deepcopy(rows)
    row = draw.choice(rows)
    value, key = copy.deepcopy(draw.choice(VALUES)), draw.choice(list(row))
    how = draw.choice(["value", "value", "drop", "rename", "add", "inside", "twice"])
    if how == "value":
        row[key] = value
    elif how == "drop":
        del row[key]
    elif how == "rename":
        row[draw.choice(FIELDS)] = row.pop(key)
    elif how == "add":
        row[draw.choice(FIELDS)] = value
    elif how == "twice":
        rows.append(dict(row, **{key: value}))
    elif isinstance(row[key], dict) and row[key]:
        row[key][draw.choice(list(row[key]))] = value
    elif isinstance(row[key], list) and row[key]:
        row[key][draw.randrange(len(row[key]))] = value
    return rows, f"{how} {key} {str(value)[:40]!r}"


def mutated(draw, folder):
    """Writes a file with a change in it; returns its path, its rows' kind, what."""
    name = draw.choice(list(ROWS))
    path = folder / f"a{draw.choice(ENDINGS)}"
    rows, said = edit(draw, ROWS[name])
    if draw.random() < 0.5:
        rows, said = ROWS[name], ""
    try:
        write(path, rows)
    except (pyarrow.ArrowException, UnicodeError, OverflowError, ValueError):
        write(path, ROWS[name])  # no such file can be
        said = ""
    if not said:
        data, said = path.read_bytes(), "nothing"
        for _ in range(draw.choice([1, 1, 1, 3])):
            if data:
                data, said = garble(draw, data)
        if draw.random() < 0.1:
            data = draw.choice(WHOLE)
            said = f"replaced by {data[:20]}"
        path.write_bytes(data)
    return path, name, f"{path.name} of {name}: {said}"


# --- what must happen ---------------------------------------------------------------


def read(path, name, draw):
    """As the programs read it."""
    options = dict(path=str(path), prompt_template="")
    skip = dict(on_error=draw.choice(["stop", "skip"]))
    if name in ("chat", "sharegpt", "alpaca"):
        return math.demonstrations("train", size=0, **options)
    if name == "hands":
        limits = dict(size=0, seed=0, max_number=13, target=24)
        return game24.problems("train", **options, **limits, **skip)
    if name == "people":
        limits = dict(size=0, seed=0, min_people=2, max_people=8)
        return logic.problems("train", **options, **limits, **skip)
    if name == "programs":
        limits = dict(subject="", test_s=1.0, total_s=2.0, memory_mib=64)
        return code.problems("train", **options, **limits, **skip)
    if name == "solution" and draw.random() < 0.5:
        return math.demonstrations("train", size=0, **options)
    # hapo's second chance loads a slow library and decides as dapo on all of these.
    grading = draw.choice(["lenient", "strict", "dapo"])
    return math.problems("train", grading=grading, **options, **skip)


def look(path, what, reading) -> bool:
    """Whether the file can be read; fails on all but a refusal or a right read."""
    try:
        found = reading()
    except Refused as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        assert last.startswith(PACKAGE), f"{what}: foreign {error!r}"
        message = str(error)
        assert 20 < len(message) < 3000 and len(message.splitlines()) <= 10, message
        assert str(path) in message, f"{what}: {message}"
        return False
    except BaseException as error:
        raise AssertionError(f"{what}: {type(error).__name__} {error}") from error
    assert found, what
    for item in found:
        prompt, answer = item[:2] if isinstance(item, tuple) else (item.prompt, item.id)
        assert prompt and answer and isinstance(answer, str), what
        json.dumps([prompt, answer], ensure_ascii=False).encode()
        if not isinstance(item, tuple):
            assert item.answer.strip() and item.answer.lower() != "nan", what
            item.answer.encode()
    return True


@pytest.fixture(autouse=True)
def calm(monkeypatch):
    """Without the sandbox, which takes a process for each file of programs."""

    monkeypatch.setattr(code, "confinement", lambda: "none")
    logging.getLogger("hapo_jax").setLevel(logging.ERROR)
    yield
    logging.getLogger("hapo_jax").setLevel(logging.NOTSET)


def try_many(folder, number, seed):
    """Returns how many of so many mutated files could be read."""
    fine = 0
    for i in range(number):
        draw = random.Random(f"{seed}/{i}")
        path, name, said = mutated(draw, folder)
        fine += look(path, f"{seed}/{i} {said}", lambda: read(path, name, draw))
    return fine


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_whole_files_are_read(tmp_path, name, ending):
    structured = name in ("hands", "people", "programs")
    if structured and files.kind(pathlib.Path(f"a{ending}")).kind in (".csv", ".tsv"):
        pytest.skip("a table of texts has no lists")
    path = write(tmp_path / f"a{ending}", ROWS[name])
    assert look(path, name, lambda: read(path, name, random.Random(0)))


@pytest.mark.slow
def test_in_short(tmp_path):
    fine = try_many(tmp_path, 800, seed=0)
    assert 80 < fine < 720  # neither harmless changes alone, nor none


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 9))
def test_in_long(tmp_path, seed):
    try_many(tmp_path, 5000, seed)


def test_flag_files(tmp_path):
    path = tmp_path / "flags.json"
    assert data_checks.excluded_ids([write_flags(path, FLAGS)]) == {"a", "b", "3"}
    for i in range(300):
        draw = random.Random(i)
        data, said = garble(draw, json.dumps(FLAGS).encode())
        if draw.random() < 0.5:
            content = copy.deepcopy(FLAGS)
            content[draw.choice(list(FLAGS))] = draw.choice([*VALUES, [{"train": []}]])
            data = json.dumps(content).encode()
        path.write_bytes(data)
        try:
            found = data_checks.excluded_ids([str(path)])
            found |= data_checks.leaked_ids(path)
            assert all(isinstance(name, str) for name in found), said
        except Refused as error:
            last = traceback.extract_tb(error.__traceback__)[-1].filename
            assert last.startswith(PACKAGE) and str(path) in str(error), said


def write_flags(path, content):
    path.write_text(json.dumps(content))
    return str(path)
