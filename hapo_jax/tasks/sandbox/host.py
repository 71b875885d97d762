"""The grading process's side: starts the launcher, and through it programs."""

import contextlib
import fcntl
import json
import logging
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence

import hapo_jax
from hapo_jax.tasks.sandbox import confine, kernel
from hapo_jax.tasks.sandbox.confine import Limits

_log = logging.getLogger(__name__)

_ANSWER_S = 30.0  # for the launcher to start, or to start a process, on a busy machine
_SEALS = (
    fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    if sys.platform == "linux"
    else 0
)


class Sandbox:
    """Starts confined processes. A context manager; for one thread at a time.

    Attributes:
      way: of confinement, a name of `confine.WAYS`.
    """

    def __init__(self, way: str):
        """Starts the launcher.

        Raises:
          RuntimeError: this way does not work on this machine; says why.
        """
        self.way = way
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_ANSWER_S)
        command = [sys.executable, "-P", "-m", "hapo_jax.tasks.sandbox.launcher"]
        self._launcher = subprocess.Popen(
            [*command, str(theirs.fileno()), str(os.getpid()), way],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=_environment(),
            start_new_session=True,
        )
        theirs.close()
        self._socket = ours
        try:
            self._hear()
        except RuntimeError:
            self.close()
            raise

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start(self, role: str, files: Sequence[int], limits: Limits) -> int:
        """Starts a process; returns its id, for `end`.

        Args:
          role: a name of `launcher.ROLES`.
          files: descriptors for it, as its role expects; they stay open here.
          limits: what it may use; the wall clock is the caller's to keep.

        Raises:
          RuntimeError: it cannot be started, or the launcher is gone.
        """
        request = json.dumps({"start": role, "limits": limits}).encode()
        try:
            socket.send_fds(self._socket, [request], list(files))
        except OSError as error:
            raise RuntimeError(f"The sandbox's launcher is gone ({error}).") from error
        return self._hear()["process"]

    def end(self, process: int, *, patience_s: float = 0.0) -> int:
        """Ends a process with all that belongs to it; returns its exit code.

        Args:
          process: from `start`; every process must be ended.
          patience_s: seconds to wait before it is killed.
        """
        request = {"end": process, "patience_s": patience_s}
        try:
            self._socket.settimeout(_ANSWER_S + patience_s)
            self._socket.send(json.dumps(request).encode())
        except OSError as error:
            raise RuntimeError(f"The sandbox's launcher is gone ({error}).") from error
        return self._hear()["code"]

    def close(self) -> None:
        """Ends the launcher and with it every process. Idempotent."""
        self._socket.close()
        self._launcher.kill()
        self._launcher.wait()

    def _hear(self) -> dict:
        try:
            reply = json.loads(self._socket.recv(2**16) or b'{"failed": "it died"}')
        except OSError as error:
            reply = {"failed": str(error)}
        if "failed" in reply:
            raise RuntimeError(f"The sandbox failed: {reply['failed']}")
        return reply


def best() -> Sandbox:
    """A sandbox by the first way that works here, shown by a program that ran.

    Raises:
      RuntimeError: none works; says why.
    """
    reasons = []
    try:
        kernel.architecture()
    except OSError as error:
        raise RuntimeError(str(error)) from None
    for way in confine.WAYS:
        box = None
        try:
            box = Sandbox(way)
            _try(box)
            return box
        except RuntimeError as error:
            if box is not None:
                box.close()
            reasons.append(f"{way}: {error}")
    raise RuntimeError(
        "Programs cannot be confined on this machine, so none is run. Needed is Linux "
        "5.12 or newer where user namespaces or Landlock are allowed (in Docker, "
        "`--security-opt seccomp=unconfined` allows them). " + " ".join(reasons)
    )


def describe(box: Sandbox) -> str:
    """Which confinement is in force, for a log."""
    way = confine.WAYS[box.way]
    return (
        f"Programs are confined by {box.way} and a system-call filter. "
        f"Network: {way.network}. Files: {way.files}."
    )


@contextlib.contextmanager
def sealed(data: bytes) -> Iterator[int]:
    """A file in memory that its reader cannot change; yields its descriptor."""
    descriptor = os.memfd_create("payload", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        yield descriptor
    finally:
        os.close(descriptor)


def _try(box: Sandbox) -> None:
    """Runs a program that must end well, for some kernels refuse only at the end."""
    with sealed(b'{"program": "import colorsys"}') as payload:
        null = os.open(os.devnull, os.O_RDWR)
        try:
            process = box.start("program", [null, null, payload], Limits())
        finally:
            os.close(null)
    code = box.end(process, patience_s=_ANSWER_S)
    if code:
        raise RuntimeError(f"a program that does nothing ended with exit code {code}.")


def _environment() -> dict[str, str]:
    """What programs may know of the environment: nothing of the user's.

    Hashes and thus the order of sets are the same in every run, so verdicts are too.
    """
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(pathlib.Path(hapo_jax.__file__).resolve().parents[1]),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
