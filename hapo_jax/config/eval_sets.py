"""The sets that are known by name, and how `--sets` and `eval.sets` are read.

    --sets=math500,aime24                  from the Hugging Face hub
    --sets=math500,kk --data=DATA          from their files in the folder DATA
    --sets=DATA/math500,test               a folder and a name; `test` is task.test
    --sets=math:mine.jsonl                 a task and a file, folder or pattern

A new set is one line of `SETS` (of mathematics: of `tasks/math_sets.py`).
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from hapo_jax import tasks
from hapo_jax.config import dotted
from hapo_jax.system.errors import Refused
from hapo_jax.tasks import data_checks, files, math_sets

OWN = "test"  # the config's task.test


class EvalSet(NamedTuple):
    """A task and the options of its problems.

    Attributes:
      name: of its files and in tables.
      task: a name of tasks.TASKS.
      options: of the task's `problems`.
      flags: a flag file with `eval_overlap`, or None.
    """

    name: str
    task: str
    options: Mapping[str, Any]
    flags: pathlib.Path | None = None


class _Named(NamedTuple):
    """Attributes:
    task: a name of tasks.TASKS.
    file: in a data folder; the set's name where the task knows it itself.
    options: its own, whatever the config says.
    """

    task: str
    file: str
    options: Mapping[str, Any] = {}


# What a set's task needs where the config is about another task.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "math": dict(
        prompt_template="{problem}\nPlease reason step by step, and put your final "
        "answer within \\boxed{}."
    ),
    "code": dict(
        prompt_template="{problem}\n{starter_code}\nPut the whole program in one block "
        "of Python.",
        subject="",
        test_s=4.0,
        total_s=8.0,
        memory_mib=1024,
    ),
    "logic": dict(
        prompt_template="{problem}\nThink step by step. Then give your answer between "
        "<answer> and </answer>, one line per person, such as: Ada is a knight.",
        size=0,
        seed=0,
        min_people=2,
        max_people=8,
    ),
    "game24": dict(prompt_template="", size=0, seed=0, max_number=13, target=24),
}
# Prompts and limits of the official harnesses; docs/evaluation.md says where not.
_ASK_MBPP = (
    "You are an expert Python programmer, and here is your task: {problem} Your code "
    "should pass these tests:\n\n{tests}\nPut the whole program in one block of Python."
)
_ASK_HUMANEVAL = (
    "Complete this function. Put the whole function in one block of Python.\n\n"
    "```python\n{problem}```"
)
_ASK_LIVECODEBENCH = (
    "You are an expert Python programmer. You will be given a question (problem "
    "specification) and will generate a correct Python program that matches the "
    "specification and passes all tests.\n\n### Question:\n{problem}\n\n### Format: "
    "{format}\n\n### Answer: (use the provided format with backticks)\n\n"
)
SETS: Mapping[str, _Named] = {
    **{name: _Named("math", name) for name in math_sets.SETS},
    "humaneval": _Named(
        "code",
        "humaneval.jsonl",
        dict(prompt_template=_ASK_HUMANEVAL, subject="", test_s=3.0, total_s=3.0),
    ),
    "mbpp": _Named(
        "code", "mbpp.jsonl", dict(prompt_template=_ASK_MBPP, subject="test")
    ),
    "livecodebench": _Named(
        "code",
        "livecodebench_279_public.jsonl",
        dict(
            prompt_template=_ASK_LIVECODEBENCH,
            subject="",
            test_s=6.0,
            total_s=60.0,
            memory_mib=4096,
        ),
    ),
    "code_contests": _Named(
        "code",
        "code_contests.jsonl.gz",
        dict(subject="", test_s=10.0, total_s=120.0),
    ),
    "kk": _Named("logic", "kk_test.jsonl"),
    "game24": _Named("game24", "game24.jsonl"),
}
# Problems of these sets occur in a training set, whose flag file lies beside them.
OVERLAPS = dict.fromkeys(
    ("amc23", "amc22_23", "math500", "olympiadbench"), "dapo_math_17k_flags.json"
)


def own(config: ConfigDict) -> EvalSet:
    """The config's own test problems."""
    return EvalSet(OWN, config.task.name, config.task.test.to_dict())


def parse(sets: str, config: ConfigDict, *, data: str = "") -> list[EvalSet]:
    """Reads a list of sets, see above; `OWN` if it is empty.

    Where the config's task is that of a set, its task.test says what the set's line
    leaves open, such as the prompt and the grading.

    Args:
      sets: joined by commas.
      config: of the experiment.
      data: folder for sets that are given by name alone.

    Raises:
      Refused: a set is unknown, needs a folder, or is named twice.
    """
    entries = [entry.strip() for entry in sets.split(",") if entry.strip()] or [OWN]
    found = [_parse(entry, config, data) for entry in entries]
    names = [s.name for s in found]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise Refused(
            f"the sets {sets!r} hold {', '.join(sorted(twice))} twice; evaluate one of "
            "them by itself."
        )
    return found


def overlapping_ids(eval_set: EvalSet) -> set[str]:
    """Ids of the set's problems that its flag file finds in a training set."""
    return data_checks.leaked_ids(eval_set.flags) if eval_set.flags else set()


def _parse(entry: str, config: ConfigDict, data: str) -> EvalSet:
    if entry == OWN:
        return own(config)
    task, colon, path = entry.partition(":")
    if config.task.name and entry.startswith(f"{config.task.name}:"):
        # Of a user's own, perhaps with a colon in its name.
        path = entry[len(config.task.name) + 1 :]
        return _make(files.short(path), config.task.name, path, {}, config)
    if colon:
        if task not in tasks.TASKS:
            raise Refused(
                f"the set {entry!r} is of no known task"
                f"{dotted.nearest(task, tasks.TASKS)}; a file is given as "
                f"task:path, with a task of {', '.join(tasks.TASKS)}."
            )
        return _make(files.short(path), task, path, {}, config)
    folder, name = pathlib.Path(entry).parent, pathlib.Path(entry).name
    if name not in SETS:
        raise Refused(
            f"the set {entry!r} is unknown{dotted.nearest(name, SETS)}; there are "
            f"{OWN} (the config's task.test) and {', '.join(SETS)}. A file is given "
            f"with its task, as in math:{entry}."
        )
    known = SETS[name]
    if entry == name:
        folder = pathlib.Path(data) if data else None
    if folder is None and known.task != "math":
        raise Refused(
            f"the set {name!r} is read from a file; give its folder, as in "
            f"DATA/{name}, or to hapo-eval --data=DATA."
        )
    path = str(folder / known.file) if folder else name
    flags = folder / OVERLAPS[name] if folder and name in OVERLAPS else None
    return _make(
        name,
        known.task,
        path,
        known.options,
        config,
        flags=flags if flags and flags.is_file() else None,
    )


def _make(
    name: str,
    task: str,
    path: str,
    options: Mapping[str, Any],
    config: ConfigDict,
    *,
    flags: pathlib.Path | None = None,
) -> EvalSet:
    """Fills in what a set's own options leave open."""
    same = config.task.test.to_dict() if config.task.name == task else {}
    if task not in _DEFAULTS and "path" not in same:
        raise Refused(
            f"the set {name!r}: nothing here says how {task!r} reads a file, if it "
            f"reads any; evaluate its problems as {OWN}, with a config of that task."
        )
    if name in SETS:  # whose fields are not those of the config's own file
        same.pop("columns", None)
    filled = {
        **_DEFAULTS.get(task, {}),
        **same,
        **options,
        "split": "test",
        "path": path,
    }
    return EvalSet(name, task, json.loads(json.dumps(filled)), flags)
