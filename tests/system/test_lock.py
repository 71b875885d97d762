"""One run per folder: the second is refused, and the lock of a dead one is no lock."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from hapo_jax.system import lock

HOLD = """
import signal, sys, time
from hapo_jax.system import lock
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
with lock.hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def leftovers(path):
    return [p.name for p in path.iterdir()]


def test_a_second_process_is_refused_and_told_who_runs(tmp_path, holder):
    with pytest.raises(ValueError, match=f"process {holder.pid} on .* since 20"):
        with lock.hold(tmp_path):
            raise AssertionError("two of them")
    assert leftovers(tmp_path) == [lock.NAME]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_dead_holder_is_no_obstacle(tmp_path, holder, number):
    holder.send_signal(number)
    holder.wait()
    started = time.monotonic()
    with lock.hold(tmp_path):
        assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()
    assert time.monotonic() - started < 2  # on the same machine nobody waits
    assert leftovers(tmp_path) == []


def test_a_stopped_process_still_holds_it(tmp_path, holder):
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(ValueError, match="is in use"), lock.hold(tmp_path):
        pass


def test_the_number_of_another_process_is_not_the_holder(tmp_path):
    """A number that the system has given to somebody else since."""
    own = lock._self() | {"started": "1"}
    (tmp_path / lock.NAME).write_text(json.dumps(own))
    with lock.hold(tmp_path):
        pass


@pytest.mark.parametrize("alive", [True, False])
def test_on_another_machine_a_beat_tells(tmp_path, monkeypatch, alive):
    monkeypatch.setattr(lock, "_BEAT_S", 0.1)
    monkeypatch.setattr(lock, "_DEAD_S", 1.0)
    other = lock._self() | {"machine": "another", "host": "node7", "pid": 1}
    path = tmp_path / lock.NAME
    path.write_text(json.dumps(other))
    stop = threading.Event()
    beat = threading.Thread(target=lock._beat, args=(path, other, stop))
    if alive:
        beat.start()
    try:
        if alive:
            with pytest.raises(ValueError, match="process 1 on node7"):
                with lock.hold(tmp_path):
                    pass
        else:
            with lock.hold(tmp_path):
                pass
    finally:
        stop.set()
        if alive:
            beat.join()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', "\0"])
def test_a_damaged_lock_is_nobodys(tmp_path, text):
    (tmp_path / lock.NAME).write_text(text)
    with lock.hold(tmp_path):
        pass
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("clearer", ["nobody", "dead"])
def test_only_one_of_many_takes_over(tmp_path, monkeypatch, links, clearer):
    """All find the lock of a dead process at once; one died while it removed it."""
    if not links:
        monkeypatch.setattr(os, "link", _no_links)
    dead = lock._self() | {"started": "1"}
    for round_ in range(10 if links else 3):
        folder = tmp_path / str(round_)
        folder.mkdir()
        (folder / lock.NAME).write_text(json.dumps(dead))
        if clearer == "dead":
            (folder / f"{lock.NAME}.next").write_text(json.dumps(dead))
        assert _starts(folder, 8) == (1, 7)
        assert leftovers(folder) == []


def _starts(folder, count):
    """How many of several starts hold a folder at once, and how many are refused."""
    held, refused, done = [], [], threading.Barrier(count)

    def start():
        try:
            with lock.hold(folder):
                held.append(1)
                done.wait()
        except ValueError:
            refused.append(1)
            done.wait()

    threads = [threading.Thread(target=start) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(held), len(refused)


def _no_links(*_):
    raise OSError("no links here")


def test_without_links_it_works_too(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", _no_links)
    with lock.hold(tmp_path):
        with pytest.raises(ValueError, match="is in use"), lock.hold(tmp_path):
            pass
    assert leftovers(tmp_path) == []
