"""Ends this process when another one of the run has ended, and says which.

A process that waits for a dead one in a collective operation would wait for ever. So
a thread of every process counts up a number of its own in the key-value store of JAX's
coordination service, and looks at those of the others.
"""

import atexit
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable

import jax
from jax._src import distributed as jax_distributed  # the public module hides the store

_EVERY_S = 2.0
# Looks at an unchanged number after which its process counts as dead. Not seconds: a
# machine that was suspended has missed them all at once.
_MOST_SILENT = 15
# How long process 0, which holds the store, stays so that all can read how it failed.
_LINGER_S = 4 * _EVERY_S
_END_TIMEOUT_S = 3600
_PREFIX = "hapo_jax"
# How an error of XLA begins; JAX raises it as various exceptions.
_STATUS = re.compile("(UNKNOWN|INTERNAL|ABORTED|UNAVAILABLE|DEADLINE_EXCEEDED): ")


class Watch:
    """While in scope, no process outlives another by more than 40 seconds.

    Leaving the scope waits for the others. An exception that leaves it ends all
    processes with a message that names this one. With one process it does nothing.
    """

    def __init__(self, status: Callable[[BaseException], int]):
        """`status` is that of a process which such an exception ends, and of all."""
        self._status = status
        state = jax_distributed.global_state
        self._client, self._index = state.client, state.process_id
        self._count = state.num_processes or 1
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        if self._count > 1:
            self._set("who", f"{socket.gethostname()}, pid {os.getpid()}")
            self._thread.start()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if self._count == 1:
            return
        if error is not None:
            self._fail(kind, error)
            return
        self._client.wait_at_barrier(f"{_PREFIX}/end", _END_TIMEOUT_S * 1000)
        self._stop.set()
        self._thread.join()
        jax.distributed.shutdown()

    def _fail(self, kind, error) -> None:
        """Tells the others, unless it is one of them that failed."""
        status = self._status(error)
        # The interpreter would wait for all at its end, and abort if they do not come.
        atexit.register(_leave, status)
        if _STATUS.match(str(error)):
            # A collective operation breaks when its partner dies. Then `_look` finds
            # out who it was, and ends this process.
            print(f"{kind.__name__}: {error}", file=sys.stderr, flush=True)
            time.sleep((_MOST_SILENT + 3) * _EVERY_S)
        self._stop.set()  # this process says itself why it ends
        self._set("failed", f"{status} {kind.__name__}: {error}")
        if self._index == 0:
            time.sleep(_LINGER_S)

    def _set(self, what: str, value: str) -> None:
        self._client.key_value_set(
            f"{_PREFIX}/{what}/{self._index}", value, allow_overwrite=True
        )

    def _get(self, what: str) -> dict[int, str]:
        found = self._client.key_value_dir_get(f"{_PREFIX}/{what}")
        return {int(key.rsplit("/", 1)[1]): value for key, value in found}

    def _look(self) -> None:
        """The thread."""
        others = [i for i in range(self._count) if i != self._index]
        last, silent = {}, dict.fromkeys(others, 0)
        beat = 0
        while not self._stop.wait(_EVERY_S):
            beat += 1
            try:
                self._set("beat", str(beat))
                beats, failed = self._get("beat"), self._get("failed")
            except jax.errors.JaxRuntimeError as error:
                if self._stop.is_set():
                    return
                self._end(0, f"cannot be reached ({str(error).splitlines()[0]})")
            for i, failure in failed.items():
                if i != self._index:
                    status, reason = failure.split(" ", 1)
                    self._end(i, f"failed: {reason}", int(status))
            for i in others:
                silent[i] = 0 if beats.get(i) != last.get(i) else silent[i] + 1
                if silent[i] >= _MOST_SILENT:
                    seconds = _MOST_SILENT * _EVERY_S
                    self._end(i, f"has not been heard of for {seconds:.0f} s")
            last = beats

    def _end(self, index: int, what: str, status: int = 1) -> None:
        """Ends this process at once: its main thread may be inside a collective."""
        try:
            who = f" ({self._get('who')[index]})"
        except (jax.errors.JaxRuntimeError, KeyError):
            who = ""
        print(
            f"error: process {index} of {self._count}{who} {what}; process "
            f"{self._index} ends too. Run the same command again to go on from the "
            "last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        if self._index == 0:
            time.sleep(_LINGER_S)
        os._exit(status)


def _leave(status: int) -> None:
    """Ends this process, whose error has been printed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
