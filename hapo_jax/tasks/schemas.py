"""Kinds of rows: which field of a row is the problem, which the answer, and so on.

`SCHEMAS` lists those that are known. A row is read by the first whose fields it has;
`columns` names fields in place of some or all of them:

    ""                                   guess
    "verl"                               a schema by its name
    "problem=question,answer=meta.gold"  fields; dots lead into objects
    "id="                                no field: ids are made of the content
"""

import collections
import difflib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hapo_jax.system.errors import Refused
from hapo_jax.tasks.row_values import Row

# What fields are for. A problem is text, or messages with instructions in them.
REQUIRED = {
    "problems": ("problem", "answer"),
    "demonstrations": ("problem", "completion"),
}
# `index` is unique among the rows of a source alone; `input` goes with an instruction,
# `system` before a conversation.
OPTIONAL = {
    "problems": ("id", "index", "source"),
    "demonstrations": ("input", "system"),
}
CONVERSATION = "conversation"  # of demonstrations, in place of both


class Schema(NamedTuple):
    """Attributes:
    name: as it is printed, and as `columns` may give it.
    fields: what for → field; dots lead into objects.
    """

    name: str
    fields: Mapping[str, str]


def _schema(name: str, **fields: str) -> Schema:
    return Schema(name, fields)


_OWN = dict(id="id", source="source")
_VERL = dict(index="extra_info.index", source="data_source")
# What is optional, where a user has named the rest.
_USUAL = {"problems": _OWN, "demonstrations": {}}
# The first that fits counts, so those with more particular fields come first.
SCHEMAS: tuple[Schema, ...] = (
    # Problems with a gold answer.
    _schema("plain", problem="problem", answer="answer", **_OWN),
    _schema("nemo", problem="problem", answer="expected_answer", **_OWN),
    _schema("boxed", problem="problem", answer="solution", **_OWN),
    _schema("verl", problem="prompt", answer="reward_model.ground_truth", **_VERL),
    _schema("rlvr", problem="messages", answer="ground_truth", source="dataset"),
    _schema("slime", problem="prompt", answer="label", **_OWN),
    _schema("trl", problem="prompt", answer="answer", **_OWN),
    _schema("trl-solution", problem="prompt", answer="solution", **_OWN),
    _schema("trl-truth", problem="prompt", answer="ground_truth", **_OWN),
    _schema("gsm8k", problem="question", answer="answer", **_OWN),
    _schema("question-final", problem="question", answer="final_answer", **_OWN),
    _schema("question-truth", problem="question", answer="ground_truth", **_OWN),
    _schema("question-boxed", problem="question", answer="solution", **_OWN),
    _schema("capitals", problem="Problem", answer="Answer", id="ID"),
    # Demonstrations.
    _schema("completion", problem="problem", completion="completion"),
    _schema("solution", problem="problem", completion="solution"),
    _schema("prompt-completion", problem="prompt", completion="completion"),
    _schema("prompt-solution", problem="prompt", completion="solution"),
    _schema("prompt-response", problem="prompt", completion="response"),
    _schema("chat", conversation="messages", system="system"),
    _schema("sharegpt", conversation="conversations", system="system"),
    _schema("gsm8k-solution", problem="question", completion="answer"),
    _schema("question-solution", problem="question", completion="solution"),
    _schema("question-response", problem="question", completion="response"),
    _schema("alpaca", problem="instruction", completion="output", input="input"),
)


class Columns:
    """Which fields the rows of a set are read by."""

    def __init__(self, columns: str, use: str):
        """Args:
          columns: see above.
          use: "problems" or "demonstrations".

        Raises:
          Refused: `columns` is not of that form.
        """
        self._use = use
        self._needed = (*REQUIRED[use], CONVERSATION)
        self._candidates = [s for s in SCHEMAS if _serves(s, use)]
        roles = (*REQUIRED[use], *OPTIONAL[use])
        roles += (CONVERSATION,) if use == "demonstrations" else ()
        names = [schema.name for schema in self._candidates]
        if columns in names:
            self._candidates = [self._candidates[names.index(columns)]]
            columns = ""
        self._given = parse(columns, roles, schemas=names)
        if set(REQUIRED[use]) <= self._given.keys() or CONVERSATION in self._given:
            self._candidates = [Schema("named", _USUAL[use])]
        self._known: dict[tuple[str, ...], Schema | None] = {}
        self._counts: collections.Counter[str] = collections.Counter()

    def choose(self, names: Sequence[str]) -> list[str]:
        """The columns of a table that are read; all if no schema fits."""
        if self._find(tuple(names)) is None:
            return list(names)
        fields = [f for s in self._candidates for f in s.fields.values()]
        fields += self._given.values()
        tops = {field.split(".")[0] for field in fields} | set(fields)
        return [name for name in names if name in tops]

    def of(self, row: Row, where: str) -> Mapping[str, str]:
        """What for → field, of the fields that this row is read by.

        Raises:
          Refused: no schema fits; names the fields that there are, and the nearest.
        """
        # Demonstrations may leave one of two columns empty.
        sparse = self._use == "demonstrations"
        names = tuple(key for key in row if not sparse or row[key] is not None)
        schema = self._find(names)
        if schema is None:
            raise Refused(f"{where}: {self._no_schema(names)}")
        fields = ", ".join(f"{role}={field}" for role, field in schema.fields.items())
        self._counts[f"as {schema.name!r} ({fields})"] += 1
        return schema.fields

    def said(self) -> str:
        """By what the rows were read so far, in words."""
        return "; ".join(f"{n} rows {words}" for words, n in self._counts.items())

    def _find(self, names: tuple[str, ...]) -> Schema | None:
        if names not in self._known:
            self._known[names] = self._fitting(names)
        return self._known[names]

    def _fitting(self, names: tuple[str, ...]) -> Schema | None:
        """The schema of rows with these fields, the user's fields put in; or None."""
        if any(field and not _has(names, field) for field in self._given.values()):
            return None
        for schema in self._candidates:
            lacks = [f for f in self._required(schema) if not _has(names, f)]
            if lacks:
                continue
            fields = dict(schema.fields)
            if self._given.keys() & {"id", "index"}:  # one is in place of the other
                fields = {r: f for r, f in fields.items() if r not in ("id", "index")}
            fields |= self._given
            kept = {role: f for role, f in fields.items() if f and _has(names, f)}
            return Schema(schema.name, kept)
        return None

    def _required(self, schema: Schema) -> list[str]:
        """The fields that a schema needs, but for those that the user has named."""
        roles = [role for role in self._needed if role not in self._given]
        return [schema.fields[role] for role in roles if role in schema.fields]

    def _no_schema(self, names: tuple[str, ...]) -> str:
        """What was found, and the nearest schema."""
        found = ", ".join(name[:40] for name in names[:20]) or "none at all"
        for role, field in self._given.items():
            if field and not _has(names, field):
                return (
                    f"`columns` name the field {field!r} for {role}, and the row has "
                    f"{found}{_hint(field, names)}; correct `columns`."
                )

        def likeness(schema: Schema) -> tuple[int, float]:
            fields = [field.split(".")[0] for field in self._required(schema)]
            near = [max((_ratio(f, n) for n in names), default=0.0) for f in fields]
            return sum(f in names for f in fields), sum(near) / max(len(near), 1)

        nearest = max(self._candidates, key=likeness)
        needed = self._required(nearest)
        lacks = [repr(field) for field in needed if not _has(names, field)]
        example = ",".join(f"{role}=FIELD" for role in REQUIRED[self._use])
        return (
            f"its fields are those of no known kind of {self._use}: {found}. The "
            f"nearest is {nearest.name!r} ({', '.join(needed)}), which needs "
            f"{' and '.join(lacks)} too. Rename the fields, or name them by "
            f"`columns`, as in --config.task.train.columns={example}."
        )


def _serves(schema: Schema, use: str) -> bool:
    if set(REQUIRED[use]) <= schema.fields.keys():
        return True
    return use == "demonstrations" and CONVERSATION in schema.fields


def _hint(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _ratio(a: str, b: str) -> float:
    """How alike two names are; below three quarters by chance."""
    ratio = difflib.SequenceMatcher(None, a.lower(), b.lower()).ratio()
    return ratio if ratio > 0.75 else 0.0


def _has(names: Sequence[str], field: str) -> bool:
    return field in names or field.split(".")[0] in names


def parse(
    columns: str, roles: Sequence[str], schemas: Sequence[str] = ()
) -> dict[str, str]:
    """What for → field, as a user has named them.

    Args:
      columns: `WHAT=FIELD`, joined by commas; may be empty.
      roles: what WHAT may be.
      schemas: names that `columns` could have been in place of that.

    Raises:
      Refused: it is not of that form.
    """
    given: dict[str, str] = {}
    for part in columns.split(",") if columns.strip() else ():
        role, equals, field = (text.strip() for text in part.partition("="))
        if not equals or role not in roles or role in given:
            known = f"; or give a schema by its name, of {', '.join(schemas)}"
            raise Refused(
                f"{columns=}: {part!r} must be of the form WHAT=FIELD, each once, with "
                f"WHAT of {', '.join(roles)}{_hint(role, [*roles, *schemas])}"
                f"{known if schemas else ''}."
            )
        if not field and role not in {
            role for some in OPTIONAL.values() for role in some
        }:
            raise Refused(f"{columns=}: {role} needs a field.")
        given[role] = field
    return given
