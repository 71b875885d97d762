"""Runs on this machine: places, failures, a stop, and going on; with small stand-ins
for hapo-train, which `test_sweep.py` runs itself."""

import sys
import time

import pytest

from hapo_jax.sweeps import board, local, sweep_folder, variants
from hapo_jax.sweeps.sweep_folder import Sweep
from hapo_jax.sweeps.variants import Experiment
from hapo_jax.system import lock
from hapo_jax.system.errors import Refused

# Takes half a second; fails where its seed is 1.
STAND_IN = """
import pathlib, os, sys, time
sys.path.insert(0, os.getcwd())
from tests import made_runs
folder, seed = pathlib.Path(sys.argv[1]), int(sys.argv[2])
print("begins on", sorted(os.sched_getaffinity(0)), flush=True)
time.sleep(0.5)
if seed == 1:
    sys.exit("it went wrong")
made_runs.make(folder, seed=seed, evaluations={1: {"p": [1.0]}})
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    (tmp_path / "stand_in.py").write_text(STAND_IN)

    def program(sweep, variant):
        at = str(sweep.run_folder(variant))
        return [sys.executable, str(tmp_path / "stand_in.py"), at, str(variant.seed)]

    monkeypatch.setattr(local, "program", program)
    made = [variants.variant({"seed": seed}) for seed in range(3)]
    return Sweep(tmp_path / "sweep", Experiment("configs/countdown.py"), made)


def last(running):
    *_, jobs = running
    return {job.variant.seed: job for job in jobs}


def test_a_failing_variant_stops_no_other_and_shows_its_last_lines(sweep):
    jobs = last(local.run(sweep, sweep.variants, local.places(2)))
    states = {seed: job.state for seed, job in jobs.items()}
    assert states == {0: local.FINISHED, 1: local.FAILED, 2: local.FINISHED}
    told = board.failures([*jobs.values()], sweep)
    assert "base+seed=1 failed (status 1)" in told and "it went wrong" in told
    assert "seed=0" not in told


def test_runs_have_cores_of_their_own(sweep):
    where = local.places(2)
    assert not {*where[0].cores} & {*where[1].cores}
    last(local.run(sweep, sweep.variants[:1], where))
    assert f"begins on {[*where[0].cores]}" in sweep.tail(sweep.variants[0])
    with pytest.raises(Refused, match="--jobs=1000"):
        local.places(1000)


def test_what_is_finished_is_not_run_again(sweep):
    last(local.run(sweep, sweep.variants, local.places(2)))
    before = sweep.log(sweep.variants[0]).read_text()
    jobs = last(local.run(sweep, sweep.variants, local.places(2)))
    assert sweep.log(sweep.variants[0]).read_text() == before
    assert sweep.log(sweep.variants[1]).read_text().count("begins") == 2  # tried again
    assert jobs[1].state == local.FAILED


def test_closing_stops_the_runs(sweep):
    running = local.run(sweep, sweep.variants, local.places(1))
    (first, *others) = next(running)
    assert first.state == local.RUNNING and first.process.poll() is None
    running.close()
    assert first.process.poll() is not None and first.state == local.STOPPED
    assert all(job.state == local.WAITING for job in others)


def test_a_run_that_goes_on_elsewhere_is_waited_for(sweep):
    variant = sweep.variants[0]
    with lock.hold(sweep.run_folder(variant)):
        running = local.run(sweep, [variant], local.places(1))
        (job,) = next(running)
        assert job.state == local.ELSEWHERE
    (job,) = next(running)
    assert job.state == local.RUNNING
    running.close()


def test_the_time_left_follows_the_pace(monkeypatch):
    job = local.Job(variants.variant({"seed": 0}), local.RUNNING)
    job.began, job.first_share = time.monotonic() - 10, 0.5
    found = sweep_folder.Progress(3, 0.75, False, 0.0, {})
    assert board.left(job, found) == pytest.approx(10, rel=0.1)
    told = board.summary([job], lambda _: found, 1)
    assert told in ("1 running; about 10 s left", "1 running; about 11 s left")
    assert board.duration(3700) == "1 h 01 min" and board.duration(61) == "1 min 01 s"
