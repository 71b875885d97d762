"""What is wrong with sets of problems: duplicates, leaks into evaluation, flagged ids,
gold answers that nothing can equal.

Statements are compared without spaces, case and what LaTeX has for looks
(`normalised`); signs and operators count, so `x - 1` is not `x + 1`. Reworded copies
are not found. Flag files name those, see `excluded_ids`.
"""

import collections
import json
import logging
import pathlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence

from hapo_jax.system import user_files
from hapo_jax.system.errors import Refused
from hapo_jax.tasks import row_values
from hapo_jax.tasks.problems import Problem

_log = logging.getLogger(__name__)

_SHOWN = 5  # ids named in a message
_GOLDS = 3  # gold answers
# A gold answer with so many words outside commands is a sentence or a solution.
_PROSE_WORDS = 15
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}(?![A-Za-z}])")


def _surplus(groups: Iterable[Sequence[str]]) -> set[str]:
    return {name for group in groups for name in group[1:]}


# key of a flag file -> the ids that it leaves out.
_FLAGS: Mapping[str, Callable[[list], set[str]]] = {
    "duplicate_groups": _surplus,  # all but the first of each group
    "conflicting_answer_groups": lambda groups: {i for group in groups for i in group},
    "eval_overlap": lambda pairs: {pair["train"] for pair in pairs},
    "broken_ids": set,
    "chinese_ids": set,
}
# What is wrong in any language. Chinese problems are sound: leave them out by name.
DEFAULT_FLAGS = (
    "duplicate_groups",
    "conflicting_answer_groups",
    "eval_overlap",
    "broken_ids",
)


def excluded_ids(entries: Iterable[str]) -> set[str]:
    """Ids to leave out, from flag files.

    Args:
      entries: each `file.json`, or `file.json:flag+flag`. The file holds a list of ids,
        or an object with some of the keys of `_FLAGS`; without flags named, those of
        `DEFAULT_FLAGS` that it has count.

    Raises:
      Refused: a file is missing or of another form, or has no such flag.
    """
    found: set[str] = set()
    for entry in entries:
        path, flags = _split(entry)
        found |= _flagged(path, tuple(filter(None, flags.removeprefix(":").split("+"))))
    return found


def flag_files(entries: Iterable[str]) -> list[pathlib.Path]:
    """The files that `excluded_ids` reads."""
    return [_split(entry)[0] for entry in entries]


def _split(entry: str) -> tuple[pathlib.Path, str]:
    """The file of an entry, and what stands behind it."""
    name, _, flags = entry.partition(".json")
    return pathlib.Path(name + ".json"), flags


def without(problems: Sequence[Problem], ids: set[str]) -> list[Problem]:
    """The problems whose ids are not among `ids`; says by a log line how many are.

    Raises:
      Refused: none is left.
    """
    kept = [problem for problem in problems if problem.id not in ids]
    if not kept:
        raise Refused(
            f"data.exclude_ids leaves none of {len(problems)} problems; name fewer "
            "flags, as in flags.json:broken_ids."
        )
    if ids:
        _log.info(
            "%d of %d problems left out by data.exclude_ids (%d ids).",
            len(problems) - len(kept),
            len(problems),
            len(ids),
        )
    return kept


def leaked_ids(path: pathlib.Path) -> set[str]:
    """Ids of evaluation problems that a flag file finds in its training set.

    Raises:
      Refused: the file is missing or of another form.
    """
    try:
        found = json.loads(user_files.read_text(path))["eval_overlap"]
        return {
            row_values.identifier(pair["eval"], "eval", str(path)) for pair in found
        }
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Refused(
            f"{path} must be a flag file with eval_overlap, a list of objects with "
            f"`train` and `eval` ({error!r}); repair or remove it."
        ) from None


_LOOKS = re.compile(
    r"\\(?:left|right|displaystyle|text(?:bf|it|rm)?|math(?:rm|bf|it)|mbox|q?quad)"
    r"(?![a-z])|\\[,;:!()\[\] ]|[\s${}~\"'“”‘’`]"
)


def normalised(statement: str) -> str:
    """The statement in lower case, without spaces and LaTeX that is for looks."""
    text = unicodedata.normalize("NFKC", statement).lower()
    text = re.sub(r"\\[dtc]frac(?![a-z])", r"\\frac", text)
    return _LOOKS.sub("", text).rstrip(".?:")


def duplicates(problems: Sequence[Problem]) -> list[list[Problem]]:
    """Groups of problems with one statement, in the order of the set."""
    groups = collections.defaultdict(list)
    for problem, statement in zip(problems, _statements(problems)):
        groups[statement].append(problem)
    return [group for group in groups.values() if len(group) > 1]


def overlap(
    train: Sequence[Problem], test: Sequence[Problem]
) -> list[tuple[Problem, Problem]]:
    """(training problem, evaluation problem) of one statement."""
    held_out = collections.defaultdict(list)
    for problem, statement in zip(test, _statements(test)):
        held_out[statement].append(problem)
    return [
        (problem, other)
        for problem, statement in zip(train, _statements(train))
        for other in held_out[statement]
    ]


def report(train: Sequence[Problem], test: Sequence[Problem]) -> dict[str, int]:
    """Says by log lines what is wrong with a run's sets, and returns the counts.

    Returns:
      data/train_problems, data/test_problems: sizes.
      data/duplicates: training problems that repeat another's statement.
      data/conflicts: groups of such whose answers differ.
      data/overlap: evaluation problems that occur in training.
    """
    groups = duplicates(train)
    surplus = [problem for group in groups for problem in group[1:]]
    conflicts = [g for g in groups if len({problem.answer for problem in g}) > 1]
    leaks = {other.id: problem for problem, other in overlap(train, test)}
    if surplus:
        _log.warning(
            "%d training problems repeat the statement of another (%s); %d groups "
            "disagree about the answer.",
            len(surplus),
            _few(problem.id for problem in surplus),
            len(conflicts),
        )
    if leaks:
        _log.warning(
            "%d of %d evaluation problems occur in training (%s): their scores say "
            "little. Leave the training problems out with data.exclude_ids.",
            len(leaks),
            len(test),
            _few(f"{name} as {problem.id}" for name, problem in leaks.items()),
        )
    return {
        "data/train_problems": len(train),
        "data/test_problems": len(test),
        "data/duplicates": len(surplus),
        "data/conflicts": len(conflicts),
        "data/overlap": len(leaks),
    }


def _flagged(path: pathlib.Path, flags: tuple[str, ...]) -> set[str]:
    """The ids of one file."""
    try:
        content = json.loads(user_files.read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise Refused(f"data.exclude_ids: {path} is not JSON ({error}).") from None
    except Refused as error:
        raise Refused(f"data.exclude_ids: {error}") from None
    if isinstance(content, list) and not flags:
        content, flags = {"broken_ids": content}, ("broken_ids",)
    if not isinstance(content, dict):
        raise Refused(
            f"data.exclude_ids: {path} must hold a list of ids, or an object with "
            f"some of the keys {', '.join(_FLAGS)}."
        )
    known = [flag for flag in _FLAGS if flag in content]
    unknown = [flag for flag in flags if flag not in known]
    if unknown or not known:
        raise Refused(
            f"data.exclude_ids: {path} has no flag {', '.join(unknown) or 'at all'}; "
            f"it has {', '.join(known) or 'none of ' + ', '.join(_FLAGS)}."
        )
    chosen = flags or [flag for flag in DEFAULT_FLAGS if flag in known]
    try:
        found = set().union(*(_FLAGS[flag](content[flag]) for flag in chosen))
        names = {row_values.identifier(name, "id", str(path)) for name in found}
        return {name for name in names if name is not None}
    except (TypeError, KeyError, ValueError) as error:
        raise Refused(
            f"data.exclude_ids: {path} is not in the form of a flag file ({error!r})."
        ) from None


def check_golds(
    problems: Sequence[Problem],
    wins: Callable[[Problem], bool],
    gold: Callable[[Problem], str],
    *,
    grading: str,
    source: str,
) -> None:
    """Grades each gold answer against itself; warns of those that cannot be equalled.

    Args:
      problems: at least one, as they will be graded.
      wins: whether a completion that gives a problem's own gold answer is right.
      gold: the gold answer of a problem, for messages.
      grading: its name.
      source: where the problems come from, for messages.

    Raises:
      Refused: not one of them can be equalled, so that nothing could be learnt.
    """
    lost = [problem for problem in problems if not wins(problem)]
    if lost:
        few = ", ".join(f"{p.id} ({user_files.short(gold(p))})" for p in lost[:_GOLDS])
        more = f" and {len(lost) - _GOLDS} more" if len(lost) > _GOLDS else ""
        said = (
            f"{source}: {len(lost)} of {len(problems)} gold answers are not equal to "
            f"themselves under {grading!r}, so no completion can be right: {few}{more}."
        )
        if len(lost) == len(problems):
            raise Refused(
                f"{said} Choose another grading, or name the field that holds the "
                "answer alone by `columns`."
            )
        _log.warning("%s Mend them, or leave them out by data.exclude_ids.", said)
    prose = [p for p in problems if len(_PROSE.findall(gold(p))) >= _PROSE_WORDS]
    if prose:
        few = ", ".join(f"{p.id} ({user_files.short(gold(p))})" for p in prose[:_GOLDS])
        _log.warning(
            "%s: %d of %d gold answers are whole sentences: %s. If they are solutions, "
            "name the field that holds the answer alone by `columns`.",
            source,
            len(prose),
            len(problems),
            few,
        )


def _statements(problems: Sequence[Problem]) -> list[str]:
    """Normalised statements; a problem without any is known by its prompt."""
    return [normalised(p.statement or str(p.prompt)) for p in problems]


def _few(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
