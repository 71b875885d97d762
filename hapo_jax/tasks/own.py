"""A task of a user's own, named by `package.module` or `package.module:function`.

The function is the verifier, `grade` if none is named. The module's `problems` give the
problems; one without reads them from files, as `problems` below does. docs/
adding_a_task.md shows both.
"""

import importlib.util
import numbers
import pathlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from hapo_jax.system import own_code
from hapo_jax.system.errors import Refused
from hapo_jax.tasks.problems import Grade, Problem, check_split, read_problems


def load(name: str) -> SimpleNamespace:
    """All that the module defines, with `grade` and `problems` as said above.

    Raises:
      Refused: there is no such module, or no such function in it.
    """
    module = own_code.module("task.name", name)
    attribute = name.partition(":")[2] or "grade"
    verifier = getattr(module, attribute, None)
    if not callable(verifier):
        raise Refused(
            f"task.name={name!r}: module {module.__name__!r} has no function "
            f"{attribute!r}; a verifier is grade(completion, answer) -> (score, text)."
        )
    return SimpleNamespace(
        **{"problems": problems, **vars(module), "grade": _checked(name, verifier)}
    )


def folder(name: str) -> str:
    """The folder that its package lies in, from which graders import it as well."""
    spec = importlib.util.find_spec(name.partition(":")[0].partition(".")[0])
    if spec is None:
        return ""
    if spec.submodule_search_locations:  # a package, perhaps without __init__.py
        return str(pathlib.Path(next(iter(spec.submodule_search_locations))).parent)
    return str(pathlib.Path(spec.origin).parent)


def problems(
    split: str,
    *,
    path: str | pathlib.Path,
    prompt_template: str = "",
    columns: str = "",
    on_error: str = "stop",
) -> list[Problem]:
    """Problems from files.

    Args:
      split: "train" or "test"; the files say which problems these are.
      path, prompt_template, columns, on_error: see `problems.read_problems`.
    """
    check_split(split)
    return read_problems(
        path, prompt_template=prompt_template, columns=columns, on_error=on_error
    )


def _checked(name: str, verifier: Callable) -> Callable[[str, str], Grade]:
    """A verifier whose results are what the rest of the package expects."""

    def grade(completion: str, answer: str) -> Grade:
        given: Any = verifier(completion, answer)
        if not (isinstance(given, tuple) and len(given) == 2):
            raise TypeError(f"{name} must return (score, text), got {given!r}")
        score, text = given
        if not (isinstance(score, numbers.Real) and 0 <= score <= 1):
            raise TypeError(f"{name}: a score must be in [0, 1], got {score!r}")
        if not (text is None or isinstance(text, str)):
            raise TypeError(f"{name}: what was read must be text or None, got {text!r}")
        return Grade(float(score), text)

    return grade
