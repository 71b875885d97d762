"""Faults of machines, injected: nothing is lost, and the words are clear."""

import errno
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from hapo_jax import train
from hapo_jax.learner import learn as learn_lib
from hapo_jax.runs import board
from hapo_jax.runs import checkpoint as checkpoint_lib
from hapo_jax.runs import records as records_lib
from hapo_jax.system import errors, folders, lock, patience, side
from tests.test_real_input import (  # noqa: F401, fixtures
    assert_same_run,
    checkpoint,
    data,
    make_config,
    numbers,
    saved_steps,
)
from tests.test_train import ROOT

# What machines do to a run is the same on any Python and jax.
pytestmark = pytest.mark.slow
LONG = {"num_steps": 3, "eval.every_steps": 2, "checkpoint.every_steps": 1}
LONG |= {"checkpoint.keep_latest": 9, "eval.num_problems": 0}


@pytest.fixture(scope="module")
def config(checkpoint, data):  # noqa: F811
    return make_config(checkpoint, data, **LONG)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The run that met no fault."""
    workdir = tmp_path_factory.mktemp("whole")
    train.train(config, str(workdir))
    return workdir


# --- disks ----------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 8 MiB, and a function that fills it, or empties it again."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    filler = folder / "filler"

    def fill(full):
        if not full:
            filler.unlink()
            return
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 512)
            except OSError:
                return

    yield folder, fill
    subprocess.run(["umount", "-l", str(folder)], check=True)


def at_metrics_of(step, what, monkeypatch):
    """Calls `what` once, as the metrics of a step are about to be written."""
    real, done = records_lib.Appender.add, []

    def add(self, line, **options):
        if line.get("step") == step and not done:
            done.append(1)
            what()
        real(self, line, **options)

    monkeypatch.setattr(records_lib.Appender, "add", add)


def test_a_disk_that_is_full_for_a_while_costs_nothing(
    config, whole, small_disk, monkeypatch, caplog
):
    folder, fill = small_disk

    def fault():
        # The checkpoint is written beside the step; this is about the metrics.
        until = time.monotonic() + 60.0
        saved = folder / "run" / "checkpoints" / "1"
        while not saved.is_dir() and time.monotonic() < until:
            time.sleep(0.05)
        fill(True)
        threading.Timer(4.0, fill, (False,)).start()

    at_metrics_of(2, fault, monkeypatch)
    train.train(config, str(folder / "run"))
    assert_same_run(folder / "run", whole)
    assert saved_steps(folder / "run") == saved_steps(whole)
    assert "metrics.jsonl cannot be written" in caplog.text
    assert "metrics.jsonl could be written again" in caplog.text


@pytest.mark.slow
def test_a_disk_that_stays_full_ends_the_run_with_all_that_was_saved(
    config, whole, small_disk, monkeypatch
):
    folder, fill = small_disk
    monkeypatch.setattr(patience, "PATIENCE_S", 1.0)
    with monkeypatch.context() as patched:
        at_metrics_of(3, lambda: fill(True), patched)
        with pytest.raises(errors.DiskFailed, match=r"metrics.jsonl .*No space left"):
            train.train(config, str(folder / "run"))
    fill(False)
    assert saved_steps(folder / "run") == {1, 2}
    train.train(config, str(folder / "run"))
    assert_same_run(folder / "run", whole)


def test_a_full_disk_at_the_start_is_one_clear_line(config, small_disk):
    folder, fill = small_disk
    fill(True)
    with pytest.raises(errors.DiskFailed, match="cannot be written: .*No space left"):
        train.train(config, str(folder / "run"))


@pytest.mark.slow
def test_checkpoints_that_fail_are_made_up_for(config, whole, tmp_path, monkeypatch):
    """The second write fails; the third takes its place, and the run is whole."""
    real, calls = ocp.CheckpointManager.save, []

    def save(self, step, **options):
        calls.append(step)
        if step == 2 and calls.count(2) == 1:
            raise ValueError("RESOURCE_EXHAUSTED: No space left [os_error_code='28']")
        return real(self, step, **options)

    monkeypatch.setattr(ocp.CheckpointManager, "save", save)
    train.train(config, str(tmp_path))
    assert saved_steps(tmp_path) == {1, 3}
    assert_same_run(tmp_path, whole)


def test_the_last_checkpoint_is_tried_until_it_is_there(
    config, whole, tmp_path, monkeypatch
):
    real, calls = ocp.CheckpointManager.save, []

    def save(self, step, **options):
        calls.append(step)
        if calls.count(3) in (1, 2):
            raise OSError(errno.ENOSPC, "No space left")
        return real(self, step, **options)

    monkeypatch.setattr(ocp.CheckpointManager, "save", save)
    train.train(config, str(tmp_path))
    assert calls.count(3) == 3 and 3 in saved_steps(tmp_path)
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("fault", ["fails", "hangs"])
def test_side_outputs_stop_nothing(config, whole, tmp_path, monkeypatch, caplog, fault):
    """TensorBoard's disk is gone: every event is dropped, counted, and said once."""
    forever = threading.Event()

    def write(*_):
        if fault == "hangs":
            forever.wait()
        raise OSError(errno.EIO, "the disk is gone")

    monkeypatch.setattr(board.Board, "_write", write)
    monkeypatch.setattr(side, "_CLOSE_S", 0.5)
    monkeypatch.setattr(side, "_SETTLE_S", 0.1)
    train.train(config, str(tmp_path))
    forever.set()
    if fault == "fails":
        dropped = [m.get("run/outputs_dropped", 0) for m in numbers(tmp_path)]
        assert dropped[-1] > 0
        assert caplog.text.count("tensorboard was not written") == 1
    assert "Not written (the run itself has lost nothing)" in caplog.text
    for a, b in zip(numbers(tmp_path), numbers(whole), strict=True):
        a.pop("run/outputs_dropped", None)
        assert a == b


def test_a_broken_event_file_is_followed_by_a_whole_one(tmp_path):
    """After a failure TensorBoard goes on in another file."""
    events = board.Board(tmp_path, 0)
    events.scalars(1, {"a": 1.0})
    broken = events._writer
    broken.close()  # writing to it fails
    with pytest.raises(ValueError):
        events.scalars(2, {"a": 2.0})
    events.scalars(3, {"a": 3.0})
    events.close()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_line_that_was_cut_off_is_taken_back(tmp_path, monkeypatch):
    """A disk takes half a line and is full; then there is room again."""
    path = tmp_path / "lines.jsonl"
    with records_lib.Appender(path) as file:
        file.add({"step": 1})

        class Full:
            """The file, which takes five bytes and fails once."""

            def __init__(self, real):
                self.real, self.failed = real, False

            def write(self, text):
                if not self.failed and len(text) < 10:
                    self.failed = True
                    raise OSError(errno.ENOSPC, "No space left")
                return self.real.write(text[:5] if not self.failed else text)

            def __getattr__(self, name):
                return getattr(self.real, name)

        file._file = Full(file._file)
        file.add({"step": 2})
    assert records_lib.read_lines(path) == [{"step": 1}, {"step": 2}]


# --- reading checkpoints --------------------------------------------------------------


def restored(folder):
    state = {"x": jnp.zeros(4)}
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    with checkpoint_lib.Checkpoints(str(folder), keep_latest=9) as opened:
        return opened.restore_latest(abstract)


@pytest.fixture
def two_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_lib, "_READ_PAUSES_S", (0.01, 0.01))
    folder = tmp_path / "checkpoints"
    with checkpoint_lib.Checkpoints(str(folder), keep_latest=9) as opened:
        for step in (1, 2):
            opened.save(step, {"x": jnp.full(4, float(step))})
    return folder


TRANSIENT = [
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.ESTALE, "Stale file handle"),
    OSError(errno.EMFILE, "Too many open files"),
    ValueError("UNKNOWN: Error reading [os_error_code='5'] [tensorstore_spec=…]"),
]


@pytest.mark.parametrize("error", TRANSIENT, ids=str)
@pytest.mark.parametrize("times", [1, 99])
def test_a_read_error_sets_no_checkpoint_aside(two_steps, monkeypatch, error, times):
    real, left = ocp.PyTreeCheckpointHandler.restore, [times]

    def restore(self, path, **options):
        if "/2/" in str(path) and left[0]:
            left[0] -= 1
            raise error
        return real(self, path, **options)

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", restore)
    if times == 1:
        assert restored(two_steps).step == 2
    else:
        with pytest.raises(errors.DiskFailed, match="It may be whole and is left"):
            restored(two_steps)
    assert {p.name for p in two_steps.iterdir()} >= {"1", "2"}
    assert not list(two_steps.glob("*.broken"))


def test_what_was_read_wrong_once_is_read_again(two_steps, monkeypatch):
    """A bit that flipped on its way from the disk is not on the disk."""
    real, flips = checkpoint_lib.fingerprint.of_arrays, [1]

    def of_arrays(arrays):
        found = real(arrays)
        if flips and flips.pop():
            found = {name: value + 1 for name, value in found.items()}
        return found

    monkeypatch.setattr(checkpoint_lib.fingerprint, "of_arrays", of_arrays)
    assert restored(two_steps).step == 2
    assert not list(two_steps.glob("*.broken"))


# --- a policy that is broken ----------------------------------------------------------


def break_after(step, how, monkeypatch):
    """Spoils the parameters after the update of a step."""
    real, calls = learn_lib.learn, []

    def learn(learner, state, batch, **options):
        state, learnt, metrics = real(learner, state, batch, **options)
        calls.append(1)
        if len(calls) == step:
            state = state._replace(trainable=jax.tree.map(how, state.trainable))
        return state, learnt, metrics

    monkeypatch.setattr(learn_lib, "learn", learn)


@pytest.mark.parametrize(
    "value", [np.nan, pytest.param(np.inf, marks=pytest.mark.slow)]
)
def test_parameters_that_are_not_finite_are_named_and_not_saved(
    config, tmp_path, monkeypatch, value
):
    break_after(2, lambda x: x.at[(0,) * x.ndim].set(value), monkeypatch)
    with pytest.raises(errors.Diverged) as error:
        train.train(config, str(tmp_path))
    assert "step 2: not finite: params.embedding" in str(error.value)
    assert "learner.learning_rate" in str(error.value)
    assert saved_steps(tmp_path) == {1}


def test_parameters_that_are_too_large_are_found_when_it_samples(
    config, tmp_path, monkeypatch
):
    break_after(2, lambda x: x * 1e30, monkeypatch)
    # It was saved before anybody could know: the message says which to leave out.
    words = r"steps \[1\] are of policies before that; move checkpoints/2 away"
    with pytest.raises(
        errors.Diverged, match=r"too large: up to \d.*e\+(29|30)"
    ) as error:
        train.train(config, str(tmp_path))
    assert re.search(words, str(error.value)), error.value


@pytest.mark.slow
def test_the_remedy_against_divergence_works(config, tmp_path, whole):
    """A lower rate, in config.json and on the command line alike."""
    train.train(config, str(tmp_path))
    lower = config.copy_and_resolve_references()
    with lower.unlocked():
        lower.num_steps, lower.learner.learning_rate = 4, 1e-4
    with pytest.raises(ValueError, match="another config"):
        train.train(lower, str(tmp_path))
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    content["config"]["learner"]["learning_rate"] = 1e-4
    path.write_text(json.dumps(content))
    train.train(lower, str(tmp_path))
    rate = {m["step"]: m.get("learner/learning_rate") for m in numbers(tmp_path)}
    assert rate[3] == pytest.approx(1e-2) and rate[4] == pytest.approx(1e-4)


# --- processes ------------------------------------------------------------------------


def test_the_watchdog_ends_a_process_and_shows_where_it_stands():
    code = """
import time
from hapo_jax.system import watchdog
def stuck():
    time.sleep(60)
with watchdog.Watchdog(1.0) as watch:
    for _ in range(4):
        time.sleep(0.5); watch.beat()
    print("went on", flush=True)
    stuck()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 1 and done.stdout == "went on\n"
    assert "nothing has got on" in done.stderr and "in stuck" in done.stderr


def test_a_signal_ends_a_process_whose_main_thread_cannot_answer():
    """As while XLA compiles: the main thread is in C and sees no signal."""
    code = """
import hashlib
from hapo_jax.system import interrupt
interrupt._PATIENCE_S = 0.5
stop = interrupt.Interrupt()
with stop.caught(last=lambda: print("saved", flush=True)):
    with stop.at_once("compiling"):
        print("ready", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"x", b"y", 10**9)  # minutes
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(1)  # until it is inside
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and time.monotonic() - started < 20
    assert "saved\nSIGTERM while compiling. All finished steps are saved." in out


@pytest.mark.slow
def test_a_process_whose_processor_time_is_over_saves(
    config, whole, tmp_path, monkeypatch
):
    with monkeypatch.context() as patched:
        over = functools.partial(os.kill, os.getpid(), signal.SIGXCPU)
        at_metrics_of(2, over, patched)
        train.train(config, str(tmp_path))
    assert saved_steps(tmp_path) == {1, 2}
    train.train(config, str(tmp_path))
    assert_same_run(tmp_path, whole)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_standard_output_fails_nothing():
    code = """
import logging
from hapo_jax import cli
def main(rest):
    print("x" * 10**6)
    logging.getLogger("hapo_jax").warning("y" * 10**6)
cli.start(main)
"""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=full, cwd=ROOT
        )
    assert done.returncode == 0


# --- folders --------------------------------------------------------------------------


def test_folders_that_no_run_can_live_in(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "a[b]").mkdir()
    (tmp_path / "link").symlink_to("a[b]")
    for path, words in {
        "file": "is a file",
        "file/below": "which is no folder",
        "dangling": "is a link to nowhere",
        "circle": "is a link to circle",
        "dangling/below": "cannot be",
        "a[b]/run": "'\\['",
        "a\\b": "in it",
        "link/run": "'\\['",
        "x\udcff": "is not UTF-8",
        "y" * 300: "cannot be reached",
    }.items():
        if path == "dangling/below":
            continue  # made by mkdir behind the link's target
        with pytest.raises(ValueError, match=f"--workdir=.*{words}"):
            folders.check("workdir", str(tmp_path / path), writes=True)
    for path in ("new", "new/below", "a b", "100%", "{}", "%s", "ü", "."):
        folders.check("workdir", str(tmp_path / path), writes=True)
    with pytest.raises(ValueError, match="mount the bucket"):
        folders.check("workdir", "gs://bucket/run", writes=True)
    with pytest.raises(ValueError, match="no folder"):
        folders.check("workdir", "/dev/null/run", writes=True)
    with pytest.raises(ValueError, match="read-only|no folder"):
        folders.check("workdir", "/proc/self/run", writes=True)


@pytest.mark.slow
def test_any_other_folder_can(config, whole, tmp_path):
    workdir = tmp_path / "100%" / "{}" / "a b%s{0}ü"
    with pytest.MonkeyPatch.context() as patched:
        at_metrics_of(3, lambda: os.kill(os.getpid(), signal.SIGTERM), patched)
        train.train(config, str(workdir))
    train.train(config, str(workdir))
    assert_same_run(workdir, whole)


@pytest.mark.slow
def test_strays_are_left_alone_and_leftovers_are_removed(config, whole, tmp_path):
    train.train(config, str(tmp_path))
    strays = [
        tmp_path / "rollouts" / "step_3 (copy).parquet",
        tmp_path / "rollouts" / "step_x.parquet",
        tmp_path / "eval" / "step_3.old",
        tmp_path / "eval" / "step_00000003.jsonl.bak",
        tmp_path / "eval" / "notes.txt",
        tmp_path / "checkpoints" / "notes.txt",
    ]
    for path in strays:
        path.write_text("mine")
    left = [
        tmp_path / f".config.json.123{records_lib.BEGUN}",
        tmp_path / "rollouts" / f".step_00000001.parquet.9{records_lib.BEGUN}",
    ]
    for path in left:
        path.write_text("half")
    train.train(config, str(tmp_path))
    assert all(path.read_text() == "mine" for path in strays)
    assert not any(path.exists() for path in left)
    assert records_lib.rollout_steps(tmp_path) == records_lib.rollout_steps(whole)
    assert records_lib.eval_steps(tmp_path) == records_lib.eval_steps(whole)


BROKEN = {
    "empty": b"",
    "zeros": b"\0" * 64,
    "null": b"null\n",
    "list": b"[1, 2]\n",
    "half": b'{"config": {"a"',
    "utf-16": '{"config": {}}'.encode("utf-16"),
    "latin-1": b'{"config": "\xe9"}\n',
    "deep": b"[" * 10**5,
    "page": b"<!DOCTYPE html><html>Sign in</html>\n",
}
FILES = ("config.json", "inputs.json", "metrics.jsonl", "checkpoints/scores.json")


def contents(workdir) -> dict:
    """Every file of a run's folder, but for its lock."""
    files = (path for path in workdir.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if path.name != lock.NAME}


@pytest.mark.parametrize(
    "content",
    [
        *("half", "folder"),
        *(
            pytest.param(content, marks=pytest.mark.slow)
            for content in ("list", "zeros")
        ),
        *(
            pytest.param(content, marks=pytest.mark.long)
            for content in BROKEN
            if content not in ("half", "list", "zeros")
        ),
    ],
)
@pytest.mark.parametrize("name", FILES)
def test_a_run_file_that_is_broken_is_named_or_made_anew(
    config, whole, tmp_path, name, content
):
    """Read as it should be, or refused by its name with a remedy that works."""
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    path = workdir / name
    path.unlink()
    if content == "folder":
        path.mkdir()
    else:
        path.write_bytes(BROKEN[content])
    before = contents(workdir)
    try:
        train.train(config, str(workdir))
    except ValueError as error:
        assert str(path) in str(error) and "move" in str(error)
        if contents(workdir) == before:
            return  # with the remedy it is the folder of the next test
        path.rmdir() if content == "folder" else path.unlink()
        train.train(config, str(workdir))
    assert saved_steps(workdir) == saved_steps(whole)


@pytest.mark.parametrize("name", FILES)
def test_a_run_goes_on_without_a_file_of_its_folder(config, whole, tmp_path, name):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    (workdir / name).unlink()
    train.train(config, str(workdir))
    assert saved_steps(workdir) == saved_steps(whole)


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_record_is_named(whole, tmp_path, content):
    shutil.copytree(whole, tmp_path / "run")
    step = records_lib.rollout_steps(whole)[0]
    path = tmp_path / "run" / "rollouts" / f"step_{step:08d}.parquet"
    path.write_bytes(BROKEN[content])
    with pytest.raises(ValueError, match=f"{path} is broken .*; remove it"):
        records_lib.read_rollouts(tmp_path / "run", step)
