"""Rows of data files, each with its place for messages: one reader per kind of file.

JSON lines, JSON (a list of rows), CSV, Arrow and parquet; text also packed by gzip or
zstandard. What a library says about a file that is damaged, or is another kind of file
than its name says, is turned into a ValueError that names the file, the row and the
field.
"""

import contextlib
import csv
import gzip
import io
import itertools
import json
import pathlib
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from hapo_jax import user_files
from hapo_jax.tasks import files

Row = dict[str, Any]
# Columns of a file that are read, chosen by their names.
Choice = Callable[[Sequence[str]], Sequence[str]]
Broken = Callable[[ValueError], None]

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


def stop(error: ValueError) -> None:
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
      on_broken: is called with a ValueError for each row that is broken.

    Raises:
      ValueError: the file cannot be opened, or is damaged or of another kind.
    """
    known = files.kind(path)
    with user_files.refusing(path):
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is no file; put the file in its place.")
        with path.open("rb") as file:
            _check_head(file.read(user_files.HEAD_BYTES), path, known)
    found = _READERS[known.kind](path, choose, on_broken)
    for where, row in found:
        if isinstance(row, dict):
            yield where, row
            continue
        on_broken(
            ValueError(
                f"{where}: {user_files.kind(row)} where an object belongs; write rows "
                "with fields, such as id, problem, answer."
            )
        )


def _check_head(head: bytes, path: pathlib.Path, known: files.Kind) -> None:
    """Refuses what is recognised to be no such file."""
    if problem := user_files.recognise(head):
        raise ValueError(f"{path} {problem}.")
    own = _OWN_MAGIC.get(known.packing or known.kind, ())
    if own and not head.startswith(own):
        what = next((w for m, w in _MAGIC.items() if head.startswith(m)), "")
        raise ValueError(
            f"{path} is {what or 'something else'} and not what its name says"
            f"{'; rename it' if what else ''}, or fetch or write it again."
        )
    for magic, what in () if own or known.kind == ".arrow" else _MAGIC.items():
        if head.startswith(magic):
            raise ValueError(
                f"{path} is {what} and not what its name says; rename or convert it. "
                f"Data files end in {files.endings()}."
            )


@contextlib.contextmanager
def _refusing(path: pathlib.Path, place: Callable[[], str]) -> Iterator[None]:
    """Around what reads a file: turns what libraries say about it into a ValueError.

    Faults of the machine, which have a number, stay as they are.
    """
    # Imported here because graders' processes import this module and read no files.
    import pyarrow

    try:
        yield
    except (
        pyarrow.ArrowException,  # a MemoryError too: a length that is garbled
        csv.Error,
        zlib.error,
        EOFError,
        UnicodeDecodeError,
        OSError,
    ) as error:
        if isinstance(error, OSError) and error.errno is not None:
            with user_files.refusing(path):
                raise
        text = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} breaks off or is damaged {place()} ({text}); fetch or write it "
            "again."
        ) from None


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
    with _refusing(path, lambda: f"after line {number}"), _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(line, object_pairs_hook=user_files.pairs_once)
            # Bad UTF-8 is a ValueError too.
            except (ValueError, RecursionError) as error:
                on_broken(
                    ValueError(
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
    with _refusing(path, lambda: "at its beginning"), _opened(path) as file:
        data = file.read()
    try:
        content = json.loads(data, object_pairs_hook=user_files.pairs_once)
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply; copy it again.") from None
    except ValueError as error:
        if str(error).startswith("Extra data"):  # one object after another
            yield from _lines(path, choose, on_broken)
            return
        raise ValueError(
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
            raise ValueError(
                f"{path} holds an object with the keys {_few(content)} where a list of "
                "rows belongs; write [{…}, {…}], or one object per line."
            )
        content, inside = content[lists[0]], f" of {lists[0]!r}"
    if not isinstance(content, list):
        raise ValueError(
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
        with _refusing(path, lambda: f"after row {number}"), _opened(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            head = text.readline()
            lines = itertools.chain([head], text)
            table = csv.reader(lines, delimiter=_delimiter(head), strict=True)
            header = [name.strip() for name in next(table, [])]
            # pandas leaves the column of its index without a name.
            named = [name for name in header if name]
            if len(set(named)) < len(named) or not named:
                raise ValueError(
                    f"{path}: the first line must name each column, once, and is "
                    f"{user_files.short(header)}; correct it."
                )
            for number, cells in enumerate(table, start=1):
                where = f"{path}, row {number}"
                if not cells:
                    continue
                if len(cells) != len(header):
                    on_broken(
                        ValueError(
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


def _arrow_rows(
    path: pathlib.Path, choose: Choice, on_broken: Broken
) -> Iterator[tuple[str, Row]]:
    """Yields (place, row) of an IPC file or stream; the latter is what `datasets`
    writes."""
    import pyarrow
    from pyarrow import ipc

    number = 0
    with _refusing(path, lambda: f"after row {number}"):
        with pyarrow.OSFile(str(path)) as file:
            is_file = file.read(6) == b"ARROW1"
            file.seek(0)
            if is_file:
                reader = ipc.open_file(file)
                batches = (
                    reader.get_batch(i) for i in range(reader.num_record_batches)
                )
            else:
                _check_end(file)
                reader = batches = ipc.open_stream(file)
            names = _unique(reader.schema.names, path)
            for batch in batches:
                for column in batch.columns:
                    _check_column(column)
                batch = batch.select(list(choose(names)))
                for row in _unpacked(batch, path, number, on_broken):
                    number += 1
                    if row is not None:
                        yield f"{path}, row {number}", row


def _check_end(file) -> None:
    """A stream that was not written to its end has no mark there."""
    import pyarrow

    mark = b"\xff\xff\xff\xff"
    begins = file.read(4)
    file.seek(max(0, file.size() - 8))
    ends = file.read()
    file.seek(0)
    if begins == mark and ends != mark + bytes(4):  # older versions begin without it
        raise pyarrow.ArrowInvalid("the mark of its end is missing")


def _check_column(column) -> None:
    """Refuses lengths and offsets that lead astray; Python's values trust them."""
    import pyarrow

    try:
        column.validate(full=True)
    except pyarrow.ArrowInvalid as error:
        # Text that is not UTF-8 is looked for once all else is right.
        if not pyarrow.types.is_string(column.type) or "UTF8" not in str(error):
            raise


def _parquet_rows(
    path: pathlib.Path, choose: Choice, on_broken: Broken
) -> Iterator[tuple[str, Row]]:
    """Yields (place, row), a batch in memory at a time, only the chosen columns."""
    from pyarrow import parquet

    number = 0
    with _refusing(path, lambda: f"after row {number}"):
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            columns = choose(_unique(file.schema_arrow.names, path))
            for batch in file.iter_batches(columns=list(columns)):
                for row in _unpacked(batch, path, number, on_broken):
                    number += 1
                    if row is not None:
                        yield f"{path}, row {number}", row


def _unique(names: list[str], path: pathlib.Path) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{path} has two columns of the name {twice[0]!r}; write it with one."
        )
    return names


def _unpacked(
    batch, path: pathlib.Path, before: int, on_broken: Broken
) -> list[Row | None]:
    """The rows of a batch as Python has them; None where one cannot be had."""
    # A date beyond Python's years, a zone that it does not know.
    foreign = (ValueError, OverflowError, LookupError, TypeError)
    try:
        return batch.to_pylist()
    except foreign:
        pass
    found: list[Row | None] = []
    for i in range(batch.num_rows):
        row: Row | None = {}
        for name, column in zip(batch.schema.names, batch.columns):
            try:
                row[name] = column[i].as_py()
            except foreign as error:
                on_broken(
                    ValueError(
                        f"{path}, row {before + i + 1}: field {name!r} cannot be read "
                        f"({str(error)[:200]}); write it again, as text in UTF-8."
                    )
                )
                row = None
                break
        found.append(row)
    return found


def _few(names) -> str:
    names = [repr(name) for name in names]
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "")


_READERS = {
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".arrow": _arrow_rows,
    ".parquet": _parquet_rows,
}
