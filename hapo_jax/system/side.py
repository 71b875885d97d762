"""Outputs that a run can do without: written in a thread, dropped where that fails.

TensorBoard's files and the records of rollouts are for looking. A disk that is full, or
a mount that hangs, must not stop training for them: what cannot be written is dropped
and counted, and the user is told. What must not be lost waits instead: `patience.py`.
"""

import collections
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)

_MOST_WAITING = 1_000
_SETTLE_S = 5.0
_CLOSE_S = 20.0  # how long the end of a run waits for what is still to be written


class Side:
    """A thread that writes; `close` it, or what waits is lost.

    Attributes:
      dropped: what was not written, and how often.
    """

    def __init__(self):
        self.dropped: collections.Counter[str] = collections.Counter()
        self._waiting: queue.Queue = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def do(self, what: str, write: Callable[[], None]) -> None:
        """Has something written soon; returns at once.

        Args:
          what: for messages and counts, such as "tensorboard".
          write: its exceptions are caught.
        """
        try:
            self._waiting.put_nowait((what, write))
        except queue.Full:
            self._drop(what, "the disk has not answered for too long")

    def settle(self) -> None:
        """Waits until all is written, for a few seconds at most."""
        deadline = time.monotonic() + _SETTLE_S
        while self._waiting.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.005)

    def close(self) -> None:
        """Waits a while for what is still to be written, and says what was dropped."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=_CLOSE_S)
        self._thread.join(_CLOSE_S)
        if self._thread.is_alive():
            self._drop("what was still to be written", "the disk does not answer")
        if self.dropped:
            counts = ", ".join(f"{what} {n}" for what, n in self.dropped.items())
            _log.warning("Not written (the run itself has lost nothing): %s.", counts)

    def _work(self) -> None:
        """The thread."""
        while (task := self._waiting.get()) is not None:
            what, write = task
            try:
                write()
            except Exception as error:
                self._drop(what, f"{type(error).__name__}: {error}")
            finally:
                self._waiting.task_done()

    def _drop(self, what: str, why: str) -> None:
        self.dropped[what] += 1
        if self.dropped[what] == 1:
            _log.warning("%s was not written, and the run goes on: %s", what, why)
