"""Files that are not what their name says, and fields that are not of their type."""

import os
import subprocess
import sys

import pytest

from hapo_jax.system import user_files
from hapo_jax.system.user_files import Fields

LFS = b"""version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 12345
"""


def test_reads_an_object(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, "é", null], "b": {"c": 1e-6}}', encoding="utf-8")
    assert user_files.read_object(path) == {"a": [1, "é", None], "b": {"c": 1e-6}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty; download or copy it again"),
        (LFS, "is a Git LFS pointer .* `git lfs pull`"),
        (b"<!DOCTYPE html>\n<html><body>404", "is a web page"),
        (b"\n <html>", "is a web page"),
        (bytes(1000), "nothing but zero bytes"),
        ('{"a": 1}'.encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        ('{"a": 1}'.encode("utf-8-sig"), "begins with a byte order mark"),
        ('{"é": 1}'.encode("latin-1"), r"not UTF-8 text \(byte 2 is 0xe9\)"),
        (b"{", "is not JSON: "),
        (b"{'a': 1}", "is not JSON: "),
        (b'{"a": 1}\n{"a": 2}', "is not JSON: Extra data: line 2"),
        (b'[{"a": 1}]', "holds a list where an object belongs"),
        (b"null", "holds null where"),
        (b'"text"', "holds a text where"),
        (b"3", "holds a number where"),
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a.json: .*digits.* mend it"),
        (b'{"a": 1, "b": 2, "a": [3]}', r"'a' occurs twice, as 1 and as \[3\]"),
    ],
)
def test_refuses_by_name(tmp_path, data, message):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        user_files.read_object(path)
    assert str(error.value).startswith(str(path))


def test_the_same_twice_is_no_matter(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1, "a": 1}')
    assert user_files.read_object(path) == {"a": 1}


def test_refuses_what_is_no_file(tmp_path):
    def refuse(name, message):
        with pytest.raises(ValueError, match=f"{name}.* {message}"):
            user_files.read_text(tmp_path / name)

    refuse("missing.json", "does not exist")
    (tmp_path / "folder.json").mkdir()
    refuse("folder.json", "is no file")
    os.mkfifo(tmp_path / "pipe.json")
    refuse("pipe.json", "is no file")
    (tmp_path / "dangling.json").symlink_to("nowhere")
    refuse("dangling.json", "is a link that leads nowhere")
    (tmp_path / "loop.json").symlink_to("loop.json")
    refuse("loop.json", "leads in a circle")
    refuse("n" * 300, "has too long a name")
    (tmp_path / "file").write_text("")
    refuse("file/a.json", "lies below a file")


def test_faults_of_the_disk_are_no_refusals(tmp_path, monkeypatch):
    """Bad input ends a program for good; a bad read may be tried again."""

    def fail(self):
        raise OSError(5, "Input/output error")

    (tmp_path / "a.json").write_text("{}")
    with monkeypatch.context() as patch:  # others read files after the test
        patch.setattr("pathlib.Path.read_bytes", fail)
        with pytest.raises(OSError, match="Input/output error"):
            user_files.read_text(tmp_path / "a.json")


def test_fields_are_of_their_type():
    fields = Fields(
        {"n": 3, "x": 0.5, "on": False, "name": "a", "in": {"y": 2}, "no": None}, "f"
    )
    assert (fields.whole("n"), fields.number("n")) == (3, 3.0)
    assert (fields.number("x", above=0), fields.number("x", least=0.5)) == (0.5, 0.5)
    assert (fields.flag("on"), fields.text("name")) == (False, "a")
    inner = fields.table("in")
    assert (dict(inner), inner.where) == ({"y": 2}, "f: in")
    # null is as good as nothing
    assert "no" not in fields and "no" in fields.nulls
    assert fields.whole("no", 7) == 7
    assert dict(fields.table("no")) == {}


@pytest.mark.parametrize(
    ("read", "value", "rule"),
    [
        ("whole", 1.0, "must be a whole number, at least 1"),
        ("whole", True, "must be a whole number"),
        ("whole", "1", "must be a whole number"),
        ("whole", 0, "must be a whole number"),
        ("whole", 10**30, "must be a whole number"),
        ("whole", [1], "must be a whole number"),
        ("number", "1e-6", "must be a number"),
        ("number", True, "must be a number"),
        ("number", float("inf"), "must be a number"),
        ("number", float("nan"), "must be a number"),
        ("flag", "false", "must be true or false"),
        ("flag", 0, "must be true or false"),
        ("text", 5, "must be a text"),
        ("table", [], "must be an object"),
    ],
)
def test_fields_of_another_type(read, value, rule):
    with pytest.raises(ValueError, match=f"^file.json: key=.* {rule}"):
        getattr(Fields({"key": value}, "file.json"), read)("key")


def test_messages_stay_short():
    with pytest.raises(ValueError) as error:
        Fields({"key": ["x" * 10**6]}, "file.json").whole("key")
    assert len(str(error.value)) < 200


def test_missing_fields_are_all_named():
    with pytest.raises(ValueError, match="^f lacks b, c; copy it"):
        Fields({"a": 1, "b": None}, "f").require("a", "b", "c", remedy="copy it")


def test_imports_no_jax():
    code = "import sys, hapo_jax.system.user_files; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
