"""A search goes on where it was stopped, and every trial is a run folder."""

import sys

import pytest

from hapo_jax.sweeps import choice, integers, local, search, sweep_folder, uniform
from hapo_jax.system.errors import Refused

optuna = pytest.importorskip("optuna")

FILE = """
from configs import countdown
from hapo_jax.sweeps import log_uniform

def get_config(arg=None):
    return countdown.get_config(arg)

def ranges():
    return {"learner.learning_rate": log_uniform(1e-5, 1e-2)}
"""
# The best rate is 1e-3; a rate above 5e-3 fails.
STAND_IN = """
import math, os, pathlib, sys
sys.path.insert(0, os.getcwd())
from tests import made_runs
folder, rate = pathlib.Path(sys.argv[1]), float(sys.argv[2])
if rate > 5e-3:
    sys.exit(1)
score = 1 - abs(math.log10(rate) + 3) / 3
made_runs.make(folder, evaluations={1: {"p": [score]}})
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "stand_in.py").write_text(STAND_IN)

    def program(sweep, variant):
        rate = str(variant.changes["learner.learning_rate"])
        at = str(sweep.run_folder(variant))
        return [sys.executable, str(tmp_path / "stand_in.py"), at, rate]

    monkeypatch.setattr(local, "program", program)

    def make(trials):
        return search.make(
            str(tmp_path / "mine.py"),
            [],
            tmp_path / "search",
            trials=trials,
            metric="eval/avg@1",
            check=lambda *_: None,
        )

    return make


def run(found):
    running = local.run(found.sweep, found.unfinished(), local.places(2), found.more)
    *_, jobs = running
    found.tell(jobs)


def test_trials_are_runs_and_the_search_goes_on(make, tmp_path):
    first = make(4)
    run(first)
    assert len(first.study.trials) == 4
    names = [v.name for v in sweep_folder.read(tmp_path / "search").variants]
    assert names == [f"trial_{i:04d}" for i in range(4)]
    # Stopped with a trial that is not over: it is run to its end, and counted once.
    asked = first.more([])
    assert asked is None  # as many as were wanted
    second = make(7)
    begun = second.more([])
    third = make(7)
    assert [v.name for v in third.unfinished()] == [begun.name]
    run(third)
    assert len(third.study.trials) == 7
    assert all(t.state.is_finished() for t in third.study.trials)
    scored = [t for t in third.study.trials if t.value is not None]
    for trial in scored:
        at = tmp_path / "search" / f"trial_{trial.number:04d}"
        found = sweep_folder.progress(at)
        assert found.finished and found.metrics["eval/avg@1"] == trial.value
    best = max(scored, key=lambda t: t.value)
    assert f"trial_{best.number:04d}" in third.result().splitlines()[1]


def test_ranges_are_optunas():
    assert uniform(0, 1).distribution() == optuna.distributions.FloatDistribution(0, 1)
    whole = optuna.distributions.IntDistribution(1, 8)
    assert integers(1, 8).distribution() == whole
    kinds = optuna.distributions.CategoricalDistribution(("a", "b"))
    assert choice("a", "b").distribution() == kinds


def test_a_file_without_ranges_is_refused(tmp_path):
    (tmp_path / "plain.py").write_text("def get_config(arg=None): ...\n")
    options = dict(trials=1, metric="eval/avg@1", check=lambda *_: None)
    with pytest.raises(Refused, match=r"no function ranges\(\)"):
        search.make(str(tmp_path / "plain.py"), [], tmp_path / "s", **options)
    (tmp_path / "odd.py").write_text("def ranges():\n    return {'seed': [1, 2]}\n")
    with pytest.raises(Refused, match="give a range, such as"):
        search.make(str(tmp_path / "odd.py"), [], tmp_path / "s", **options)
