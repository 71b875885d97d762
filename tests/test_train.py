"""The main job as a user runs it: a program, a workdir, signals, kills and resuming."""

import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from hapo_jax import replay
from hapo_jax.doctor import checks, doctor
from hapo_jax.rollout.collect import StreamState
from hapo_jax.runs import alarms, batches
from hapo_jax.runs import records as records_lib
from tests.environment import of_program

ROOT = pathlib.Path(__file__).parent.parent
# Surplus groups every step, several rounds, all of HAPO on.
SMALL = (
    "--config.rollout.batch_prompts=5",
    "--config.rollout.round_prompts=4",
    "--config.rollout.max_rounds=6",
    "--config.learner.minibatch_prompts=5",
    "--config.rollout.max_completion_tokens=32",
    "--config.eval.num_problems=8",
    "--config.eval.k=2",
    "--config.checkpoint.every_steps=1",
    "--config.mesh.cpu_devices=1",
    "--config.log.record_every_steps=2",
)


def command(workdir, *flags):
    return [
        *(sys.executable, "-m", "hapo_jax.train"),
        *("--config=configs/countdown.py", f"--workdir={workdir}"),
        *flags,
    ]


@pytest.fixture(scope="module")
def environment():
    """Of the programs; one cache serves all of them."""
    return of_program()


def run(environment, workdir, *flags, expect=0):
    done = subprocess.run(
        command(workdir, *flags),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == expect, done.stderr[-3000:]
    return done


def start(environment, workdir, *flags):
    return subprocess.Popen(
        command(workdir, *flags),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_step(process, workdir, step):
    """Returns when `step` is in metrics.jsonl."""
    deadline = time.monotonic() + 300
    path = pathlib.Path(workdir) / "metrics.jsonl"
    while time.monotonic() < deadline:
        lines = path.read_text().splitlines() if path.exists() else []
        if any(f'"step": {step},' in line for line in lines):
            return
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.05)
    raise AssertionError(f"step {step} did not come in time")


def numbers(workdir):
    """All metrics but times, by step."""
    return [
        {k: v for k, v in line.items() if not k.startswith(("time/", "perf/"))}
        for line in records_lib.read_metrics(workdir)
    ]


def checkpoint_arrays(workdir, step):
    """Every array of a checkpoint as stored, by name; and the host's part of it."""
    import orbax.checkpoint as ocp

    from hapo_jax.runs import host_tree

    folder = pathlib.Path(workdir).resolve() / "checkpoints" / str(step)
    with ocp.PyTreeCheckpointer() as reader:
        state = reader.restore(folder / "state")
        extra = reader.restore(folder / "extra")
    leaves = jax.tree_util.tree_leaves_with_path(state)
    arrays = {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}
    return arrays, host_tree.unpack(np.asarray(extra["packed"]))


@pytest.fixture(scope="module")
def uninterrupted(environment, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    done = run(environment, workdir, *SMALL, "--config.num_steps=6")
    (workdir / "said.txt").write_text(done.stderr)
    return workdir


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(environment, uninterrupted, tmp_path):
    # It records all that there is of a step, which may change no number.
    flags = (*SMALL, "--config.num_steps=6", "--config.log.record_groups=all")
    process = start(environment, tmp_path, *flags)
    wait_for_step(process, tmp_path, 4)
    process.kill()
    process.wait()
    done = run(environment, tmp_path, *flags)
    assert "all groups of every 2 steps, 0.0" in done.stderr

    resumed_at = json.loads((tmp_path / "config.json").read_text())["starts"][-1]
    assert 1 <= resumed_at["resume_step"] <= 4
    assert numbers(tmp_path) == numbers(uninterrupted)
    arrays, extra = checkpoint_arrays(tmp_path, 6)
    expected, expected_extra = checkpoint_arrays(uninterrupted, 6)
    assert arrays.keys() == expected.keys() and len(arrays) > 20
    for name, value in expected.items():
        np.testing.assert_array_equal(arrays[name], value, err_msg=name)
    stream, whole = map(StreamState.from_plain, (extra, expected_extra))
    assert stream.cursor == whole.cursor > 0
    # The comparison says little unless groups were carried and statistics existed.
    carried = [m["rollout/groups_carried"] for m in numbers(tmp_path) if m["step"]]
    assert max(carried) > 0
    assert numbers(tmp_path)[-1]["temperature/min"] < 1

    logged = {m["step"]: m for m in records_lib.read_metrics(tmp_path)}
    assert batches.steps(tmp_path) == [2, 4, 6]
    assert len(records_lib.read_rollouts(tmp_path, 4)) == 40
    again = replay.replay(tmp_path, 4).metrics
    assert len(again) > 25
    for key, value in again.items():
        np.testing.assert_allclose(value, logged[4][key], rtol=1e-5, atol=1e-6)


def documented_metrics():
    """Patterns of the names in docs/metrics.md."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    cells = [row.split("|")[1] for row in rows]
    names = [name for cell in cells for name in re.findall("`([^`]+)`", cell)]
    assert len(names) > 60
    assert all(row.count("|") == 5 and row.split("|")[4].strip() for row in rows)
    return [re.sub("@[KJ]", r"@\\d+", name) for name in names]


@pytest.mark.slow
def test_every_metric_is_documented_with_its_denominator(uninterrupted):
    known = [rf"{name}(_low|_high)?" for name in documented_metrics()]
    names = {name for line in records_lib.read_metrics(uninterrupted) for name in line}
    names -= {"step"}
    missing = {n for n in names if not any(re.fullmatch(k, n) for k in known)}
    assert not missing
    # And none is documented that nobody writes; this run has no KL term, no penalty,
    # and learns from its groups alone.
    unseen = {k for k in known if not any(re.fullmatch(k, n) for n in names)}
    absent = {k.split("/")[0] for k in unseen}
    absent -= {"importance", "reward", "kl", "eval", "alarm"}
    assert not absent - {"second", "correction", "critic", "beside", "doctor"}, unseen
    # A healthy run raises no alarm, and all there are have a line.
    assert not [name for name in names if name.startswith(alarms.PREFIX)]
    assert {k for k in documented_metrics() if k.startswith(alarms.PREFIX)} == {
        alarms.PREFIX + name for name in alarms.KINDS
    }
    # Nor has the run doctor anything to tell of it but what is true of so short a run.
    assert {k for k in documented_metrics() if k.startswith(doctor.PREFIX)} == {
        doctor.PREFIX + name for name in checks.CHECKS
    }


@pytest.mark.slow
def test_a_run_says_at_its_start_what_it_will_do(uninterrupted):
    said = (uninterrupted / "said.txt").read_text()
    said = said[: said.index("eval test:")].splitlines()  # before the first bar
    lines = [line for line in said if line and not line.startswith("W")]
    assert 10 < len(lines) <= 15
    assert f"hapo-train: {uninterrupted} is new; steps 1 to 6" in lines[0]
    assert lines[3].startswith("  first prompt  'numbers 2 5 7 target 3 :'; its last ")


@pytest.mark.long
def test_completions_that_are_all_cut_off_are_told(
    environment, uninterrupted, tmp_path
):
    """With the remedy, more tokens, nothing is told: see the metrics of the other."""
    short = ("--config.rollout.max_completion_tokens=2", "--config.num_steps=3")
    done = run(environment, tmp_path, *SMALL, *short)
    raised = [k for m in numbers(tmp_path) for k in m if k.startswith(alarms.PREFIX)]
    assert raised == ["alarm/truncated", "alarm/constant_reward"]
    words = "Steps 1 to 3: 100 % of the completions are cut off at rollout.max_comple"
    assert words in done.stderr and words in done.stdout


@pytest.mark.slow
def test_a_run_folder_holds_what_the_design_says(uninterrupted):
    for name in ("config.json", "metrics.jsonl", "curves.png"):
        assert (uninterrupted / name).stat().st_size > 0
    assert list((uninterrupted / "tensorboard").iterdir())
    assert (uninterrupted / "hf" / "model.safetensors").exists()
    assert records_lib.eval_steps(uninterrupted) == [0, 6]
    assert records_lib.rollout_steps(uninterrupted) == [2, 4, 6]
    records = records_lib.read_rollouts(uninterrupted, 4)
    assert len(records) == 8
    for record in records:
        n = len(record["tokens"])
        assert n == len(record["token_strings"]) == len(record["entropy"]) > 0
        np.testing.assert_allclose(
            record["ratio"],
            np.exp(record["logprobs"] - record["old_logprobs"]),
            rtol=1e-5,
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)]
)
def test_a_signal_saves_and_exits(environment, tmp_path, number):
    flags = (*SMALL, "--config.num_steps=50", "--config.checkpoint.every_steps=50")
    process = start(environment, tmp_path, *flags)
    wait_for_step(process, tmp_path, 2)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert signal.Signals(number).name in output and "saved step" in output
    last = records_lib.read_metrics(tmp_path)[-1]["step"]
    assert (tmp_path / "checkpoints" / str(last)).is_dir()


@pytest.mark.slow
def test_the_demo_learns(environment, tmp_path):
    """The demo in short: the sampled reward must rise clearly. Compiled as users do."""
    run(
        environment | {"XLA_FLAGS": ""},
        tmp_path,
        "--config.num_steps=12",
        "--config.eval.num_problems=64",
    )
    metrics = records_lib.read_metrics(tmp_path)
    reward = [m["rollout/accuracy"] for m in metrics if "rollout/accuracy" in m]
    assert np.mean(reward[-5:]) > np.mean(reward[:5]) + 0.08
    before, after = (m["eval/avg@8"] for m in (metrics[0], metrics[-1]))
    assert after > before


def test_bad_input_ends_with_its_message_alone(environment, tmp_path):
    flags = ("--config.learner.row_tokens=7", "--config.rollout.batch_prompts=33")
    done = run(environment, tmp_path / "run", *flags, expect=2)
    assert "Traceback" not in done.stderr
    assert "row_tokens=7" in done.stderr and "batch_prompts=33" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_folder_of_another_config_is_refused(environment, tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"config": {"seed": 5}, "starts": []})
    )
    done = run(environment, tmp_path, expect=2)
    assert "another config" in done.stderr and "seed: was 5, now 0" in done.stderr


@pytest.mark.slow
def test_a_dry_run_names_time_and_memory(environment):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "hapo_jax.train", "--dry_run"),
            *("--config=configs/countdown.py", *SMALL),
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    phases = [line.split()[0] for line in done.stdout.splitlines()]
    assert phases == ["phase", "load", "rollout", "devices,", "score", "update"]
    assert "temporaries" in done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_a_run_without_a_workdir_is_refused(environment):
    done = subprocess.run(
        [sys.executable, "-m", "hapo_jax.train", "--config=configs/countdown.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "--workdir is missing" in done.stderr


@pytest.mark.slow
def test_without_a_pass_it_samples_and_records_and_learns_nothing(
    environment, tmp_path
):
    flags = ("learner.passes=0", "rollout.dynamic_sampling=False", "num_steps=2")
    flags += ("rollout.round_prompts=5",)  # of the five that are wanted
    done = run(environment, tmp_path, *SMALL, *(f"--config.{f}" for f in flags))
    assert "none (learner.passes=0)" in done.stderr
    assert "learn nothing" not in done.stderr
    *_, last = records_lib.read_metrics(tmp_path)
    assert last["learner/updates"] == 0 and last["ledger/trained_tokens"] == 0
    assert last["batch/tokens"] > 0 and "grad/norm" not in last
    first, _ = checkpoint_arrays(tmp_path, 1)
    second, _ = checkpoint_arrays(tmp_path, 2)
    policy = [name for name in first if "params" in name]
    assert policy
    for name in policy:
        np.testing.assert_array_equal(first[name], second[name])
    rows = records_lib.read_rollouts(tmp_path, 2)
    # By the entropies of step 1.
    assert all((row["temperature"] != 1).any() for row in rows)
    assert all((row["ratio"] == 1).all() for row in rows)


@pytest.mark.long
def test_a_strict_doctor_saves_and_ends_the_run(environment, tmp_path):
    """Few problems are met twice in a step."""
    flags = (*SMALL, "--config.num_steps=4", "--config.log.doctor_every_steps=2")
    flags += ("--config.task.train.size=6", "--config.log.record_groups=5")
    done = run(environment, tmp_path, *flags, "--doctor=strict", expect=1)
    assert "The run doctor: data_repeats, since step" in done.stderr
    assert "error: the run doctor has found data_repeats" in done.stderr
    assert "The run doctor: saved step" in done.stdout
    told = [m for m in records_lib.read_metrics(tmp_path) if "doctor/data_repeats" in m]
    assert len(told) == 1
    # It goes on, and what was told is not told again.
    done = run(environment, tmp_path, *flags)
    assert "data_repeats" not in done.stderr
    assert records_lib.read_metrics(tmp_path)[-1]["step"] == 4
