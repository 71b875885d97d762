"""Rows of JSONL, gzipped JSONL and parquet files, each with its place for messages."""

import contextlib
import gzip
import json
import pathlib
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
_digits = threading.Lock()


def stem(path: pathlib.Path) -> str:
    """gsm8k_train for data/gsm8k_train.jsonl.gz."""
    suffix = next(suffix for suffix in SUFFIXES if path.name.endswith(suffix))
    return path.name.removesuffix(suffix)


def stop(error: ValueError) -> None:
    """What a broken row does unless told otherwise."""
    raise error


def rows(
    path: pathlib.Path,
    fields: tuple[str, ...] | None,
    on_broken: Callable[[ValueError], None] = stop,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (place, row) of each row; of parquet files the given fields, or all."""
    if not path.name.endswith(SUFFIXES):
        raise ValueError(
            f"{str(path)!r} must end in one of {', '.join(SUFFIXES)}; convert or "
            "rename it."
        )
    if not path.is_file():
        raise ValueError(
            f"there is no file {str(path)!r}; correct the path, which is relative to "
            f"the current folder {str(pathlib.Path.cwd())!r} unless it starts with '/'."
        )
    if path.suffix == ".parquet":
        found = _parquet_rows(path, fields)
    else:
        found = _jsonl_rows(path, on_broken)
    for where, row in found:
        if isinstance(row, dict):
            yield where, row
            continue
        on_broken(
            ValueError(
                f"{where}: {type(row).__name__} where an object belongs; write rows "
                "with the fields id, problem, answer."
            )
        )


@contextlib.contextmanager
def any_digits() -> Iterator[None]:
    """Lets integers in JSON have more than the 4,300 digits that Python reads.

    For data that are trusted: time goes with the square of the digits.
    """
    with _digits:  # one thread after another, or the limit might stay off
        most = sys.get_int_max_str_digits()
        sys.set_int_max_str_digits(0)
        try:
            yield
        finally:
            sys.set_int_max_str_digits(most)


def _jsonl_rows(
    path: pathlib.Path, on_broken: Callable[[ValueError], None]
) -> Iterator[tuple[str, Any]]:
    """Yields (place, row) of each line that is not blank."""
    opened = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                where = f"{path}, line {number}"
                try:
                    with any_digits():
                        row = json.loads(line)
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
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} breaks off or is damaged after line {number} ({error}); fetch or "
            "compress it again."
        ) from error


def _parquet_rows(
    path: pathlib.Path, fields: tuple[str, ...] | None
) -> Iterator[tuple[str, dict]]:
    """Yields (place, row), a batch in memory at a time, only the given fields."""
    # Imported here because graders' processes import this module and read no files.
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(
            f"{path} is not a parquet file ({error}); fetch or write it again."
        ) from error
    with file:
        names = file.schema_arrow.names
        columns = [name for name in names if fields is None or name in fields]
        number = 0
        for batch in file.iter_batches(columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
