"""Problems, grades, demonstrations, and how rows of files become them.

`files.py` finds files, `readers.py` reads their rows, `schemas.py` knows what their
fields are for, and `golds.py` what stands in the answer's; docs/data.md shows a row of
each kind. Further fields are ignored.

Chat templates are the tokenizer's business: here a prompt stays text or messages.
"""

import dataclasses
import hashlib
import itertools
import json
import logging
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hapo_jax.system import user_files
from hapo_jax.system.errors import Refused
from hapo_jax.tasks import files, golds, readers, row_values, schemas

_log = logging.getLogger(__name__)

PLACEHOLDER = "{problem}"
ON_ERROR = ("stop", "skip")
# How messages begin as Python prints them, and pandas with it.
_PRINTED = ("[{'role'", "[{'from'", "[{'content'")


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


def check_split(split: str) -> None:
    """Refuses another part of a task's problems than the two there are."""
    if split not in ("train", "test"):
        raise Refused(f"{split=} must be train or test.")


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
    path: str | pathlib.Path | Sequence[pathlib.Path],
    *,
    prompt_template: str,
    columns: str = "",
    row: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    on_error: str = "stop",
    gold: Callable[[Any], str] = golds.text,
    check: Callable[[str], object] = lambda answer: None,
) -> list[Problem]:
    """Reads all problems of a file or several, in their order.

    Says by a log line as what kind of rows they were read.

    Ids are unique in what is returned. Rows repeated word for word are read once (the
    published DAPO-Math-17k and AIME-2024 files hold each row 100 and 32 times) and
    their number is logged; one id with two contents is an error. A verl row is named
    by its source and `extra_info.index`; a row without id or index by its source and a
    hash of its content.

    Args:
      path: see `files.py`; or the files.
      prompt_template: text around `{problem}`, for rows whose problem is text; empty
        for the bare problem. Rows of whole messages refuse a template.
      columns: which fields are read; empty to guess, see `schemas.py`.
      row: turns a row of another kind into one of ours; may refuse it.
      on_error: what a broken row does: "stop" the reading, or "skip" the row, with a
        warning that counts them and names the first. A damaged file stops it.
      gold: turns the value of the answer's field into a text; may refuse it.
      check: refuses an answer that the task cannot grade by.

    Raises:
      Refused: there is no such file, its kind is unknown, it holds no rows, the
        template lacks `{problem}`, or a row is broken; names file, line, field and
        remedy.
    """
    _check_template(prompt_template)
    _check_on_error(on_error)
    paths = _files(path)
    mapping = schemas.Columns(columns, "problems")
    found: dict[str, Problem] = {}
    places: dict[str, str] = {}
    repeated = 0
    broken: list[Refused] = []
    on_broken = readers.stop if on_error == "stop" else broken.append
    choose = list if row else mapping.choose
    name = files.name(paths)
    for where, found_row in _rows(paths, choose, on_broken):
        try:
            ours = _converted(row, found_row, where) if row else found_row
            fields = mapping.of(ours, where)
            problem = _problem(ours, fields, where, name, prompt_template, gold)
            _check_answer(check, problem, where)
            known = found.setdefault(problem.id, problem)
            if known != problem:
                raise Refused(
                    f"{where}: id {problem.id[:80]!r} was used before for another "
                    f"problem, in {places[problem.id]}; ids must be unique, so "
                    "rename one, or have them made of the content by columns=id="
                )
        except Refused as error:
            on_broken(error)
        else:
            if known is problem:
                places[problem.id] = where
            else:
                repeated += 1
    _say_broken(broken)
    if not found:
        raise Refused(f"{path_text(paths)} holds no problems; {_AT_LEAST_ONE}.")
    _log.info("%s: %s.", path_text(paths), mapping.said())
    if repeated:
        _log.warning("%s: %d repeated rows were read once.", path_text(paths), repeated)
    return list(found.values())


def read_demonstrations(
    path: str | pathlib.Path | Sequence[pathlib.Path],
    *,
    prompt_template: str,
    size: int,
    columns: str = "",
) -> list[Demonstration]:
    """Reads worked examples, in the files' order; ids and answers may be absent.

    Of a conversation the last reply is what the policy shall write, and all before it
    is the prompt.

    Args:
      path, prompt_template, columns: as in `read_problems`.
      size: how many, from the top; 0 for all.

    Raises:
      Refused: as `read_problems`; or the files hold fewer than `size`.
    """
    _check_template(prompt_template)
    paths = _files(path)
    if size < 0:
        raise Refused(f"{size=} must not be negative; 0 reads all.")
    mapping = schemas.Columns(columns, "demonstrations")
    rows = _rows(paths, mapping.choose, readers.stop)
    found, replies = [], 0
    for where, row in itertools.islice(rows, size or None):
        fields = mapping.of(row, where)
        example = _demonstration(row, fields, where, prompt_template)
        if not isinstance(example.prompt, str):
            replies += any(m["role"] == "assistant" for m in example.prompt)
        found.append(example)
    if not found or len(found) < size:
        raise Refused(
            f"{path_text(paths)} holds {len(found)} demonstrations where {size=} are "
            "asked for; give more rows, or size=0 for all that there are."
        )
    _log.info("%s: %s.", path_text(paths), mapping.said())
    if replies:
        _log.warning(
            "%s: %d of %d conversations have several replies; only the last is learnt.",
            path_text(paths),
            replies,
            len(found),
        )
    return found


def read_structured(
    path: str | pathlib.Path | Sequence[pathlib.Path],
    *,
    fields: tuple[str, ...],
    make: Callable[[dict[str, Any], str], Problem | None],
    on_error: str,
    columns: str = "",
) -> list[Problem]:
    """Reads problems whose answers have a structure of a task's own.

    Args:
      path: as in `read_problems`.
      fields: that `make` looks at, besides id, problem and source.
      make: turns a row and its place in the file, for messages, into a problem, or None
        to leave it out; id and problem have been checked, source is filled in. Raises
        Refused for a broken row.
      on_error: see `read_problems`.
      columns: `problem=text,tests=cases` where fields have other names; else empty.

    Raises:
      Refused: there is no such file, its kind is unknown, it holds no problems, or a
        row is broken; names file, line, field and remedy.
    """
    _check_on_error(on_error)
    paths = _files(path)
    wanted = ("id", "problem", "source", *fields)
    given = schemas.parse(columns, wanted)
    read = {f.split(".")[0] for f in given.values()} | {*given.values(), *wanted}
    found: dict[str, Problem] = {}
    broken: list[Refused] = []
    on_broken = readers.stop if on_error == "stop" else broken.append
    name = files.name(paths)

    def choose(names: Sequence[str]) -> list[str]:
        return [name for name in names if name in read]

    for where, theirs in _rows(paths, choose, on_broken):
        try:
            row = {f: theirs[f] for f in wanted if f in theirs}
            row |= {
                f: row_values.get(theirs, theirs_f) for f, theirs_f in given.items()
            }
            if "problem" not in row:
                raise Refused(
                    f"{where}: no field 'problem' among {', '.join(theirs) or 'none'}; "
                    "rename it, or name it by `columns`, as in problem=FIELD."
                )
            for field, value in row.items():
                row_values.check_texts(value, field, where)
            row_values.text(row["problem"], "problem", where)
            row["source"] = row_values.identifier(row.get("source"), "source", where)
            row["source"] = row["source"] or name
            given_id = row_values.identifier(row.get("id"), "id", where)
            row["id"] = given_id or _named(
                row["source"], row["problem"], [row.get(field) for field in fields]
            )
            if row["id"] in found:
                raise Refused(
                    f"{where}: id {row['id'][:80]!r} was used before; ids must be "
                    "unique, so rename one, or have them made of the content by "
                    "columns=id="
                )
            problem = make(row, where)
        except Refused as error:
            on_broken(error)
        else:
            if problem is not None:
                found[problem.id] = problem
    _say_broken(broken)
    if not found:
        raise Refused(f"{path_text(paths)} holds no problems; {_AT_LEAST_ONE}.")
    return list(found.values())


def path_text(paths: Sequence[pathlib.Path]) -> str:
    """These files, for messages."""
    more = f" and {len(paths) - 1} more files" if len(paths) > 1 else ""
    return f"{paths[0]}{more}"


_AT_LEAST_ONE = "give a file with at least one"


def _files(
    path: str | pathlib.Path | Sequence[pathlib.Path],
) -> tuple[pathlib.Path, ...]:
    if isinstance(path, str | pathlib.Path):
        return files.find(path)
    return tuple(path)


def _rows(
    paths: Sequence[pathlib.Path], choose: readers.Choice, on_broken: readers.Broken
) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in paths:
        yield from readers.rows(path, choose, on_broken)


def _say_broken(broken: Sequence[Refused]) -> None:
    if broken:
        _log.warning("%d broken rows were skipped, first: %s", len(broken), broken[0])


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
        raise Refused(
            f"prompt_template={template!r} must contain {PLACEHOLDER}, where the "
            "problem goes; leave it empty for the bare problem."
        )


def _problem(
    row: dict,
    fields: Mapping[str, str],
    where: str,
    name: str,
    template: str,
    gold: Callable[[Any], str],
) -> Problem:
    """A row as a Problem; `fields` say what is where, `name` is the files'."""
    prompt = _prompt(row, fields["problem"], where, template)
    field = fields["answer"]
    try:
        answer = gold(row_values.get(row, field))
    except Refused as error:
        raise Refused(f"{where}: field {field!r} {error}.") from None
    row_values.whole(answer, field, where)
    source = _identifier(row, fields, "source", where) or name
    given = _identifier(row, fields, "id", where)
    if given is None:
        index = _identifier(row, fields, "index", where)
        given = _named(source, prompt, answer)
        if index is not None:  # as it is in the file: runs know their problems so
            given = f"{source}-{row_values.get(row, fields['index'])}"
    if isinstance(prompt, str):
        statement = row_values.get(row, fields["problem"])
    else:
        statement = prompt[-1]["content"]
    return Problem(given, prompt, answer, source, statement)


def _identifier(row: dict, fields: Mapping[str, str], role: str, where: str):
    """An id, index or source as text; None where the row has none."""
    if role not in fields:
        return None
    return row_values.identifier(row_values.get(row, fields[role]), fields[role], where)


def _named(source: str, prompt: Any, answer: Any) -> str:
    """An id for a row without one, of its content alone."""
    content = json.dumps([prompt, answer], default=str)
    return f"{source}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def _demonstration(
    row: dict, fields: Mapping[str, str], where: str, template: str
) -> Demonstration:
    """A row as a Demonstration; `fields` say what is where."""
    if schemas.CONVERSATION in fields:
        field = fields[schemas.CONVERSATION]
        talk = row_values.messages(row_values.get(row, field), field, where)
        if len(talk) < 2 or talk[-1]["role"] != "assistant":
            raise Refused(
                f"{where}: field {field!r} must end with the assistant's reply to the "
                f"messages before, got the roles {[m['role'] for m in talk][-6:]}; "
                "correct it or drop the row."
            )
        _refuse_template(template, field, where)
        reply = row_values.text(talk[-1]["content"], f"{field}[-1].content", where)
        system = row_values.get(row, fields["system"]) if "system" in fields else None
        if system and talk[0]["role"] != "system":
            system = row_values.text(system, fields["system"], where)
            talk.insert(0, {"role": "system", "content": system})
        return Demonstration(talk[:-1], reply)
    field = fields["completion"]
    value = row_values.get(row, field)
    if isinstance(value, list):
        reply = row_values.messages(value, field, where)
        if len(reply) != 1 or reply[0]["role"] != "assistant":
            raise Refused(
                f"{where}: field {field!r} must be a text or one message of the "
                f"assistant, got the roles {[m['role'] for m in reply][:6]}."
            )
        value = reply[0]["content"]
    if isinstance(value, int | float) and not isinstance(value, bool):
        with user_files.any_digits():
            value = json.dumps(value)
    completion = row_values.text(value, field, where)
    extra = row_values.get(row, fields["input"]) if "input" in fields else None
    if extra:
        extra = row_values.text(extra, fields["input"], where)
        field = fields["problem"]
        instruction = row_values.text(row_values.get(row, field), field, where)
        row = row | {field: f"{instruction}\n\n{extra}"}
    return Demonstration(_prompt(row, fields["problem"], where, template), completion)


def _prompt(
    row: dict, field: str, where: str, template: str
) -> str | list[dict[str, str]]:
    """The prompt of a row: text in its template, or messages."""
    value = row_values.get(row, field)
    if isinstance(value, str):
        text = row_values.text(value, field, where)
        if text.startswith(_PRINTED):
            raise Refused(
                f"{where}: field {field!r} holds messages as Python prints them; write "
                "them as JSON, or as a list into JSON lines or parquet."
            )
        # `replace`, not `format`: templates and problems are full of LaTeX braces.
        return template.replace(PLACEHOLDER, text) if template else text
    messages = row_values.messages(value, field, where)
    _refuse_template(template, field, where)
    return messages


def _refuse_template(template: str, field: str, where: str) -> None:
    if template:
        raise Refused(
            f"{where}: prompt_template is set but field {field!r} holds messages that "
            "carry their instructions already; set prompt_template to the empty text."
        )


def _check_on_error(on_error: str) -> None:
    if on_error not in ON_ERROR:
        raise Refused(f"{on_error=} must be one of {', '.join(ON_ERROR)}.")


def _check_answer(check: Callable[[str], object], problem: Problem, where: str) -> None:
    try:
        check(problem.answer)
    except ValueError as error:  # as tasks of a user's own may refuse
        raise Refused(f"{where}, problem {problem.id[:80]!r}: {error}") from None


def _converted(
    convert: Callable[[dict[str, Any]], dict[str, Any]], row: dict, where: str
) -> dict[str, Any]:
    try:
        return convert(row)
    except ValueError as error:  # as tasks of a user's own may refuse
        raise Refused(f"{where}: {error}") from None
