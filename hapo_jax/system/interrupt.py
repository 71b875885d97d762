"""Stops a run when the system or the user asks for it, with all that it has learnt."""

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Self

import numpy as np

from hapo_jax.system import distributed

# How long the main thread has, inside `at_once`, to end by itself. It cannot while it
# compiles: Python's part of a signal waits until that is over.
_PATIENCE_S = 5.0
# SIGXCPU: the processor time that the process may use is over.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGXCPU)


class Stopped(BaseException):
    """A signal ended work that is done again, or gone on with, after a restart.

    Not an Exception: who survives those must not survive this.
    """


class Interrupt:
    """Catches SIGTERM, SIGINT and SIGXCPU inside `caught`; the loop asks `requested`.

    A signal is remembered, so that what cannot be left half done is done first. Within
    `at_once` there is no such thing, and it ends the process. The second SIGINT raises
    KeyboardInterrupt, for who cannot wait.

    Attributes:
      requested: name of the signal that came, or None.
    """

    def __init__(self):
        self.requested: str | None = None
        self._doing: str | None = None  # inside `at_once`

    def asked(self) -> bool:
        """Whether a signal came."""
        return self.requested is not None

    @contextlib.contextmanager
    def caught(self, last: Callable[[], None] = lambda: None) -> Iterator[Self]:
        """The scope in which signals are caught.

        Args:
          last: called before a process ends that cannot end by itself, such as
            `Checkpoints.wait`.
        """
        previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        reads, writes = os.pipe()
        os.set_blocking(writes, False)
        # Written to as the signal comes, whatever the main thread is doing.
        previous_fd = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
        guard = functools.partial(self._guard, reads, last)
        threading.Thread(target=guard, daemon=True).start()
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(previous_fd)
            os.close(writes)  # ends the thread, which closes the other end

    @contextlib.contextmanager
    def at_once(self, doing: str) -> Iterator[None]:
        """Around work before which all is saved: a signal ends it, and the process.

        Args:
          doing: what it is, as in "evaluating".

        Raises:
          Stopped: a signal came, inside or before.
        """
        self._doing = doing
        try:
            if self.requested:
                raise Stopped(f"{self.requested} while {doing}")
            yield
        finally:
            self._doing = None

    def agree(self) -> str | None:
        """What any process was asked; all stop at the step at which all ask this."""
        own = signal.Signals[self.requested] if self.requested else 0
        answers = distributed.gather({"signal": np.int32(own)})
        number = max(int(answer["signal"]) for answer in answers)
        if not number:  # `requested` may have been set since: that is for the next time
            return None
        self.requested = signal.Signals(number).name
        return self.requested

    def _note(self, number, frame) -> None:
        again = self.requested is not None
        self.requested = signal.Signals(number).name
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._doing is None:
            print(f"\n{self.requested}: saving, then stopping.", flush=True)
        elif not again:
            raise Stopped(f"{self.requested} while {self._doing}")

    def _guard(self, reads: int, last: Callable[[], None]) -> None:
        """The thread: ends a process whose main thread cannot."""
        while came := os.read(reads, 1):
            if came[0] in _SIGNALS and self._doing is not None:
                about = came[0], self._doing, last
                timer = threading.Timer(_PATIENCE_S, self._leave, about)
                timer.daemon = True
                timer.start()
        os.close(reads)

    def _leave(self, number: int, doing: str, last: Callable[[], None]) -> None:
        if self._doing is None:
            return  # the main thread has noticed, and is on its way out
        last()
        print(stopped(f"{signal.Signals(number).name} while {doing}"), flush=True)
        sys.stderr.flush()
        os._exit(0)


def stopped(what: object) -> str:
    """What a program says that a signal has stopped."""
    return f"{what}. All finished steps are saved. Run the same command again to go on."
