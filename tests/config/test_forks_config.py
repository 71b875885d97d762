"""The experiment on forks: what its sweeps hold, and that the warm start fits."""

import collections
import pathlib

import pytest

from configs import forks as forks_config
from hapo_jax.algo import method, settings
from hapo_jax.config import arguments, check
from hapo_jax.model import tokenizer
from hapo_jax.sweeps import variants
from hapo_jax.tasks import forks

ROOT = pathlib.Path(__file__).parents[2]
FILE = str(ROOT / "configs" / "forks.py")
ABLATION = {
    *("hapo", "hapo_public", "dapo", "grpo", "forking"),
    *("oracle", "shuffled", "constant", "A+B"),
    *(f"{kind}_{part}" for kind in ("without", "only") for part in "ABCD"),
}


def groups(name):
    _, found = variants.read(f"{FILE}:sweep={name}" if name else FILE)
    by_group = collections.defaultdict(list)
    for variant in found:
        by_group[variant.group].append(variant)
    return by_group


@pytest.mark.parametrize("name", ["", "ablation", "learning_rate", "sensitivity"])
def test_every_variant_has_the_same_seeds_and_budget(name):
    for found in groups(name).values():
        assert [variant.seed for variant in found] == list(forks_config.SEEDS)
        for variant in found:
            assert forks_config.BUDGET.items() <= variant.changes.items()


def test_heterogeneity_is_crossed_with_the_method():
    expected = {f"{m}_{share}" for m in ("dapo", "hapo") for share in forks.SHARES}
    assert groups("").keys() == expected


def test_the_ablation_is_whole_and_every_variant_is_one_of_its_own():
    found = groups("ablation")
    assert found.keys() == ABLATION
    changes = [dict(v[0].changes) for v in found.values()]
    assert all(changes.count(own) == 1 for own in changes)


@pytest.mark.parametrize("name", ["oracle", "shuffled", "constant", "only_C", "grpo"])
def test_a_variant_of_the_ablation_can_run(name):
    experiment, found = variants.read(f"{FILE}:sweep=ablation")
    chosen = next(variant for variant in found if variant.group == name)
    config, _ = check.check(experiment.config(chosen.changes), num_devices=1)
    check.check_method(config, method.make(settings.of(config.algo.to_dict())))


@pytest.mark.parametrize("share", forks.SHARES)
def test_problems_fit_the_lengths_and_the_warm_start_knows_their_words(share):
    config = arguments.load(f"{FILE}:forced={share}")
    own = tokenizer.load(config.model.path)
    options = {**config.task.train.to_dict(), "size": 20}
    for problem in forks.problems(**options):
        ids = own.encode(problem.prompt)
        assert len(ids) == config.rollout.max_prompt_tokens
        assert own.decode(ids) == problem.prompt
    assert options["columns"] + 1 == config.rollout.max_completion_tokens


def test_the_warm_start_is_small():
    folder = ROOT / "configs" / "forks_warm"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2**20
