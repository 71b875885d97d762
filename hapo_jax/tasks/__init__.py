"""Tasks: where problems come from and how completions are graded.

A task is a plain module with two functions:

    problems(split, **options) -> list[problems.Problem]
    grade(completion, answer) -> problems.Grade

Nothing in this folder imports jax: graders run in processes of their own
(`worker.py`), and an accelerator belongs to one process.
"""

import difflib
import importlib
from types import ModuleType

from hapo_jax.system.errors import Refused

# name -> module. Modules are imported on demand, as some graders are slow to load.
TASKS = {
    "code": "hapo_jax.tasks.code",
    "countdown": "hapo_jax.tasks.countdown",
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


def get(name: str) -> ModuleType:
    """The module of a task, or of what compares its answers.

    Raises:
      Refused: there is no such task; names the nearest one.
    """
    check(name)
    return importlib.import_module((TASKS | _COMPARERS)[name])


def check(name: str) -> None:
    """Raises ValueError, naming the nearest task, unless `name` is one."""
    if name in TASKS or name in _COMPARERS:
        return
    near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.0)
    raise Refused(
        f"task {name!r} is not one of {', '.join(TASKS)}; did you mean {near[0]!r}?"
    )
