"""What a file's sweep describes, and what is refused of it."""

import pytest

from hapo_jax.sweeps import product, variants, zipped
from hapo_jax.system.errors import Refused

FILE = """
from configs import countdown
from hapo_jax.sweeps import choice, log_uniform, product


def get_config(arg=None):
    return countdown.get_config(arg)


def sweep(add):
    for changes in product({":method": ("dapo", "hapo"), "seed": range(2)}):
        add(changes)


def sweep_rates(add):
    for rate in (1e-4, 3e-4):
        add({"learner.learning_rate": rate}, name=f"rate_{rate:g}")


def sweep_none(add):
    pass


def sweep_twice(add):
    add({"seed": 1})
    add({"seed": 1})


def ranges():
    return {"learner.learning_rate": log_uniform(1e-5, 1e-3),
            "algo.quantile": choice(0.5, 0.8)}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return str(path)


def test_helpers_combine_axes():
    axes = {"a": (1, 2), "b": ("x", "y")}
    assert [tuple(c.values()) for c in product(axes)] == [
        *((1, "x"), (1, "y"), (2, "x"), (2, "y")),
    ]
    assert list(zipped(axes)) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    with pytest.raises(Refused, match="a has 2, b has 1"):
        list(zipped({"a": (1, 2), "b": (1,)}))


def test_a_sweep_has_named_variants_whose_seeds_are_one_group(file):
    experiment, found = variants.read(file, [("num_steps", "3")])
    assert [(v.name, v.group, v.seed) for v in found] == [
        ("method=dapo+seed=0", "method=dapo", 0),
        ("method=dapo+seed=1", "method=dapo", 1),
        ("method=hapo+seed=0", "method=hapo", 0),
        ("method=hapo+seed=1", "method=hapo", 1),
    ]
    assert experiment.flags(found[3].changes) == [
        f"--config={file}:method=hapo",
        "--config.num_steps=3",
        "--config.seed=1",
    ]
    config = experiment.config(found[3].changes)
    assert (config.method, config.seed, config.num_steps) == ("hapo", 1, 3)


def test_the_argument_chooses_a_sweep_and_stays_the_files(file):
    experiment, found = variants.read(f"{file}:sweep=rates,method=grpo")
    assert [v.name for v in found] == ["rate_0.0001", "rate_0.0003"]
    config = experiment.config(found[1].changes)
    assert (config.method, config.learner.learning_rate) == ("grpo", 3e-4)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        (":sweep=rate", "no function sweep_rate .did you mean 'rates'"),
        (":sweep=none", "added no variant"),
        (":sweep=twice", "two variants are called 'base.seed=1'"),
        (":sweep=rates,sweep=none", "give one sweep"),
    ],
)
def test_what_is_no_sweep_is_refused(file, argument, words):
    with pytest.raises(Refused, match=words):
        variants.read(file + argument)


def test_a_file_without_a_sweep_is_told_what_it_lacks(tmp_path):
    path = tmp_path / "plain.py"
    path.write_text("def get_config(arg=None): ...\n")
    with pytest.raises(Refused, match=r"no function sweep\(add\)"):
        variants.read(str(path))


def test_names_are_those_of_folders():
    made = variants.variant({"task.train.path": "a/b c", "algo.clip.high": 0.28})
    assert made.name == "path=a_b_c+high=0.28"
    both = variants.variant({"rollout.top_k": 5, "eval.top_k": 3})
    assert both.name == "rollout.top_k=5+eval.top_k=3"
    with pytest.raises(Refused, match="at most 120"):
        variants.variant({"task.train.path": "x" * 200})
