"""Several processes on one machine train like one; they stop and end together."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from hapo_jax.model import sharding
from hapo_jax.runs import records as records_lib
from hapo_jax.system import distributed, interrupt
from tests.environment import of_program

ROOT = pathlib.Path(__file__).parent.parent
SMALL = (
    "--config=configs/countdown.py",
    "--config.rollout.batch_prompts=4",
    "--config.rollout.round_prompts=4",
    "--config.rollout.max_rounds=4",
    "--config.rollout.max_completion_tokens=8",
    "--config.learner.minibatch_prompts=4",
    "--config.eval.at_start=False",
    "--config.eval.num_problems=2",
    "--config.eval.k=2",
    "--config.checkpoint.every_steps=1",
    "--config.checkpoint.export_hf=False",
    "--config.mesh.fsdp=-1",
)


@pytest.fixture(scope="module")
def environment():
    """Every process but the first compiles for its own device, at the first time."""
    return of_program()


def free_port():
    """A port for process 0 to listen on."""
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


class Run:
    """N processes that train in one folder, each with one device."""

    def __init__(self, environment, workdir, count, *flags):
        self.workdir, self.processes = workdir, []
        port = free_port()
        data = f"--config.mesh.data={min(count, 2)}"
        for i in range(count):
            who = (
                f"--coordinator=localhost:{port}",
                f"--num_processes={count}",
                f"--process_id={i}",
            )
            self.processes.append(
                subprocess.Popen(
                    [
                        *(sys.executable, "-m", "hapo_jax.train", *SMALL, data),
                        *(f"--workdir={workdir}", *flags),
                        *(who if count > 1 else ()),
                    ],
                    cwd=ROOT,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )

    def wait_for_step(self, step):
        deadline = time.monotonic() + 500
        while time.monotonic() < deadline:
            if step in steps(self.workdir):
                return
            for process in self.processes:
                assert process.poll() is None, process.communicate()[0][-3000:]
            time.sleep(0.1)
        raise AssertionError(f"step {step} did not come in time")

    def end(self, *, expect=0, timeout=500):
        """Outputs of the processes that end with status `expect`."""
        outputs = []
        for process in self.processes:
            try:
                outputs.append(process.communicate(timeout=timeout)[0])
            except subprocess.TimeoutExpired:
                for other in self.processes:
                    other.kill()
                raise
        for process, output in zip(self.processes, outputs):
            if process.returncode != -signal.SIGKILL:
                assert process.returncode == expect, output[-3000:]
        return outputs


def steps(workdir):
    path = pathlib.Path(workdir) / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [int(re.match(r'{"step": (\d+),', line)[1]) for line in lines if line]


def numbers(workdir):
    """All metrics but times, by step and name."""
    return {
        (line["step"], name): value
        for line in records_lib.read_metrics(workdir)
        for name, value in line.items()
        if not name.startswith(("time/", "perf/"))
    }


def assert_same_run(workdir, expected, steps=None):
    """Metrics agree to 1e-5: sums over devices are taken in another order."""
    found, wanted = numbers(workdir), numbers(expected)
    if steps:
        found, wanted = (
            {k: v for k, v in x.items() if k[0] <= steps} for x in (found, wanted)
        )
    assert found.keys() == wanted.keys() and len(wanted) > 50
    for key, value in wanted.items():
        if value is None:
            assert found[key] is None, key
        else:
            np.testing.assert_allclose(
                found[key], value, rtol=1e-5, atol=1e-5, err_msg=str(key)
            )


def completions(workdir, step):
    return [
        np.asarray(r["tokens"]).tolist()
        for r in records_lib.read_rollouts(workdir, step)
    ]


def train(environment, workdir, count, *, num_devices, num_steps):
    """A whole run of `count` processes that share the devices."""
    script = str(ROOT / "launch" / "local_multiprocess.sh")
    flags = (f"--config.mesh.cpu_devices={num_devices // count}",)
    flags += (f"--config.num_steps={num_steps}", "--config.mesh.data=2")
    subprocess.run(
        [
            *(script, str(count), *SMALL, *flags, f"--workdir={workdir}"),
            "--config.log.record_every_steps=1",
        ],
        cwd=ROOT,
        env={**environment, "PYTHON": sys.executable},
        check=True,
    )


@pytest.fixture(scope="module")
def alone(environment, tmp_path_factory):
    """Six steps of one process with four devices: what the others are compared to."""
    workdir = tmp_path_factory.mktemp("alone")
    train(environment, workdir, 1, num_devices=4, num_steps=6)
    return workdir


def test_a_process_gets_its_share(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    shares = []
    for index in range(3):
        monkeypatch.setattr(jax, "process_index", lambda: index)
        shares.append(list(range(7))[distributed.share(7)])
    assert [x for share in shares for x in share] == list(range(7))
    assert max(map(len, shares)) == 3


def test_flags_that_name_a_process_come_together():
    with pytest.raises(ValueError, match="--num_processes, --process_id missing"):
        distributed.initialize("localhost:1", None, None)
    with pytest.raises(ValueError, match="--process_id=2 must be from 0 to"):
        distributed.initialize("localhost:1", 2, 2)


def test_one_process_needs_nothing(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", pytest.fail)
    distributed.initialize(None, None, None)
    arrays = {"x": np.arange(3)}
    assert distributed.gather(arrays) == [arrays]
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    assert distributed.local_mesh(mesh) is mesh
    with interrupt.Interrupt().caught() as stop:
        assert stop.agree() is None
        signal.raise_signal(signal.SIGTERM)
        assert stop.agree() == "SIGTERM"


def test_what_runs_in_one_process_is_not_started_several_times(tmp_path):
    """It would train as often as Slurm has tasks, all in one folder."""
    result = subprocess.run(
        [
            *(sys.executable, "-m", "hapo_jax.sft", f"--workdir={tmp_path / 'run'}"),
            "--config=configs/countdown_sft.py",
        ],
        cwd=ROOT,
        env={**os.environ, "SLURM_STEP_NUM_TASKS": "2"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert "runs in one process, and Slurm" in result.stderr


def devices(slices, processes, per_process):
    """TPU chips in an order that mixes hosts and slices."""
    return [
        SimpleNamespace(
            id=(s * processes + p) * per_process + i,
            process_index=s * processes + p,
            slice_index=s,
            platform="tpu",
        )
        for i in range(per_process)
        for p in range(processes)
        for s in range(slices)
    ]


def test_slices_lie_along_data_and_hosts_hold_tensor_rows():
    grid = sharding.device_grid(devices(2, 2, 4), data=2, fsdp=2, tensor=4)
    assert grid.shape == (2, 2, 4)
    for s in range(2):
        assert {d.slice_index for d in grid[s].flat} == {s}
        for row in grid[s]:
            assert len({d.process_index for d in row}) == 1


def test_parameters_are_not_split_over_slices():
    with pytest.raises(ValueError, match=r"mesh.data=1 must be a multiple of the 2 sl"):
        sharding.device_grid(devices(2, 2, 4), data=1, fsdp=8, tensor=2)


def test_tensor_stays_within_a_process(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "local_device_count", lambda: 2)
    grid = np.array(devices(1, 2, 2)).reshape(1, 1, 4)
    with pytest.raises(ValueError, match=r"mesh.tensor=4 must divide the 2 devices"):
        distributed.local_mesh(SimpleNamespace(devices=grid))


EXCHANGE = """
import pathlib, sys, time
import jax, jax.numpy as jnp, numpy as np
from hapo_jax.system import interrupt, watch
from hapo_jax.system import distributed
from hapo_jax.model import sharding

port, index, outcome, folder = sys.argv[1], int(sys.argv[2]), *sys.argv[3:]
distributed.initialize(f"localhost:{port}", 2, index)
with watch.Watch(status=lambda error: 3):
    parts = distributed.gather({"x": np.full(index + 1, index), "y": np.array("é")})
    assert [p["x"].tolist() for p in parts] == [[0], [1, 1]]
    assert parts[1]["y"] == "é" and distributed.gather({}) == [{}, {}]
    distributed._MOST_ON_DEVICE = 2**17  # what is longer goes in pieces
    parts = distributed.gather({"x": np.arange(50_000 + index)})
    assert [(p["x"] == np.arange(len(p["x"]))).all() for p in parts] == [True, True]
    assert [len(p["x"]) for p in parts] == [50_000, 50_001]
    mesh = sharding.make_mesh(data=2, fsdp=-1)
    rows = distributed.put(np.arange(8.0), sharding.batch_sharding(mesh))
    assert float(jax.jit(jnp.sum)(rows)) == 28
    whole = jax.jit(jnp.copy, out_shardings=sharding.replicated(mesh))(rows)
    local = distributed.local_mesh(mesh)
    assert {d.process_index for d in local.devices.flat} == {index}
    copy = distributed.to_local(whole, sharding.replicated(local))
    np.testing.assert_array_equal(copy + 0, np.arange(8.0))
    distributed.check_shared(pathlib.Path(folder))
    try:
        distributed.check_shared(pathlib.Path(folder) / str(index))
    except ValueError as error:
        assert "is another folder for process 1 than" in str(error)
    else:
        raise AssertionError("two folders were taken for one")
    with interrupt.Interrupt().caught() as stop:
        if index == 1:
            stop.requested = "SIGTERM"
        assert stop.agree() == "SIGTERM" == stop.requested
    if outcome == "fail" and index == 1:
        raise OSError("no space left")
    time.sleep(30 if outcome == "fail" else 0)
"""


@pytest.mark.parametrize(
    "outcome", ["end", pytest.param("fail", marks=pytest.mark.slow)]
)
def test_two_processes_exchange_and_end_together(environment, outcome, tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", EXCHANGE, str(port), str(i), outcome, str(tmp_path)],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for port in [free_port()]
        for i in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    if outcome == "end":
        assert [p.returncode for p in processes] == [0, 0], errors
    else:
        assert [p.returncode for p in processes] == [3, 3], errors
        assert "OSError: no space left" in errors[1]
        assert re.search(r"process 1 of 2 \(.*pid \d+\) failed: OSError", errors[0])


@pytest.mark.slow
def test_two_processes_train_like_one(environment, tmp_path):
    for count in (1, 2):
        workdir = tmp_path / str(count)
        train(environment, workdir, count, num_devices=2, num_steps=1)
    assert_same_run(tmp_path / "2", tmp_path / "1")
    assert completions(tmp_path / "2", 1) == completions(tmp_path / "1", 1)


@pytest.mark.long
@pytest.mark.parametrize("count", [2, 4])
def test_processes_train_like_one(environment, alone, tmp_path, count):
    train(environment, tmp_path, count, num_devices=4, num_steps=6)
    assert_same_run(tmp_path, alone)
    for step in range(1, 7):
        assert completions(tmp_path, step) == completions(alone, step)
    # One process writes: every step is there once but the evaluated one.
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6, 6]


@pytest.mark.long
def test_a_run_goes_on_with_any_number_of_processes(environment, alone, tmp_path):
    first = Run(environment, tmp_path, 4, "--config.num_steps=50")
    first.wait_for_step(1)
    # Of one of them: all save and end at the same step.
    first.processes[2].send_signal(signal.SIGTERM)
    outputs = first.end()
    assert "SIGTERM: saved step" in outputs[0] and "saved step" not in outputs[2]
    stopped = max(steps(tmp_path))
    assert (tmp_path / "checkpoints" / str(stopped)).is_dir()
    assert stopped <= 4, "too late to go on twice"
    for count, last in ((1, 5), (2, 6)):
        Run(environment, tmp_path, count, f"--config.num_steps={last}").end()
    starts = json.loads((tmp_path / "config.json").read_text())["starts"]
    assert [s["resume_step"] for s in starts] == [None, stopped, 5]
    training = ("rollout/", "loss/", "entropy/", "grad/", "length/")
    found, wanted = (
        {k: v for k, v in numbers(x).items() if k[1].startswith(training)}
        for x in (tmp_path, alone)
    )
    assert found.keys() == wanted.keys() and len(found) > 50
    for key in wanted:
        np.testing.assert_allclose(
            found[key], wanted[key], rtol=1e-4, atol=1e-5, err_msg=str(key)
        )


@pytest.mark.long
def test_a_killed_process_ends_the_others(environment, alone, tmp_path):
    run = Run(environment, tmp_path, 4, "--config.num_steps=50")
    run.wait_for_step(2)
    run.processes[2].kill()
    outputs = run.end(expect=1, timeout=60)
    for i in (0, 1, 3):
        assert re.search(rf"process 2 of 4 .*process {i} ends too", outputs[i])
    Run(environment, tmp_path, 4, "--config.num_steps=6").end()
    assert_same_run(tmp_path, alone)


@pytest.mark.long
def test_the_others_end_with_process_0(environment, tmp_path):
    """It holds the coordination service, without which JAX aborts at once."""
    run = Run(environment, tmp_path, 2, "--config.num_steps=50")
    run.wait_for_step(1)
    run.processes[0].kill()
    _, output = run.end(expect=-signal.SIGABRT, timeout=60)
    assert "the JAX distributed service" in output and "leader" in output


@pytest.mark.long
def test_processes_evaluate_like_one(environment, alone, tmp_path):
    def start(out, *who):
        command = (sys.executable, "-m", "hapo_jax.evaluate", SMALL[0], *who)
        where = (f"--checkpoint={alone}", f"--out={tmp_path / out}")
        return subprocess.Popen(
            [*command, *where, "--config.eval.num_problems=9"],
            cwd=ROOT,
            env=environment,
        )

    assert start("one").wait() == 0
    who = (f"--coordinator=localhost:{free_port()}", "--num_processes=2")
    both = [start("two", *who, f"--process_id={i}") for i in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    one, two = (
        [*records_lib.read_lines(tmp_path / out / "test.jsonl")]
        for out in ("one", "two")
    )
    # These differ in their last bits with what decodes beside a row.
    for a, b in zip(one, two, strict=True):
        for name in ("entropy", "logprobs"):
            np.testing.assert_allclose(a.pop(name), b.pop(name), rtol=1e-5, atol=1e-5)
    assert one == two and len(one) == 9
