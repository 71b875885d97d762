"""Tasks: where problems come from and how completions are graded.

A task is a plain module with two functions:

    problems(split, **options) -> list[problems.Problem]
    grade(completion, answer) -> problems.Grade

A task of a user's own is named by its module, see `own.py`.

Nothing in this folder imports jax: graders run in processes of their own
(`worker.py`), and an accelerator belongs to one process.
"""

import difflib
import importlib
from types import ModuleType
from typing import Any

from hapo_jax.system.errors import Refused

# name -> module. Modules are imported on demand, as some graders are slow to load.
TASKS = {
    "code": "hapo_jax.tasks.code",
    "countdown": "hapo_jax.tasks.countdown",
    "forks": "hapo_jax.tasks.forks",
    "game24": "hapo_jax.tasks.game24",
    "logic": "hapo_jax.tasks.logic",
    "math": "hapo_jax.tasks.math",
}

# Tasks whose answers can be equal without being spelt alike -> what compares two of
# them. It has no problems, a `grade` and an `item`: see `math_votes.py`.
EQUALITIES = {"math": "math_votes"}
_COMPARERS = {"math_votes": "hapo_jax.tasks.math_votes"}

# Libraries that a grader imports late. Workers load them before its clock runs.
_MATHEMATICS = ("math_verify", "hapo_jax.tasks.math_latex")
GRADER_LIBRARIES = {"math": _MATHEMATICS, "math_votes": _MATHEMATICS}


def get(name: str) -> Any:
    """The module of a task, or of what compares its answers.

    One of a user's own may also be a namespace with the same functions.

    Raises:
      Refused: there is no such task; names the nearest one.
    """
    if name in TASKS or name in _COMPARERS:
        return importlib.import_module((TASKS | _COMPARERS)[name])
    return _own(name).load(name)


def check(name: str) -> None:
    """Raises Refused, naming the nearest task, unless `name` is one."""
    if name not in TASKS and name not in _COMPARERS:
        get(name)


def folder(name: str) -> str:
    """Where the package of a task of a user's own lies; "" for the others.

    Raises:
      Refused: there is no such task.
    """
    known = name in TASKS or name in _COMPARERS
    return "" if known else _own(name).folder(name)


def _own(name: str) -> ModuleType:
    """The module that loads a task of a user's own, if it can be the name of one."""
    if "." in name or ":" in name:
        # Here, since processes that confine programs import this package, and start
        # faster without the readers of files.
        return importlib.import_module("hapo_jax.tasks.own")
    near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.0)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    raise Refused(
        f"task.name={name!r} must be one of {', '.join(TASKS)}{hint} A task of yours "
        "is given as package.module, or its verifier as package.module:function."
    )
