"""The table of tasks, and the promise that grading never loads JAX."""

import json
import subprocess
import sys

import pytest

from hapo_jax import tasks


@pytest.mark.parametrize("name", tasks.TASKS)
def test_a_task_has_the_two_functions(name):
    module = tasks.get(name)
    assert callable(module.grade)
    assert callable(module.problems)


@pytest.mark.parametrize("task", tasks.EQUALITIES)
def test_what_compares_answers_of_a_task_can_be_asked_by_the_pool(task):
    module = tasks.get(tasks.EQUALITIES[task])
    assert callable(module.grade)
    assert callable(module.item)
    assert task in tasks.TASKS


def test_late_imports_are_those_of_graders():
    graders = {*tasks.TASKS, *tasks.EQUALITIES.values()}
    assert tasks.GRADER_LIBRARIES.keys() <= graders


def test_a_misspelt_task_is_refused_with_the_nearest_one():
    with pytest.raises(ValueError, match="did you mean 'countdown'"):
        tasks.get("count_down")


def test_grading_imports_no_jax():
    """Not the package, not a task, not a grader's late imports, not the worker."""
    code = """
import importlib, json, sys
import hapo_jax
from hapo_jax import tasks
from hapo_jax.grading import worker
for name in (*tasks.TASKS, *tasks.EQUALITIES.values()):
    tasks.get(name)
    for library in tasks.GRADER_LIBRARIES.get(name, ()):
        importlib.import_module(library)
from hapo_jax.tasks import math
assert math.grade(r"Answer: \\frac{84}{2}", "42").score == 1.0
print(json.dumps(sorted(sys.modules)))
"""
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    loaded = {module.split(".")[0] for module in json.loads(output)}
    assert "math_verify" in loaded  # or the test shows nothing
    assert not loaded & {"jax", "jaxlib", "flax", "chex", "torch", "tensorflow"}
