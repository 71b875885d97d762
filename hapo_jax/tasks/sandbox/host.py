"""The grading process's side: starts the launcher, and through it programs."""

import contextlib
import fcntl
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

from hapo_jax.system import child
from hapo_jax.tasks.sandbox import confine, kernel, landlock, promises
from hapo_jax.tasks.sandbox.confine import Limits

_log = logging.getLogger(__name__)
_said: set[str] = set()

_ANSWER_S = 30.0  # for the launcher to start, or to start a process, on a busy machine
_SEALS = (
    fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    if sys.platform == "linux"
    else 0
)


class NoVerdict(RuntimeError):
    """Nothing is known about a program: the machine, or somebody on it, interfered."""


class Sandbox:
    """Starts confined processes. A context manager; for one thread at a time.

    Attributes:
      way: of confinement, a name of `confine.WAYS`.
      landlock: version in use where `way` is "landlock", else 0.
      passed_over: way → why it did not work, for those that would have been better.
    """

    def __init__(
        self,
        way: str,
        *,
        most: int = landlock.NEWEST,
        passed_over: Mapping[str, str] | None = None,
    ):
        """Starts the launcher.

        Args:
          way, passed_over: see the class.
          most: the version of Landlock to keep to where the kernel's is newer.

        Raises:
          NoVerdict: this way does not work on this machine; says why.
        """
        self.way = way
        self.passed_over = dict(passed_over or {})
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_ANSWER_S)
        self._launcher = child.start(
            "hapo_jax.tasks.sandbox.launcher",
            theirs.fileno(),
            os.getpid(),
            way,
            most,
            env=_environment(),
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        self._socket = ours
        try:
            self._hear()
            self.landlock = min(landlock.version(), most) if way == "landlock" else 0
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
          NoVerdict: it cannot be started, or the launcher is gone.
        """
        return self._ask({"start": role, "limits": limits}, files)["process"]

    def wait(self, seconds: float = 0.2) -> None:
        """Waits until one of the processes has ended, at most so long.

        For when one has closed what it was heard by: `end`, right after that, could
        not tell its end from one that it brought about itself.

        Raises:
          NoVerdict: the launcher is gone.
        """
        self._ask({"wait": seconds}, patience_s=seconds)

    def end(self, process: int, *, patience_s: float = 0.0) -> int:
        """Ends a process with all that belongs to it; returns its exit code.

        Args:
          process: from `start`; every process must be ended.
          patience_s: seconds to wait before it is killed.

        Raises:
          NoVerdict: somebody else killed or stopped it, or the launcher is gone.
        """
        request = {"end": process, "patience_s": patience_s}
        reply = self._ask(request, patience_s=patience_s)
        if reply["outside"]:
            raise NoVerdict(f"the program's process {reply['outside']}.")
        return reply["code"]

    def close(self) -> None:
        """Ends the launcher and with it every process. Idempotent."""
        self._socket.close()
        self._launcher.kill()
        self._launcher.wait()

    def _ask(
        self, request: dict, files: Sequence[int] = (), *, patience_s: float = 0.0
    ) -> dict:
        """The launcher's reply, which may take so much longer."""
        self._socket.settimeout(_ANSWER_S + patience_s)
        try:
            message = json.dumps(request).encode()
            socket.send_fds(self._socket, [message], list(files))
        except OSError as error:
            raise NoVerdict(f"The sandbox's launcher is gone ({error}).") from error
        return self._hear()

    def _hear(self) -> dict:
        try:
            reply = json.loads(self._socket.recv(2**16) or b'{"failed": "it died"}')
        except OSError as error:
            reply = {"failed": str(error)}
        if "failed" in reply:
            raise NoVerdict(f"The sandbox failed: {reply['failed']}")
        return reply


def best() -> Sandbox:
    """A sandbox by the first way that works here, shown by a program that ran.

    Raises:
      RuntimeError: none works; says why.
    """
    reasons: dict[str, str] = {}
    try:
        kernel.architecture()
    except OSError as error:
        raise RuntimeError(str(error)) from None
    for way in confine.WAYS:
        box = None
        try:
            box = Sandbox(way, passed_over=reasons)
            _try(box)
            return box
        except RuntimeError as error:
            if box is not None:
                box.close()
            reasons[way] = str(error)
    raise RuntimeError(
        "Programs cannot be confined on this machine, so none is run. Needed is Linux "
        "5.12 or newer where user namespaces or Landlock are allowed (in Docker, "
        "`--security-opt seccomp=unconfined` allows them). "
        + " ".join(f"{way}: {reason}" for way, reason in reasons.items())
    )


def describe(box: Sandbox) -> str:
    """Which confinement is in force and what it does not promise, for a log."""
    return promises.describe(box.way, box.landlock, root=confine.own_users())


def why_weaker(box: Sandbox) -> str:
    """Why a way that promises more did not work; "" if the best way is in force."""
    return " ".join(
        f"Programs are confined by {box.way}, since {way} did not work, which would "
        f"promise more: {reason}"
        for way, reason in box.passed_over.items()
    )


def say_once(text: str, level: int) -> None:
    """Logs a text that this process has not logged before."""
    if text and text not in _said:
        _said.add(text)
        _log.log(level, text)


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
        "PYTHONPATH": child.ROOT,
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
