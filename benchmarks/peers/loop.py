"""A trainer's own loop, made to wait between its steps."""

import queue
import threading
from collections.abc import Callable


class Stepwise:
    """Runs a loop in a thread and lets it do one step at a time."""

    def __init__(self, loop: Callable[[Callable[[], None]], None]):
        """`loop` gets a function to call whenever a step is done."""
        self._orders, self._reports = queue.Queue(), queue.Queue()
        # A daemon: it waits for ever once nobody wants another step.
        threading.Thread(target=self._run, args=(loop,), daemon=True).start()

    def step(self) -> None:
        """One step.

        Raises:
          RuntimeError: the loop ended or failed.
        """
        self._orders.put(None)
        error = self._reports.get()
        if error is not None:
            raise RuntimeError("the training loop did not finish its step") from error

    def _run(self, loop) -> None:
        self._orders.get()
        try:
            loop(self._pause)
        except BaseException as error:  # in a thread; `step` raises it
            self._reports.put(error)
        else:
            self._reports.put(EOFError("it has no more steps"))

    def _pause(self) -> None:
        self._reports.put(None)
        self._orders.get()
