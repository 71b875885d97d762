"""The launch scripts: what they would run, how they quote, when they start again."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml

from hapo_jax.system import folders, xla_flags

ROOT = pathlib.Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
CONFIG, WORKDIR = "configs/countdown.py:method=dapo", "gs://bucket/my runs/a"
RUN = [f"--config={CONFIG}", f"--workdir={WORKDIR}"]
DRY = {
    "tpu_vm.sh create": ["--name=n", "--zone=z", "--type=v5litepod-64", "--spot=true"],
    "tpu_vm.sh run": ["--name=n", "--zone=z", *RUN],
    "tpu_vm.sh tail": ["--name=n", "--zone=z"],
    "tpu_vm.sh delete": ["--name=n", "--zone=z"],
    "gke_xpk.sh": [
        "--cluster=c",
        "--name=n",
        "--type=v6e-64",
        "--image=i",
        *RUN,
    ],
    "skypilot.sh": ["--job=gpu", "--name=n", *RUN],
    "slurm.sh": ["--nodes=2", f"--config={CONFIG}", "--workdir=/scratch/my runs"],
}


def launch(command: str, *args: str, **env: str):
    script, *action = command.split()
    return subprocess.run(
        [str(LAUNCH / script), *action, *args],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        timeout=60,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_is_content(script):
    found = shutil.which("shellcheck") or shutil.which(
        "shellcheck", path=os.path.dirname(sys.executable)
    )
    if found is None:
        pytest.skip("shellcheck is not installed (extra `test`)")
    checked = subprocess.run(
        [found, "-x", script], capture_output=True, text=True, cwd=ROOT
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("command", DRY)
def test_dry_run_prints_commands_that_quote_what_is_odd(command):
    odd = "--config.task.train.path=a b'c;$(touch /tmp/no)"
    result = launch(command, "--dry_run", *DRY[command], "--", odd)
    assert result.returncode == 0, result.stderr
    words = [shlex.split(line) for line in result.stdout.splitlines()]
    assert words
    if command in (
        "tpu_vm.sh run",
        "gke_xpk.sh",
    ):  # quoted once more, for a shell there
        (remote,) = (w for line in words for w in line if "on_worker.sh" in w)
        inner = shlex.split(remote)
        assert odd in inner
        assert {CONFIG, WORKDIR} <= set(inner)
    elif command == "skypilot.sh":
        (flags,) = (w for line in words for w in line if w.startswith("FLAGS="))
        assert shlex.split(flags.removeprefix("FLAGS=")) == [odd]
        assert {"BUCKET=gs://bucket", "RUN=my runs/a"} <= set(words[-1])
    elif command == "slurm.sh":
        assert odd in words[-1]


def test_local_processes_know_who_they_are():
    args = (*RUN, "--config.task.train.path=a b'c;$(touch no)")
    result = launch("local_multiprocess.sh", "--dry_run", "2", *args)
    assert result.returncode == 0, result.stderr
    first, second = (shlex.split(line) for line in result.stdout.splitlines())
    assert first[1:3] == ["-m", "hapo_jax.train"] and first[3] == RUN[0]
    assert first[4].endswith("/hapo_buckets/bucket/my runs/a")  # where it is mounted
    assert first[5:7] == [args[2], second[6]]
    assert first[7:] == ["--num_processes=2", "--process_id=0"]
    assert second[7:] == ["--num_processes=2", "--process_id=1"]
    assert "gcsfuse" in result.stderr


def test_the_log_of_a_job_is_in_a_folder_that_slurm_sees():
    result = launch("slurm.sh", "--dry_run", *RUN)
    assert f"--output={ROOT}/slurm-%j.log" in shlex.split(result.stdout)


@pytest.mark.parametrize("command", DRY)
def test_files_that_commands_name_exist(command):
    result = launch(command, "--dry_run", *DRY[command])
    for name in re.findall(r"\blaunch/[\w./]+\w", result.stdout):
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--nodes=2"], "--config=… is missing"),
        (["--nods=2"], "--nods=2 is unknown"),
        (["oops"], "is not --key=value"),
    ],
)
def test_wrong_options_are_refused_by_name(args, message):
    result = launch("slurm.sh", "--dry_run", *args)
    assert result.returncode == 2
    assert message in result.stderr


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.yaml")), ids=lambda p: p.name)
def test_job_files_parse_and_name_files_that_exist(path):
    job = yaml.safe_load(path.read_text())
    assert {"resources", "setup", "run", "file_mounts"} <= set(job)
    named = re.findall(r"\blaunch/[\w./]+\w", path.read_text())
    assert named
    for name in named:
        assert (ROOT / name).is_file(), name
    for part in ("setup", "run"):
        checked = subprocess.run(["bash", "-n"], input=job[part], text=True)
        assert checked.returncode == 0


def worker(tmp_path, trainer: str, **env):
    """Runs on_worker.sh with a trainer that is a shell script."""
    python = tmp_path / "python"
    python.write_text(
        "#!/usr/bin/env bash\n"
        '[[ "$2" == hapo_jax.system.xla_flags ]] && exit 0\n'
        f'echo "$@" >> {tmp_path}/calls\n{trainer}\n'
    )
    python.chmod(0o755)
    result = launch(
        "on_worker.sh",
        "cpu",
        CONFIG,
        str(tmp_path / "a b"),
        "--x=1 2",
        **{"PYTHON": str(python), "HAPO_RESTART_DELAY_S": "0", **env},
    )
    return result, (tmp_path / "calls").read_text().splitlines()


def test_worker_starts_a_failed_run_again(tmp_path):
    trainer = f"(( $(wc -l < {tmp_path}/calls) < 3 )) && exit 1; exit 0"
    result, calls = worker(tmp_path, trainer)
    assert result.returncode == 0
    assert len(calls) == 3
    assert f"--workdir={tmp_path}/a b --x=1 2" in calls[0]


def test_worker_gives_up(tmp_path):
    result, calls = worker(tmp_path, "exit 7", HAPO_RESTARTS="2")
    assert result.returncode == 7
    assert len(calls) == 3


def test_worker_does_not_repeat_a_run_that_is_refused(tmp_path):
    result, calls = worker(tmp_path, "exit 2")
    assert result.returncode == 2
    assert len(calls) == 1


def test_worker_that_is_stopped_does_not_start_again(tmp_path):
    trainer = "kill -TERM $PPID; exit 1"
    result, calls = worker(tmp_path, trainer, HAPO_RESTART_DELAY_S="60")
    assert result.returncode != 0
    assert len(calls) == 1


def test_worker_can_be_stopped_while_it_waits(tmp_path):
    trainer = "(sleep 0.5; kill -TERM $PPID) >/dev/null 2>&1 & exit 7"
    result, calls = worker(tmp_path, trainer, HAPO_RESTART_DELAY_S="60")
    assert result.returncode == 7
    assert len(calls) == 1


def test_worker_does_not_train_beside_a_bucket_that_it_cannot_mount(tmp_path):
    (tmp_path / "gcsfuse").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "gcsfuse").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    env = {"PATH": path, "HOME": str(tmp_path), "PYTHON": str(tmp_path / "absent")}
    result = launch("on_worker.sh", "cpu", CONFIG, WORKDIR, **env)
    assert result.returncode == 1
    assert "absent" not in result.stderr  # which would have been next


def test_the_address_of_a_bucket_is_no_folder():
    with pytest.raises(ValueError, match="--workdir='gs://b/x' must be a folder"):
        folders.check("workdir", "gs://b/x", writes=True)


def test_xla_knows_the_flags_for_gpus():
    """The CPU's library parses them too, and ends a process at an unknown one."""
    flags = xla_flags.environment("gpu", {})["XLA_FLAGS"]
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"], env=env, check=True
    )


def test_libtpu_knows_the_flags_for_tpus():
    pytest.importorskip("libtpu", reason="libtpu is not installed (extra `plan`)")
    program = (
        "from jax.experimental import topologies as t;"
        "t.get_topology_desc(platform='tpu', topology_name='v5e:2x2')"
    )
    env = {**os.environ, **xla_flags.environment("tpu", {}), "JAX_PLATFORMS": "cpu"}
    env |= dict(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")  # as hapo-plan
    subprocess.run([sys.executable, "-c", program], env=env, check=True)


def test_flags_that_are_set_already_win():
    found = xla_flags.environment("gpu", {"XLA_FLAGS": "--mine=1"})
    assert found["XLA_FLAGS"].endswith(" --mine=1")
    assert found["XLA_CLIENT_MEM_FRACTION"] == "0.92"
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        mine = xla_flags.environment("gpu", {name: "0.5"})
        assert list(mine) == ["XLA_FLAGS"]
    assert xla_flags.environment("cpu") == {}
    with pytest.raises(ValueError, match="must be one of"):
        xla_flags.environment("npu")
