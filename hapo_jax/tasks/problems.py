"""Problems, grades, and the one reader of problem files.

Two kinds of rows are understood, in JSONL, gzipped JSONL and parquet files:

  ours    {"id": "gsm8k-7", "problem": "...", "answer": "18", "source": "gsm8k"}
          (`source` may be absent, further fields are ignored)
  verl's  {"prompt": [{"role": "user", "content": "..."}], "data_source": "math_dapo",
           "reward_model": {"ground_truth": "18"}, "extra_info": {"index": 7}}
          (`extra_info` may be absent)

Chat templates are the tokenizer's business: here a prompt stays text or messages.
"""

import dataclasses
import gzip
import hashlib
import json
import logging
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

_log = logging.getLogger(__name__)

PLACEHOLDER = "{problem}"
_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
_OUR_FIELDS = ("id", "problem", "answer", "source")
_VERL_FIELDS = ("prompt", "reward_model", "data_source", "extra_info")


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem, as a task hands it to the rollout.

    Attributes:
      id: unique within its file; random keys are derived from it.
      prompt: plain text, or chat messages of the form {"role": ..., "content": ...}.
      answer: the gold answer, or a JSON text for tasks whose answer has structure.
      source: the data set it comes from; evaluation reports by source.
    """

    id: str
    prompt: str | list[dict[str, str]]
    answer: str
    source: str


class Demonstration(NamedTuple):
    """One worked example for supervised fine-tuning.

    Attributes:
      prompt: as in `Problem`.
      completion: text that the policy shall write; its end token is added.
    """

    prompt: str | list[dict[str, str]]
    completion: str


class Grade(NamedTuple):
    """What a grader says about one completion.

    Attributes:
      score: 1.0 if the completion is right, else 0.0.
      extracted: what was read as its answer; None if no answer was found.
    """

    score: float
    extracted: str | None


def read_problems(
    path: str | pathlib.Path, *, prompt_template: str | None
) -> list[Problem]:
    """Reads all problems of a file, in its order.

    Ids are unique in what is returned. Rows repeated word for word are read once (the
    published DAPO-Math-17k and AIME-2024 files hold each row 100 and 32 times) and
    their number is logged; one id with two contents is an error. A verl row is named
    by its source and `extra_info.index`, or by a hash of its content without an index.

    Args:
      path: a file ending in .jsonl, .jsonl.gz or .parquet.
      prompt_template: text around `{problem}`, for rows of our kind; None leaves the
        problem as it is. Rows of verl's kind carry complete messages and refuse one.

    Raises:
      ValueError: the kind of file is unknown, it holds no rows, the template lacks
        `{problem}`, or a row is broken; names file, line, field and remedy.
      FileNotFoundError: there is no such file.
    """
    path = pathlib.Path(path)
    if not path.name.endswith(_SUFFIXES):
        raise ValueError(
            f"{str(path)!r} must end in one of {', '.join(_SUFFIXES)}; convert or "
            "rename it."
        )
    if prompt_template is not None and PLACEHOLDER not in prompt_template:
        raise ValueError(
            f"{prompt_template=} must contain {PLACEHOLDER}, where the problem goes; "
            "use None for the bare problem."
        )
    rows = _parquet_rows if path.suffix == ".parquet" else _jsonl_rows
    found: dict[str, Problem] = {}
    repeated = 0
    for where, row in rows(path):
        problem = _problem(row, where, _stem(path), prompt_template)
        known = found.setdefault(problem.id, problem)
        if known is problem:
            continue
        if known != problem:
            raise ValueError(
                f"{where}: id {problem.id!r} was used before for another problem; "
                "ids must be unique in a file, so rename one."
            )
        repeated += 1
    if not found:
        raise ValueError(f"{path} holds no problems; give a file with at least one.")
    if repeated:
        _log.warning("%s: %d repeated rows were read once.", path, repeated)
    return list(found.values())


def _stem(path: pathlib.Path) -> str:
    """gsm8k_train for data/gsm8k_train.jsonl.gz."""
    suffix = next(suffix for suffix in _SUFFIXES if path.name.endswith(suffix))
    return path.name.removesuffix(suffix)


def _jsonl_rows(path: pathlib.Path) -> Iterator[tuple[str, dict]]:
    """Yields (place, row) of each line that is not blank."""
    opened = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}, line {number}", json.loads(line)
    except (ValueError, RecursionError) as error:  # bad UTF-8 is a ValueError too
        raise ValueError(
            f"{path}, line {number} is not JSON ({error}); write one JSON object per "
            "line, in UTF-8."
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} breaks off or is damaged after line {number} ({error}); fetch or "
            "compress it again."
        ) from error


def _parquet_rows(path: pathlib.Path) -> Iterator[tuple[str, dict]]:
    """Yields (place, row), a batch in memory at a time, only the columns needed."""
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
        wanted = [*_OUR_FIELDS, *_VERL_FIELDS]
        columns = [name for name in file.schema_arrow.names if name in wanted]
        number = 0
        for batch in file.iter_batches(columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row


def _problem(row: Any, where: str, stem: str, template: str | None) -> Problem:
    """One row of either kind as a Problem."""
    if not isinstance(row, dict):
        raise ValueError(
            f"{where}: {type(row).__name__} where an object belongs; write rows with "
            f"the fields {', '.join(_OUR_FIELDS[:3])}."
        )
    if "problem" in row:
        return _our_problem(row, where, stem, template)
    if "prompt" in row:
        return _verl_problem(row, where, template)
    raise ValueError(
        f"{where}: neither field 'problem' (with id, answer) nor field 'prompt' (with "
        f"reward_model.ground_truth, data_source) among {sorted(row)}; rename the "
        "fields."
    )


def _our_problem(row: dict, where: str, stem: str, template: str | None) -> Problem:
    text = _text(row, "problem", where)
    source = row.get("source")
    return Problem(
        id=_text(row, "id", where),
        # `replace`, not `format`: templates and problems are full of LaTeX braces.
        prompt=text if template is None else template.replace(PLACEHOLDER, text),
        answer=_answer(row.get("answer"), "answer", where),
        source=stem if source is None else _text(row, "source", where),
    )


def _verl_problem(row: dict, where: str, template: str | None) -> Problem:
    if template is not None:
        raise ValueError(
            f"{where}: prompt_template is set but field 'prompt' holds messages that "
            "carry their instructions already; set prompt_template to None."
        )
    messages = _messages(row["prompt"], where)
    source = _text(row, "data_source", where)
    reward_model = row.get("reward_model")
    if not isinstance(reward_model, dict):
        raise ValueError(
            f"{where}: field 'reward_model' must be an object with ground_truth, got "
            f"{type(reward_model).__name__}; add the gold answer there."
        )
    answer = _answer(
        reward_model.get("ground_truth"), "reward_model.ground_truth", where
    )
    extra = row.get("extra_info")
    index = extra.get("index") if isinstance(extra, dict) else None
    if index is None:
        content = json.dumps([messages, answer])
        index = hashlib.sha256(content.encode()).hexdigest()[:16]
    return Problem(f"{source}-{index}", messages, answer, source)


def _text(row: dict, field: str, where: str) -> str:
    """A field that must be a text with something in it."""
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"{where}: field {field!r} must be a non-empty text, got {value!r}; fill "
            "it in or drop the row."
        )
    return value


def _answer(value: Any, field: str, where: str) -> str:
    """A gold answer as text: numbers in digits, structures as JSON.

    An empty answer is refused: every completion without an answer would match it.
    """
    if isinstance(value, int | float | dict | list) and not isinstance(value, bool):
        return json.dumps(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"{where}: field {field!r} must be a non-empty text, a number or a "
            f"structure, got {value!r}; fill it in or drop the row."
        )
    return value


def _messages(value: Any, where: str) -> list[dict[str, str]]:
    """Chat messages, checked, with role and content only."""
    good = (
        isinstance(value, list)
        and value
        and all(
            isinstance(m, dict)
            and isinstance(m.get("role"), str)
            and isinstance(m.get("content"), str)
            for m in value
        )
    )
    if not good:
        raise ValueError(
            f"{where}: field 'prompt' must be a list of messages with the texts role "
            f"and content, got {str(value)[:80]!r}; put plain text in a field "
            "'problem' (with id and answer) instead."
        )
    return [{"role": m["role"], "content": m["content"]} for m in value]
