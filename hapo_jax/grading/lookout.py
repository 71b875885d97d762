"""A process that watches the grading pool from outside: it ends no work and does none.

    python -m hapo_jax.grading.lookout FD PARENT

Started by `pool.py`, never by hand. A process that is stopped (SIGSTOP) can notice
nothing, and whoever waits for it waits for ever, in silence: the process that trains
and holds the pool, a process that grades, its launcher of programs. So this one looks
at their states, lets a stopped one go on and says so on standard error, which is that
of the run. Ctrl-Z is left alone, see `processes.is_stopped`; a run that should pause
can be sent SIGTSTP. That this process works is seen by the pool, which hears of it
every `EVERY_S` seconds and replaces it otherwise.

Messages are JSON on a socket that keeps them apart:

    <- {"watch": [process id, ...]}    besides the parent; with all their descendants
    -> {"beat": true}                  after every look
    -> {"stopped": process id, "of": process id of the list, or the parent}
                                        before it is made to go on

They are dropped where the pool cannot take them, for it may be stopped itself.
"""

import contextlib
import dataclasses
import json
import os
import select
import socket
import subprocess
import sys
import time

from hapo_jax.grading import processes
from hapo_jax.system import child
from hapo_jax.tasks.sandbox import kernel

EVERY_S = 1.0
_SILENT_S = 20.0  # after which the lookout counts as stopped or broken
_MESSAGE_BYTES = 2**16


def main(argv: list[str]) -> None:
    """Looks until the socket closes.

    Args:
      argv: number of the socket's descriptor; process id of the parent.
    """
    descriptor, parent = int(argv[0]), int(argv[1])
    kernel.end_with_parent(parent)
    listed: list[int] = []
    with socket.socket(fileno=descriptor) as pool:
        while True:
            if select.select([pool], [], [], EVERY_S)[0]:
                message = pool.recv(_MESSAGE_BYTES)
                if not message:
                    return
                listed = json.loads(message)["watch"]
                continue
            for process in listed:
                _look(pool, parent, process, processes.with_descendants([process]))
            # Last, so that it finds what happened to the others when it goes on.
            _look(pool, parent, parent, [parent])
            _tell(pool, {"beat": True})


def _look(pool: socket.socket, parent: int, of: int, members: list[int]) -> None:
    for process in members:
        if not processes.is_stopped(process):
            continue
        _tell(pool, {"stopped": process, "of": of})
        done = "goes on" if processes.resume(process) else "cannot be made to go on"
        who = "which trains" if process == parent else f"which grades for {parent}"
        print(
            f"warning: process {process}, {who}, had been stopped from outside; it "
            f"{done}. (To pause a run, send SIGTSTP.)",
            file=sys.stderr,
            flush=True,
        )


def _tell(pool: socket.socket, message: dict) -> None:
    with contextlib.suppress(BlockingIOError):
        pool.send(json.dumps(message).encode(), socket.MSG_DONTWAIT)


@dataclasses.dataclass(eq=False)
class Lookout:
    """The pool's side of one.

    Attributes:
      process: it.
      socket: to talk to it.
      deadline: on `time.monotonic`, for its next message.
    """

    process: subprocess.Popen
    socket: socket.socket
    deadline: float

    def watch(self, listed: list[int]) -> None:
        """Tells it whom to watch; raises OSError if it has ended."""
        self.socket.send(json.dumps({"watch": listed}).encode())

    def hear(self) -> dict:
        """Takes one message; raises OSError if it has ended."""
        message = self.socket.recv(_MESSAGE_BYTES)
        if not message:
            raise ConnectionResetError("the lookout has ended")
        self.deadline = time.monotonic() + _SILENT_S
        return json.loads(message)

    def end(self) -> None:
        """Kills it."""
        self.socket.close()
        self.process.kill()
        self.process.wait()


def start() -> Lookout:
    """Starts a lookout of this process and does not wait for it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = child.start(
            "hapo_jax.grading.lookout",
            theirs.fileno(),
            os.getpid(),
            env=os.environ | {"PYTHONPATH": child.ROOT},
        )
    return Lookout(process, ours, time.monotonic() + _SILENT_S)


if __name__ == "__main__":
    main(sys.argv[1:])
