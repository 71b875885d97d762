"""One process of the grading pool: how it is started, and what the pool knows of it."""

import dataclasses
import json
import os
import subprocess
import tempfile
import time
from multiprocessing import connection
from typing import Any

from hapo_jax.grading import processes
from hapo_jax.grading.queue import Chunk
from hapo_jax.system import child


@dataclasses.dataclass(eq=False)
class Grader:
    """A process that runs `grading/worker.py`.

    Attributes:
      process: it.
      socket: to talk to it.
      stderr: what it says before it is ready; a file, which cannot fill up.
      deadline: on `time.monotonic`, for its next message.
      state: starting -> idle -> loading -> grading -> idle -> ...
      chunk: what it has been given to grade.
      disturbed: what somebody else did to it at the current item, or "".
      weaker: why its programs are not confined the best way, or "".
    """

    process: subprocess.Popen
    socket: connection.Connection
    stderr: Any
    deadline: float
    state: str = "starting"
    chunk: Chunk | None = None
    disturbed: str = ""
    weaker: str = ""

    def tell(self, message: dict) -> None:
        """Sends a message; raises OSError if the process has died."""
        # ASCII escapes carry lone surrogates, which UTF-8 cannot.
        self.socket.send_bytes(json.dumps(message).encode("ascii"))

    def hear(self) -> dict:
        """Takes one message; raises EOFError or OSError if the process has died."""
        return json.loads(self.socket.recv_bytes())

    def overdue(self, now: float) -> bool:
        """Whether it has been silent for too long."""
        return self.state != "idle" and now > self.deadline

    def stopped(self) -> str:
        """Which process of it and its descendants somebody has stopped; "" if none."""
        for process in processes.with_descendants([self.process.pid]):
            if processes.is_stopped(process):
                return f"process {process} was stopped"
        return ""

    def stderr_tail(self) -> str:
        """The end of what it said before it was ready."""
        return child.tail(self.stderr)

    def end(self) -> None:
        """Kills it."""
        self.socket.close()
        self.process.kill()
        self.process.wait()
        self.stderr.close()


def start(*, memory_gib: float, timeout_s: float) -> Grader:
    """Starts a process and does not wait for it; `timeout_s` is until it is ready."""
    ours, theirs = connection.Pipe()
    stderr = tempfile.TemporaryFile()  # noqa: SIM115, it lives as long as the process
    process = child.start(
        "hapo_jax.grading.worker",
        theirs.fileno(),
        memory_gib,
        os.getpid(),
        env=_environment(),
        stdout=stderr,
        stderr=stderr,
    )
    theirs.close()
    return Grader(process, ours, stderr, time.monotonic() + timeout_s)


def _environment() -> dict[str, str]:
    """The parent's environment, with this very package first on the path.

    One thread per library: graders run side by side already, and each thread of
    OpenBLAS would reserve address space under the limit.
    """
    paths = [child.ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(paths)}
