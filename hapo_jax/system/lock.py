"""One run per folder: who writes there holds its lock, and a second start is refused.

The lock is a small file that names its holder and is touched every few seconds, so it
works on network file systems, across hosts and without their clocks: a lock that does
not change for a while is one whose holder was killed, and is taken over. On the same
machine the holder's process tells at once.
"""

import contextlib
import json
import logging
import os
import pathlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from hapo_jax.system import patience
from hapo_jax.system.errors import Refused

_log = logging.getLogger(__name__)

NAME = ".lock"
_BEAT_S = 5.0
_WRITTEN_S = 0.5  # in which a lock is written, where it does not appear as a whole
_LOOK_S = 0.01  # between looks at what another process does in no time
_DEAD_S = 30.0  # without a beat; several, since a busy file system may miss one


@contextlib.contextmanager
def hold(folder: str | pathlib.Path) -> Iterator[None]:
    """Holds the lock of a folder, which is made if absent.

    Waits up to 35 seconds for a holder on another machine to show that it is alive.

    Raises:
      Refused: another process runs there; says which, where and since when.
      DiskFailed: the folder cannot be written to.
    """
    folder = pathlib.Path(folder)
    path, own = folder / NAME, _self()
    with patience.once(str(folder)):
        _take(folder, path, own)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, own, stop), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join(_BEAT_S)
        if _read(path) == own:
            path.unlink(missing_ok=True)


def holder(folder: str | pathlib.Path) -> dict[str, Any] | None:
    """Who runs in a folder; None where nobody does.

    Waits up to 30 seconds for a holder on another machine to show that it is alive.
    """
    path = pathlib.Path(folder) / NAME
    found = _read(path)
    return found if found is not None and _is_alive(path, found) else None


def _take(folder: pathlib.Path, path: pathlib.Path, own: dict[str, Any]) -> None:
    """Makes the lock this process's own; see `hold`."""
    folder.mkdir(parents=True, exist_ok=True)
    while not _create(path, own):
        holder = _clear(path, own)
        if holder is not None:
            raise Refused(
                f"{folder} is in use: process {holder['pid']} on {holder['host']} has "
                f"been running there since {holder['since']} ({holder['command']}). "
                "Wait for it or stop it, or use another folder."
            )


def _clear(path: pathlib.Path, own: dict[str, Any]) -> dict[str, Any] | None:
    """The living holder of a lock; None where it had none, and then it may be gone.

    One process at a time removes it, under a lock of the same kind beside it: between
    a look and a removal, another could have removed it and taken its place.
    """
    before, holder = _touched(path), _read(path)
    if holder is None and path.exists():
        time.sleep(_WRITTEN_S)
        before, holder = _touched(path), _read(path)
    if holder is not None and _is_alive(path, holder):
        return holder
    beside = path.with_name(f"{path.name}.next")
    if not _create(beside, own):
        if _clear(beside, own) is not None:
            time.sleep(_LOOK_S)  # the other one is about to remove it
        return None
    try:
        if (_touched(path), _read(path)) == (before, holder):
            path.unlink(missing_ok=True)
            if holder is not None:
                _log.info(
                    "Took %s over from process %s on %s, which has ended without a "
                    "word.",
                    path.parent,
                    holder["pid"],
                    holder["host"],
                )
    finally:
        beside.unlink(missing_ok=True)
    return None


def _self() -> dict[str, Any]:
    """Who this process is, as the file says it."""
    return {
        "id": f"{os.getpid()}-{time.time_ns()}",
        "pid": os.getpid(),
        "started": _start_of(os.getpid()),
        "machine": _machine(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": " ".join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _create(path: pathlib.Path, own: dict[str, Any]) -> bool:
    """Makes the file unless there is one; a reader never sees a part of it."""
    whole = path.with_name(f"{NAME}.{own['id']}")
    whole.write_text(json.dumps(own))
    try:
        try:
            os.link(whole, path)  # fails where there is one, also on NFS
        except FileExistsError:
            return False
        except OSError:  # a file system without links, such as a mounted bucket
            try:
                with path.open("x") as file:
                    file.write(whole.read_text())
            except FileExistsError:
                return False
        return True
    finally:
        whole.unlink(missing_ok=True)


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    """The holder; None where there is no lock, or nobody's."""
    try:
        holder = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    wanted = {"id", "pid", "started", "machine", "host", "since", "command"}
    return holder if isinstance(holder, dict) and wanted <= holder.keys() else None


def _is_alive(path: pathlib.Path, holder: dict[str, Any]) -> bool:
    """Whether the holder runs; elsewhere, whether it touches its file."""
    if holder["machine"] == _machine():
        return _start_of(holder["pid"]) == holder["started"]
    _log.info(
        "%s is held by process %s on %s; waiting up to %.0f s for a sign of life.",
        path.parent,
        holder["pid"],
        holder["host"],
        _DEAD_S,
    )
    before, until = _touched(path), time.monotonic() + _DEAD_S
    while time.monotonic() < until:
        time.sleep(_BEAT_S / 5)
        if _touched(path) != before:
            return _read(path) == holder  # or it has let go of it meanwhile
    return False


def _touched(path: pathlib.Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _beat(path: pathlib.Path, own: dict[str, Any], stop: threading.Event) -> None:
    """The thread: shows that this process is alive."""
    while not stop.wait(_BEAT_S):
        # A disk that is full or gone for a while is no reason to let go.
        with contextlib.suppress(OSError):
            before = _touched(path)
            os.utime(path)
            if _touched(path) == before and _read(path) == own:
                path.write_text(json.dumps(own))  # where times cannot be set


def _machine() -> str:
    """Equal for processes that see each other's numbers."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return f"{socket.gethostname()} {os.uname().version}"


def _start_of(pid: int) -> str | None:
    """When a process of this machine began, in its own clock; None if it has ended."""
    try:
        line = pathlib.Path(f"/proc/{pid}/stat").read_text()
        fields = line.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except OSError:
        if pathlib.Path("/proc/self/stat").exists():
            return None
    try:  # not Linux
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "running"
