"""Rows of data files, each with its place for messages: one reader per kind of file.

JSON lines, JSON (a list of rows), CSV, Arrow and parquet (`tables.py`); text also
packed by gzip or zstandard. What a library says about a file that is damaged, or is
another kind of file than its name says, is turned into a refusal that names the
file, the row and the field.
"""

import contextlib
import csv
import gzip
import io
import itertools
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from hapo_jax.system import user_files
from hapo_jax.system.errors import Refused
from hapo_jax.tasks import files, tables
from hapo_jax.tasks.row_values import Row
from hapo_jax.tasks.tables import Broken, Choice

# How files of other kinds begin -> what they are.
_MAGIC = {
    b"PAR1": "a parquet file",
    b"ARROW1": "an Arrow file",
    b"\x1f\x8b": "packed by gzip",
    b"\x28\xb5\x2f\xfd": "packed by zstandard",
    b"PK\x03\x04": "a zip archive, perhaps of a spreadsheet",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet or document",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"BZh": "packed by bzip2",
    b"\xfd7zXZ": "packed by xz",
    b"SQLite": "a database of SQLite",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}
_OWN_MAGIC = {
    ".parquet": (b"PAR1",),
    ".gz": (b"\x1f\x8b",),
    ".zst": (b"\x28\xb5\x2f\xfd",),
}
_LONGEST_CELL = 2**31 - 1
# What pandas makes of whole numbers in a column with gaps.
_WHOLE_FLOAT = re.compile(r"-?\d{1,15}\.0")


def stop(error: Refused) -> None:
    """What a broken row does unless told otherwise."""
    raise error


def rows(
    path: pathlib.Path,
    choose: Choice = lambda names: names,
    on_broken: Broken = stop,
) -> Iterator[tuple[str, Row]]:
    """Yields (place, row) of each row of a file.

    Args:
      path: of one data file.
      choose: of the columns of an Arrow or parquet file, those that are read.
      on_broken: is called with the refusal of each row that is broken.

    Raises:
      Refused: the file cannot be opened, or is damaged or of another kind.
    """
    known = files.kind(path)
    with user_files.refusing(path):
        if path.exists() and not path.is_file():
            raise Refused(f"{path} is no file; put the file in its place.")
        with path.open("rb") as file:
            _check_head(file.read(user_files.HEAD_BYTES), path, known)
    found = _READERS[known.kind](path, choose, on_broken)
    for where, row in found:
        if isinstance(row, dict):
            yield where, row
            continue
        on_broken(
            Refused(
                f"{where}: {user_files.kind(row)} where an object belongs; write rows "
                "with fields, such as id, problem, answer."
            )
        )


def _check_head(head: bytes, path: pathlib.Path, known: files.Kind) -> None:
    """Refuses what is recognised to be no such file."""
    if problem := user_files.recognise(head):
        raise Refused(f"{path} {problem}.")
    own = _OWN_MAGIC.get(known.packing or known.kind, ())
    if own and not head.startswith(own):
        what = next((w for m, w in _MAGIC.items() if head.startswith(m)), "")
        raise Refused(
            f"{path} is {what or 'something else'} and not what its name says"
            f"{'; rename it' if what else ''}, or fetch or write it again."
        )
    for magic, what in () if own or known.kind == ".arrow" else _MAGIC.items():
        if head.startswith(magic):
            raise Refused(
                f"{path} is {what} and not what its name says; rename or convert it. "
                f"Data files end in {files.endings()}."
            )


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked."""
    packing = files.kind(path).packing
    if packing == ".gz":
        with gzip.open(path, "rb") as file:
            yield file
    elif packing == ".zst":
        import pyarrow

        with pyarrow.OSFile(str(path)) as raw:
            stream = pyarrow.CompressedInputStream(raw, "zstd")
            with io.BufferedReader(stream) as file:
                yield file
    else:
        with path.open("rb") as file:
            yield file


def _lines(
    path: pathlib.Path, choose: Choice, on_broken: Broken
) -> Iterator[tuple[str, Any]]:
    """Yields (place, row) of each line that is not blank."""
    number = 0
    with tables.refusing(path, lambda: f"after line {number}"), _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                with user_files.any_digits():
                    row = json.loads(line, object_pairs_hook=user_files.pairs_once)
            # Bad UTF-8 is a ValueError too.
            except (ValueError, RecursionError) as error:
                on_broken(
                    Refused(
                        f"{where} is not JSON ({error}); write one JSON object per "
                        "line, in UTF-8."
                    )
                )
            else:
                yield where, row


def _json_rows(
    path: pathlib.Path, choose: Choice, on_broken: Broken
) -> Iterator[tuple[str, Any]]:
    """Yields (place, row) of a list of rows, or of lines if the file has those."""
    with tables.refusing(path, lambda: "at its beginning"), _opened(path) as file:
        data = file.read()
    try:
        with user_files.any_digits():
            content = json.loads(data, object_pairs_hook=user_files.pairs_once)
    except RecursionError:
        raise Refused(f"{path} is nested too deeply; copy it again.") from None
    except ValueError as error:
        if str(error).startswith("Extra data"):  # one object after another
            yield from _lines(path, choose, on_broken)
            return
        raise Refused(
            f"{path} is not JSON: {error}; mend it, or copy it again."
        ) from None
    yield from _listed(content, path)


def _listed(content: Any, path: pathlib.Path) -> Iterator[tuple[str, Any]]:
    """The rows of a list, or of the only list of objects in an object."""
    inside = ""
    if isinstance(content, dict):
        lists = [
            key
            for key, value in content.items()
            if isinstance(value, list) and value and isinstance(value[0], dict)
        ]
        texts = any(isinstance(value, str) for value in content.values())
        if texts:  # the only line of a file of lines
            yield f"{path}, line 1", content
            return
        if len(lists) != 1:
            raise Refused(
                f"{path} holds an object with the keys {_few(content)} where a list of "
                "rows belongs; write [{…}, {…}], or one object per line."
            )
        content, inside = content[lists[0]], f" of {lists[0]!r}"
    if not isinstance(content, list):
        raise Refused(
            f"{path} holds {user_files.kind(content)} where a list of rows belongs; "
            "write [{…}, {…}], or one object per line."
        )
    for number, row in enumerate(content, start=1):
        yield f"{path}, row {number}{inside}", row


def _csv_rows(
    path: pathlib.Path, choose: Choice, on_broken: Broken
) -> Iterator[tuple[str, Row]]:
    """Yields (place, row) of a table with a header; see `_cell`."""
    number = 0
    # Whole solutions are longer than the library's limit.
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        with (
            tables.refusing(path, lambda: f"after row {number}"),
            _opened(path) as file,
        ):
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            head = text.readline()
            lines = itertools.chain([head], text)
            table = csv.reader(lines, delimiter=_delimiter(head), strict=True)
            header = [name.strip() for name in next(table, [])]
            # pandas leaves the column of its index without a name.
            named = [name for name in header if name]
            if len(set(named)) < len(named) or not named:
                raise Refused(
                    f"{path}: the first line must name each column, once, and is "
                    f"{user_files.short(header)}; correct it."
                )
            for number, cells in enumerate(table, start=1):
                where = f"{path}, row {number}"
                if not cells:
                    continue
                if len(cells) != len(header):
                    on_broken(
                        Refused(
                            f"{where} has {len(cells)} cells where the header names "
                            f"{len(header)} columns; put cells with commas or quotes "
                            "between double quotes."
                        )
                    )
                    continue
                yield where, {n: _cell(c) for n, c in zip(header, cells) if n}
    finally:
        csv.field_size_limit(limit)


def _cell(text: str) -> Any:
    """A cell: nothing, an object or a list of them as JSON, 18.0, or its text."""
    if text.startswith(('{"', '[{"')):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(text)
    return float(text) if _WHOLE_FLOAT.fullmatch(text) else text or None


def _delimiter(head: str) -> str:
    """What a header's names stand between: spreadsheets also write `;`."""
    return max(",;\t", key=lambda mark: (head.count(mark), mark == ","))


def _few(names) -> str:
    names = [repr(name) for name in names]
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "")


_READERS = {
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".arrow": tables.arrow_rows,
    ".parquet": tables.parquet_rows,
}
