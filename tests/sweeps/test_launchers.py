"""What other machines are asked to run."""

import shlex
import sys

import pytest

from hapo_jax.sweeps import launchers, sweep_folder, variants
from hapo_jax.sweeps.sweep_folder import Sweep
from hapo_jax.sweeps.variants import Experiment
from hapo_jax.system.errors import Refused
from tests.test_train import ROOT


@pytest.fixture
def sweep(tmp_path):
    experiment = Experiment("configs/countdown.py", overrides=(("num_steps", "3"),))
    made = [variants.variant({":method": m, "seed": 1}) for m in ("dapo", "hapo")]
    return Sweep(tmp_path / "a b", experiment, made)


def test_commands_are_lines_for_the_shell(sweep):
    lines = launchers.commands(sweep, sweep.variants)
    assert shlex.split(lines[1]) == [
        "hapo-train",
        "--config=configs/countdown.py:method=hapo",
        "--config.num_steps=3",
        "--config.seed=1",
        f"--workdir={sweep.folder}/method=hapo+seed=1",
    ]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("skypilot", {"job": "gpu"}, "sky jobs launch"),
        (
            "xpk",
            {"cluster": "c", "type": "v5litepod-16", "image": "i"},
            "xpk workload create",
        ),
    ],
)
def test_the_scripts_of_launch_take_every_variant(
    sweep, monkeypatch, name, options, words
):
    monkeypatch.chdir(ROOT)
    calls = launchers.scripts(name, sweep, sweep.variants, options, "gs://bucket/x")
    assert len(calls) == 2
    import subprocess

    script, *rest = calls[0][1:]
    dry = ["bash", script, "--dry_run", *rest]
    done = subprocess.run(dry, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert words.split()[0] in done.stdout
    for part in ("method=dapo", "seed=1", "num_steps=3", "hapo-method-dapo-seed-1"):
        assert part in done.stdout.replace("\\", "")


def test_what_a_launcher_needs_is_asked_for(sweep, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    with pytest.raises(Refused, match="--bucket must say"):
        launchers.scripts("xpk", sweep, sweep.variants, {}, "")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused, match="in a checkout"):
        launchers.scripts("xpk", sweep, sweep.variants, {}, "gs://b")


def test_slurm_runs_an_array(sweep, monkeypatch):
    """Through submitit's executor of this machine."""
    pytest.importorskip("submitit")
    sweep.folder.mkdir()
    program = [sys.executable, "-c", "import sys; print(sys.argv)"]
    monkeypatch.setattr(launchers, "program", lambda *_: program)
    options = {"timeout_min": "2"}
    jobs = launchers.slurm(sweep, sweep.variants, options, at_a_time=1, cluster="local")
    assert [job.result() for job in jobs] == [0, 0]
    assert "-c" in sweep.tail(sweep.variants[1])
    with pytest.raises(Refused, match="submitit refuses them"):
        launchers.slurm(
            sweep, sweep.variants, {"gpuss": "1"}, at_a_time=0, cluster="local"
        )


def test_a_run_that_fails_fails_its_job(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(RuntimeError, match="status 3"):
        launchers.run_one([sys.executable, "-c", "raise SystemExit(3)"], str(log))
    assert not sweep_folder.progress(tmp_path).finished
