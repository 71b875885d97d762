"""Kinds of data files: what is read, and what is refused by what it is."""

import csv
import json

import pyarrow
import pytest
from pyarrow import ipc, parquet

from hapo_jax.tasks import readers
from tests.tasks import test_broken_data

ROWS = [
    {"id": 1, "problem": 'say "1,\n2"', "answer": "1", "more": {"a": [1]}},
    {"id": 2, "problem": "é", "answer": None, "more": {"a": []}},
]


def read(path, **options):
    return list(readers.rows(path, **options))


@pytest.mark.parametrize("ending", test_broken_data.ENDINGS)
def test_all_kinds_hold_the_same_rows(tmp_path, ending):
    path = test_broken_data.write(tmp_path / f"a{ending}", ROWS)
    places, rows = zip(*read(path))
    if ".csv" in ending or ending == ".tsv":  # of texts alone
        rows = [{**row, "id": int(row["id"])} for row in rows]
    assert list(rows) == ROWS
    word = "line" if "jsonl" in ending else "row"
    assert places == (f"{path}, {word} 1", f"{path}, {word} 2")


def test_what_spreadsheets_write(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("\ufeffproblem;answer\r\n1,5 + 1;2,5\r\n".encode())
    assert read(path) == [(f"{path}, row 1", {"problem": "1,5 + 1", "answer": "2,5"})]
    path.write_text(",problem,answer\n0,1 + 1,2.0\n")  # pandas, with its index
    assert read(path) == [(f"{path}, row 1", {"problem": "1 + 1", "answer": 2.0})]
    long = "x" * 500_000  # beyond the limit of Python's reader
    path.write_text(f"problem,answer\n{long},2\n")
    assert read(path)[0][1]["problem"] == long
    assert csv.field_size_limit() < 500_000  # as it was


def test_forms_of_json(tmp_path):
    path = tmp_path / "a.json"
    row = {"problem": "1", "answer": "1"}
    for text in (
        json.dumps([row, row]),
        json.dumps({"version": 1, "data": [row, row]}),
        f"{json.dumps(row)}\n{json.dumps(row)}\n",
    ):
        path.write_text(text)
        assert [found for _, found in read(path)] == [row, row]
    path.write_text(json.dumps(row))
    assert [found for _, found in read(path)] == [row]


def test_only_the_chosen_columns(tmp_path):
    for ending in (".parquet", ".arrow"):
        path = test_broken_data.write(tmp_path / f"a{ending}", ROWS)
        found = read(path, choose=lambda names: [n for n in names if n == "answer"])
        assert [row for _, row in found] == [{"answer": "1"}, {"answer": None}]


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        *((f"a{e}", LFS, "is a Git LFS pointer") for e in test_broken_data.ENDINGS),
        ("a.parquet", b"<!DOCTYPE html><html>", "is a web page and not the file"),
        ("a.jsonl", b"\n<html>", "is a web page"),
        ("a.jsonl", b"\x1f\x8b\x08", "is packed by gzip and not what its name says"),
        ("a.jsonl", b"PAR1", "is a parquet file and not what its name says"),
        ("a.csv", b"PK\x03\x04..", "is a zip archive, perhaps of a spreadsheet"),
        ("a.json", b"\xff\xfe{\0", "is UTF-16 text"),
        ("a.parquet", b"\x1f\x8b\x08", "is packed by gzip .*rename it"),
        ("a.arrow", b"ARROW1", "damaged after row 0"),
        ("a.arrow", b"text", "damaged after row 0"),
        ("a.json", b"[1, 2", "is not JSON"),
        (
            "a.jsonl",
            b'{"a": 1, "a": 2}',
            "line 1 .*'a' occurs twice, as 2 and as 1|1 and",
        ),
        ("a.json", b"3", "a number where a list of rows belongs"),
        ("a.json", b'{"problem": {"0": "1"}}', "an object with the keys 'problem'"),
        ("a.json", b"[3]", "row 1: a number where an object belongs"),
        ("a.csv", b"a,b\n1\n", "row 1 has 1 cells where the header names 2 columns"),
        ("a.csv", b"a,a\n1,2\n", "must name each column, once"),
        ("a.csv", b'a,b\n1,"2\n', "damaged after row 0"),
        ("a.csv", b"a,b\n\xff,2\n", "damaged after row 0.*utf-8"),
    ],
)
def test_refusals(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl.zst", ".parquet", ".arrow"])
def test_files_that_break_off(tmp_path, ending):
    rows = [{"problem": f"{i}" * 50, "answer": "1"} for i in range(50)]
    path = test_broken_data.write(tmp_path / f"a{ending}", rows)
    data = path.read_bytes()
    for end in (len(data) - 1, len(data) // 2, 20):
        path.write_bytes(data[:end])
        with pytest.raises(ValueError, match="breaks off or is damaged"):
            read(path)


def test_a_damaged_page(tmp_path):
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"problem": ["a" * 99, "b" * 99], "answer": ["1", "2"]})
    parquet.write_table(
        table,
        path,
        compression="none",
        use_dictionary=False,
        write_page_checksum=True,
        write_statistics=False,
    )
    data = path.read_bytes()
    path.write_bytes(data.replace(b"b" * 99, b"b" * 40 + b"c" + b"b" * 58, 1))
    with pytest.raises(ValueError, match=r"damaged after row 0 \(.*checksum"):
        read(path)


def test_bad_text_in_a_column_names_row_and_field(tmp_path):
    bad = pyarrow.array([b"fine", b"\xff\xfe"]).view(pyarrow.string())
    table = pyarrow.table({"id": ["a", "b"], "problem": bad})
    parquet.write_table(table, tmp_path / "a.parquet")
    with ipc.new_stream(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        broken = []
        rows = read(tmp_path / name, on_broken=broken.append)
        assert [row["id"] for _, row in rows] == ["a"]
        (error,) = broken
        assert f"{name}, row 2: field 'problem' cannot be read" in str(error)


def test_a_stream_without_its_end(tmp_path):
    path = tmp_path / "a.arrow"
    test_broken_data.write(path, ROWS)
    path.write_bytes(path.read_bytes()[:-8])  # at the edge of a message
    with pytest.raises(ValueError, match="the mark of its end is missing"):
        read(path)


def test_faults_of_a_path(tmp_path):
    (tmp_path / "a.jsonl").symlink_to("nowhere")
    with pytest.raises(ValueError, match="is a link that leads nowhere"):
        read(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").mkdir()
    with pytest.raises(ValueError, match="is no file"):
        read(tmp_path / "b.jsonl")
