"""What Weights & Biases is told, heard by a stand-in of its package."""

import sys
import types

import numpy as np
import pytest

from hapo_jax.config import check, defaults
from hapo_jax.system.errors import Refused
from tests.runs import test_folder


@pytest.fixture
def heard(monkeypatch):
    """All calls, and the module that makes them."""
    calls = []
    run = types.SimpleNamespace(
        log=lambda values: calls.append(("log", values)),
        finish=lambda: calls.append(("finish",)),
        define_metric=lambda *a, **k: calls.append(("define_metric", a, k)),
    )

    def init(**options):
        calls.append(("init", options))
        return run

    module = types.ModuleType("wandb")
    module.init = init
    module.Histogram = lambda values: ("histogram", len(values))
    module.Table = lambda columns, data: ("table", columns, data)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def log(path, *, resume_step=None, step=1):
    config = test_folder.make_config(**{"log.wandb": "mine", "log.tensorboard": False})
    with test_folder.open_folder(path, resume_step=resume_step, config=config) as folder:
        folder.log(step, {"loss/policy": 0.5, "bad": float("nan")})
        folder.log_histograms(step, {"entropy": np.ones(3)})
        folder.log_table(step, "samples", ["a", "b"], [["x", "y"]])


def test_it_gets_the_keys_of_the_metrics(heard, tmp_path):
    log(tmp_path)
    options = heard[0][1]
    assert (options["project"], options["resume"]) == ("mine", "allow")
    assert options["config"]["algo"]["clip"]["low"] == 0.2
    assert heard[3:] == [
        ("log", {"step": 1, "loss/policy": 0.5}),
        ("log", {"step": 1, "entropy": ("histogram", 3)}),
        ("log", {"step": 1, "samples": ("table", ["a", "b"], [["x", "y"]])}),
        ("finish",),
    ]
    assert not (tmp_path / "tensorboard").exists()


def test_a_resumed_run_is_the_same_run(heard, tmp_path):
    log(tmp_path)
    log(tmp_path, resume_step=1, step=2)
    first, second = (call[1]["id"] for call in heard if call[0] == "init")
    assert first == second


def test_without_the_package_it_is_refused(monkeypatch):
    real = check.importlib.util.find_spec
    monkeypatch.setattr(
        check.importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "wandb" else real(name, *rest),
    )
    config = defaults.default()
    config.task.name = "countdown"
    config.log.wandb = "mine"
    with pytest.raises(Refused, match="log.wandb='mine' needs wandb: pip install"):
        check.check_alone(config)
