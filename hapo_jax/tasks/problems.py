"""Problems, grades, demonstrations, and how rows of files become them.

Two kinds of rows are understood, in JSONL, gzipped JSONL and parquet files:

  ours    {"id": "gsm8k-7", "problem": "...", "answer": "18", "source": "gsm8k"}
          (`id` and `source` may be absent, further fields are ignored)
  verl's  {"prompt": [{"role": "user", "content": "..."}], "data_source": "math_dapo",
           "reward_model": {"ground_truth": "18"}, "extra_info": {"index": 7}}
          (`extra_info` may be absent)

Demonstrations are rows with a `problem` or a `prompt` as above, and a `completion` or a
`solution`, which is what the policy shall write.

Chat templates are the tokenizer's business: here a prompt stays text or messages.
"""

import dataclasses
import hashlib
import itertools
import json
import logging
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from hapo_jax.tasks import files

_log = logging.getLogger(__name__)

PLACEHOLDER = "{problem}"
ON_ERROR = ("stop", "skip")
_OUR_FIELDS = ("id", "problem", "answer", "source")
_VERL_FIELDS = ("prompt", "reward_model", "data_source", "extra_info")
# What a demonstration completes its prompt with; the first that a row has.
_COMPLETION_FIELDS = ("completion", "solution")


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem, as a task hands it to the rollout.

    Attributes:
      id: unique within its file; random keys are derived from it.
      prompt: plain text, or chat messages of the form {"role": ..., "content": ...}.
      answer: the gold answer, or a JSON text for tasks whose answer has structure.
      source: the data set it comes from; evaluation reports by source.
      statement: the problem without its template, for comparing sets of problems;
        empty where a task does not tell the two apart.
    """

    id: str
    prompt: str | list[dict[str, str]]
    answer: str
    source: str
    statement: str = ""


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
    path: str | pathlib.Path,
    *,
    prompt_template: str,
    row: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    on_error: str = "stop",
    check: Callable[[str], object] = lambda answer: None,
) -> list[Problem]:
    """Reads all problems of a file, in its order.

    Ids are unique in what is returned. Rows repeated word for word are read once (the
    published DAPO-Math-17k and AIME-2024 files hold each row 100 and 32 times) and
    their number is logged; one id with two contents is an error. A verl row is named
    by its source and `extra_info.index`; a row without id or index by its source and a
    hash of its content.

    Args:
      path: a file ending in .jsonl, .jsonl.gz or .parquet.
      prompt_template: text around `{problem}`, for rows of our kind; empty for the bare
        problem. Rows of verl's kind carry complete messages and refuse a template.
      row: turns a row of another kind into one of ours; may raise ValueError.
      on_error: what a broken row does: "stop" the reading, or "skip" the row, with a
        warning that counts them and names the first. A damaged file stops it.
      check: raises ValueError for an answer that the task cannot grade by.

    Raises:
      ValueError: there is no such file, its kind is unknown, it holds no rows, the
        template lacks `{problem}`, or a row is broken; names file, line, field and
        remedy.
    """
    path = pathlib.Path(path)
    _check_template(prompt_template)
    _check_on_error(on_error)
    found: dict[str, Problem] = {}
    repeated = 0
    broken: list[ValueError] = []
    on_broken = files.stop if on_error == "stop" else broken.append
    fields = None if row else (*_OUR_FIELDS, *_VERL_FIELDS)
    for where, found_row in files.rows(path, fields, on_broken):
        try:
            ours = _converted(row, found_row, where) if row else found_row
            problem = _problem(ours, where, files.stem(path), prompt_template)
            _check_answer(check, problem, where)
            known = found.setdefault(problem.id, problem)
            if known != problem:
                raise ValueError(
                    f"{where}: id {problem.id!r} was used before for another problem; "
                    "ids must be unique in a file, so rename one."
                )
        except ValueError as error:
            on_broken(error)
        else:
            repeated += known is not problem
    if broken:
        _log.warning("%d broken rows were skipped, first: %s", len(broken), broken[0])
    if not found:
        raise ValueError(f"{path} holds no problems; give a file with at least one.")
    if repeated:
        _log.warning("%s: %d repeated rows were read once.", path, repeated)
    return list(found.values())


def read_demonstrations(
    path: str | pathlib.Path, *, prompt_template: str, size: int
) -> list[Demonstration]:
    """Reads worked examples, in the file's order; ids and answers may be absent.

    Args:
      path: a file ending in .jsonl, .jsonl.gz or .parquet.
      prompt_template: as in `read_problems`.
      size: how many, from the top of the file; 0 for all.

    Raises:
      ValueError: as `read_problems`; or the file holds fewer than `size`.
    """
    path = pathlib.Path(path)
    _check_template(prompt_template)
    if size < 0:
        raise ValueError(f"{size=} must not be negative; 0 reads all.")
    rows = files.rows(path, ("problem", "prompt", *_COMPLETION_FIELDS))
    found = [
        _demonstration(row, where, prompt_template)
        for where, row in itertools.islice(rows, size or None)
    ]
    if not found or len(found) < size:
        raise ValueError(
            f"{path} holds {len(found)} demonstrations where {size=} are asked for; "
            "give a larger file, or size=0 for all that it has."
        )
    return found


def read_structured(
    path: str | pathlib.Path,
    *,
    fields: tuple[str, ...],
    make: Callable[[dict[str, Any], str], Problem | None],
    on_error: str,
) -> list[Problem]:
    """Reads problems whose answers have a structure of a task's own.

    Args:
      path: a file ending in .jsonl, .jsonl.gz or .parquet.
      fields: that `make` looks at, besides id, problem and source.
      make: turns a row and its place in the file, for messages, into a problem, or None
        to leave it out; id and problem have been checked, source is filled in. Raises
        ValueError for a broken row.
      on_error: see `read_problems`.

    Raises:
      ValueError: there is no such file, its kind is unknown, it holds no problems, or a
        row is broken; names file, line, field and remedy.
    """
    path = pathlib.Path(path)
    _check_on_error(on_error)
    found: dict[str, Problem] = {}
    broken: list[ValueError] = []
    on_broken = files.stop if on_error == "stop" else broken.append
    for where, row in files.rows(path, ("id", "problem", "source", *fields), on_broken):
        try:
            _text(row, "problem", where)
            if _text(row, "id", where) in found:
                raise ValueError(
                    f"{where}: id {row['id']!r} was used before; ids must be unique in "
                    "a file, so rename one."
                )
            if row.get("source") is None:
                row["source"] = files.stem(path)
            problem = make(row, where)
        except ValueError as error:
            on_broken(error)
        else:
            if problem is not None:
                found[problem.id] = problem
    if broken:
        _log.warning("%d broken rows were skipped, first: %s", len(broken), broken[0])
    if not found:
        raise ValueError(f"{path} holds no problems; give a file with at least one.")
    return list(found.values())


def fill(template: str, **values: str) -> str:
    """A prompt: `{name}` in the template becomes `values[name]`, at least `{problem}`.

    An empty template is the bare problem. No other braces mean anything.
    """
    _check_template(template)
    names = "|".join(map(re.escape, values))
    return re.sub(
        f"{{({names})}}", lambda found: values[found[1]], template or PLACEHOLDER
    )


def _check_template(template: str) -> None:
    if template and PLACEHOLDER not in template:
        raise ValueError(
            f"prompt_template={template!r} must contain {PLACEHOLDER}, where the "
            "problem goes; leave it empty for the bare problem."
        )


def _problem(row: dict, where: str, stem: str, template: str) -> Problem:
    """One row of either kind as a Problem."""
    prompt = _prompt(row, where, template)
    if "problem" in row:
        source = stem if row.get("source") is None else _text(row, "source", where)
        answer = _answer(row.get("answer"), "answer", where)
        known = row.get("id") is not None
        name = _text(row, "id", where) if known else _named(source, prompt, answer)
        return Problem(name, prompt, answer, source, row["problem"])
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
    name = f"{source}-{index}" if index is not None else _named(source, prompt, answer)
    return Problem(name, prompt, answer, source, prompt[-1]["content"])


def _named(source: str, prompt: str | list[dict[str, str]], answer: str) -> str:
    """An id for a row without one, of its content alone."""
    content = json.dumps([prompt, answer])
    return f"{source}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def _demonstration(row: dict, where: str, template: str) -> Demonstration:
    """One row of either kind as a Demonstration."""
    present = [field for field in _COMPLETION_FIELDS if row.get(field) is not None]
    if not present:
        raise ValueError(
            f"{where}: neither field {' nor '.join(map(repr, _COMPLETION_FIELDS))} "
            f"among {sorted(row)}; add the text that the policy shall write."
        )
    return Demonstration(_prompt(row, where, template), _text(row, present[0], where))


def _prompt(row: dict, where: str, template: str) -> str | list[dict[str, str]]:
    """The prompt of a row: text in its template (ours) or messages (verl's)."""
    if "problem" in row:
        text = _text(row, "problem", where)
        # `replace`, not `format`: templates and problems are full of LaTeX braces.
        return template.replace(PLACEHOLDER, text) if template else text
    if "prompt" not in row:
        raise ValueError(
            f"{where}: neither field 'problem' (with id, answer) nor field 'prompt' "
            f"(with reward_model.ground_truth, data_source) among {sorted(row)}; "
            "rename the fields."
        )
    if template:
        raise ValueError(
            f"{where}: prompt_template is set but field 'prompt' holds messages that "
            "carry their instructions already; set prompt_template to the empty text."
        )
    return _messages(row["prompt"], where)


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
        with files.any_digits():
            return json.dumps(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"{where}: field {field!r} must be a non-empty text, a number or a "
            f"structure, got {value!r}; fill it in or drop the row."
        )
    return value


def _check_on_error(on_error: str) -> None:
    if on_error not in ON_ERROR:
        raise ValueError(f"{on_error=} must be one of {', '.join(ON_ERROR)}.")


def _check_answer(check: Callable[[str], object], problem: Problem, where: str) -> None:
    try:
        check(problem.answer)
    except ValueError as error:
        raise ValueError(f"{where}, problem {problem.id!r}: {error}") from None


def _converted(
    convert: Callable[[dict[str, Any]], dict[str, Any]], row: dict, where: str
) -> dict[str, Any]:
    try:
        return convert(row)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


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
