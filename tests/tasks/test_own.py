"""Tasks of a user's own: how they are named, read, checked, graded, and refused."""

import ml_collections
import pytest

from hapo_jax import tasks
from hapo_jax.config import check, eval_sets
from hapo_jax.grading import pool as pool_lib
from tests.config.test_check import load

MODULE = """
from hapo_jax.tasks.problems import Problem

def problems(split, *, size: int):
    return [Problem(str(i), f"{i} + 1 =", str(i + 1), "sums") for i in range(size)]

def grade(completion, answer):
    return float(completion == answer), completion or None

def bare(completion, answer):
    return completion == answer

def too_much(completion, answer):
    return 2.0, None
"""


@pytest.fixture
def own_sums(tmp_path, monkeypatch):
    """A module on the parent's path alone, named anew so that none is cached."""
    name = f"own_sums_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}_jax.py").write_text("import jax\n" + MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def grades(task, items):
    with pool_lib.GradingPool(
        num_workers=1, timeout_s=5.0, memory_gib=8.0, start_timeout_s=120.0
    ) as pool:
        return pool.submit(task, items).result()


def config_of(name, **train):
    c = load("countdown")
    c.unlock()
    c.task.name = name
    c.task.train = c.task.test = ml_collections.ConfigDict(train)
    return c


@pytest.mark.parametrize("form", ["{}:", "{}:grade", "{}"])
def test_a_task_is_named_by_its_module_or_its_verifier(own_sums, form):
    name = form.format(own_sums)
    if form == "{}":  # without a dot or colon it is taken for one of ours
        with pytest.raises(ValueError, match=r"package\.module:function"):
            tasks.get(name)
        return
    task = tasks.get(name)
    assert [p.answer for p in task.problems("train", size=2)] == ["1", "2"]
    assert task.grade("2", "2") == (1.0, "2")


def test_the_pool_grades_by_it(own_sums):
    found = grades(f"{own_sums}:grade", [("3", "3"), ("4", "3"), ("", "3")])
    assert [(g.score, g.extracted) for g in found] == [(1, "3"), (0, "4"), (0, None)]


@pytest.mark.parametrize("verifier", ["bare", "too_much"])
def test_what_it_returns_amiss_counts_as_wrong(own_sums, verifier):
    with pytest.raises(TypeError, match=r"score, text|in \[0, 1\]"):
        tasks.get(f"{own_sums}:{verifier}").grade("3", "3")
    assert grades(f"{own_sums}:{verifier}", [("3", "3")])[0].score == 0


def test_a_verifier_that_imports_jax_is_refused(own_sums):
    with pytest.raises(Exception, match="imports jax, and graders must not"):
        grades(f"{own_sums}_jax:grade", [("3", "3")])


def test_a_config_is_checked_by_its_options(own_sums):
    name = f"{own_sums}:grade"
    check.check_alone(config_of(name, split="train", size=3))
    with pytest.raises(ValueError, match="sise is no option"):
        check.check_alone(config_of(name, split="train", sise=3))
    with pytest.raises(ValueError, match="path is missing"):
        check.check_alone(config_of("examples.own_verifier:palindrome", split="train"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such.module", "there is no module 'no_such'; install its package"),
        ("examples.own_verifier:palindrom", "has no function 'palindrom'"),
        ("examples.own_verifier", "has no function 'grade'"),
        ("count_down", "did you mean 'countdown'"),
    ],
)
def test_what_is_no_task_is_refused(name, words):
    with pytest.raises(ValueError, match=words):
        check.check_alone(config_of(name, split="train"))


def test_files_of_an_own_task_are_sets_of_an_evaluation():
    name = "examples.own_verifier:palindrome"
    c = config_of(name, split="test", path="words.jsonl")
    (found,) = eval_sets.parse(f"{name}:other.jsonl", c)
    assert (found.task, found.options["path"]) == (name, "other.jsonl")
