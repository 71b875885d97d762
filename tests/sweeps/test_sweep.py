"""hapo-sweep and hapo-compare as a user runs them: killed, continued, compared."""

import os
import signal
import subprocess
import sys
import time

import pytest

from hapo_jax.comparison import page, runs
from hapo_jax.runs import records
from hapo_jax.sweeps import sweep_folder
from hapo_jax.system import lock
from tests.environment import of_program
from tests.test_train import ROOT

FILE = """
from configs import countdown
from hapo_jax.sweeps import product


def get_config(arg=None):
    c = countdown.get_config(arg).copy_and_resolve_references()
    with c.unlocked():
        c.num_steps = 3
        c.rollout.batch_prompts = c.rollout.round_prompts = 4
        c.rollout.max_completion_tokens = 8
        c.rollout.dynamic_sampling = False
        c.learner.minibatch_prompts = 4
        c.eval.num_problems = 4
        c.eval.k = 2
        c.checkpoint.every_steps = 1
        c.checkpoint.export_hf = False
        c.mesh.cpu_devices = 1
        c.grading.workers = 1
    return c.lock()


def sweep(add):
    for changes in product({"learner.learning_rate": (1e-3,), "seed": range(2)}):
        add(changes)


def sweep_more(add):
    sweep(add)
    add({"seed": 0, "learner.learning_rate": 1e-4})


def sweep_wrong(add):
    sweep(add)
    add({"learner.minibatch_prompts": 3})
    add({"learner.rate": 1})
    add({"log.record_groups": "all", "log.record_gib": 1e-6})


def sweep_eight(add):
    rates = [1e-4 * 1.5**i for i in range(8)]
    for changes in product({"learner.learning_rate": rates, "seed": range(2)}):
        add(changes)
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def command(file, workdir, *flags, sweep=""):
    spec = f"{file}:sweep={sweep}" if sweep else file
    return [
        *(sys.executable, "-m", "hapo_jax.sweeps.program", f"--config={spec}"),
        *(f"--workdir={workdir}", *flags),
    ]


def run(*line, expect=0):
    env = of_program(PYTHONPATH=str(ROOT))
    done = subprocess.run(
        line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == expect, done.stdout[-2000:] + done.stderr[-3000:]
    return done


def table(workdir):
    """Of all runs, without what the machine's speed decides."""
    found = runs.read([workdir], metric="eval/avg@2")
    lines = page.per_seed_csv(found).splitlines()
    return [line.split(",")[:6] for line in lines]


def killed_half_way(file, workdir, wait_for, *flags, sweep=""):
    """Starts a sweep and kills it when `wait_for` of its runs have metrics."""
    process = subprocess.Popen(
        command(file, workdir, *flags, sweep=sweep),
        cwd=ROOT,
        env=of_program(PYTHONPATH=str(ROOT)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until = time.monotonic() + 400
    while time.monotonic() < until and process.poll() is None:
        if len([*workdir.glob(f"*/{records.METRICS}")]) >= wait_for:
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_killed_sweep_goes_on_to_the_same_table(file, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(*command(file, whole, "--jobs=2"))
    killed_half_way(file, parts, 2)
    variants = sweep_folder.read(parts).variants
    done = [v for v in variants if sweep_folder.progress(parts / v.name).finished]
    assert len(done) < 2
    run(*command(file, parts, "--jobs=2"))
    assert table(parts) == table(whole)
    assert len(table(whole)) == 1 + 2
    for variant in done:
        assert (parts / f"{variant.name}.log").read_text().count("steps 1 to 3") == 1


def test_nothing_starts_if_a_variant_cannot_work(file, tmp_path):
    done = run(*command(file, tmp_path / "sweep", sweep="wrong"), expect=2)
    assert "3 of 5 variants cannot work, and none was started." in done.stderr
    assert "minibatch_prompts=3" in done.stderr
    assert "learner.rate is no setting" in done.stderr
    assert "log.record_gib=1e-06 is the limit" in done.stderr
    assert not (tmp_path / "sweep").exists()


def test_a_second_sweep_in_the_folder_is_refused(file, tmp_path):
    folder = tmp_path / "sweep"
    with lock.hold(folder):
        done = run(*command(file, folder), expect=2)
    assert "is in use: process" in done.stderr
    assert not (folder / sweep_folder.FILE).exists()


def test_a_dry_run_prints_the_commands(file, tmp_path):
    said = run(*command(file, tmp_path / "sweep", "--dry_run", "--only=*seed=1")).stdout
    first, *lines = said.splitlines()
    assert first.endswith("1 variants, 0 of them finished; of the others")
    assert lines == [
        f"hapo-train --config={file} --config.learner.learning_rate=0.001 "
        f"--config.seed=1 --workdir={tmp_path}/sweep/learning_rate=0.001+seed=1"
    ]
    assert not (tmp_path / "sweep").exists()


@pytest.mark.long
def test_eight_variants_killed_half_way(file, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(*command(file, whole, "--jobs=2", sweep="eight"))
    killed_half_way(file, parts, 9, "--jobs=2", sweep="eight")
    run(*command(file, parts, "--jobs=2", sweep="eight"))
    assert table(parts) == table(whole)
    assert len(table(whole)) == 1 + 16


@pytest.mark.long
def test_a_sweep_that_has_grown_adds_to_what_is_there(file, tmp_path):
    whole = tmp_path / "whole"
    run(*command(file, whole))
    variants = sweep_folder.read(whole).variants
    before = (whole / variants[0].name / records.METRICS).read_bytes()
    run(*command(file, whole, sweep="more"))
    assert len(table(whole)) == 1 + 3
    assert (whole / variants[0].name / records.METRICS).read_bytes() == before
    said = run(
        *(sys.executable, "-m", "hapo_jax.comparison.program", str(whole)),
        *("--metric=eval/avg@2", "--baseline=learning_rate=0.0001"),
    ).stdout
    assert "learning_rate=0.001: the baseline has no seed 1." in said
