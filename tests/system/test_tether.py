"""A command that is tied to its parent and to cores."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TETHER = [sys.executable, "-m", "hapo_jax.system.tether"]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has both")

CHILD = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: (folder / "told").touch() or sys.exit(0))
(folder / "cores").write_text(str(sorted(os.sched_getaffinity(0))))
time.sleep(60)
"""
PARENT = """
import os, subprocess, sys, time
tether, folder, child = sys.argv[1:4], sys.argv[4], sys.argv[5]
line = [*tether, str(os.getpid()), sys.argv[6], sys.executable, "-c", child, folder]
subprocess.Popen(line)
time.sleep(60)
"""


def wait_for(path):
    until = time.monotonic() + 30
    while time.monotonic() < until and not path.exists():
        time.sleep(0.02)
    assert path.exists()


def test_the_death_of_the_parent_stops_it(tmp_path):
    core = str(min(os.sched_getaffinity(0)))
    line = [sys.executable, "-c", PARENT, *TETHER, str(tmp_path), CHILD, core]
    parent = subprocess.Popen(line, cwd=ROOT)
    wait_for(tmp_path / "cores")
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for(tmp_path / "told")
    assert (tmp_path / "cores").read_text() == f"[{core}]"


def test_it_does_not_begin_without_its_parent(tmp_path):
    line = [*TETHER, "1", "", sys.executable, "-c", "print('ran')"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "is gone" in done.stderr and not done.stdout


def test_its_status_is_that_of_the_command():
    line = [*TETHER, str(os.getpid()), "", sys.executable, "-c", "raise SystemExit(3)"]
    assert subprocess.run(line, cwd=ROOT).returncode == 3
