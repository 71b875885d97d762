"""Ends a process whose main loop makes no progress, with all stacks in the log.

A hanging device, mount or library would otherwise keep paid hardware for ever, in
silence. Who started the process can start it again: it goes on from its checkpoint.
"""

import faulthandler
import os
import sys
import threading
import time

STATUS = 1  # of a process that was ended


class Watchdog:
    """While in scope, `beat` must be called at least every `patience_s` seconds.

    Compiling counts as silence, so patience is to be longer than that may take.
    """

    def __init__(self, patience_s: float):
        """`patience_s` 0 never ends anything."""
        self._patience_s = patience_s
        self._last = time.monotonic()
        self._stop = threading.Event()

    def __enter__(self) -> "Watchdog":
        self.beat()
        if self._patience_s:
            threading.Thread(target=self._look, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self._stop.set()

    def beat(self) -> None:
        """Something has got on."""
        self._last = time.monotonic()

    def _look(self) -> None:
        """The thread."""
        while not self._stop.wait(min(1.0, self._patience_s / 4)):
            silent = time.monotonic() - self._last
            if silent > self._patience_s:
                self._end(silent)

    def _end(self, silent: float) -> None:
        print(
            f"error: nothing has got on for {silent:.0f} s (log.watchdog_s="
            f"{self._patience_s:g}). Where every thread stands is below. Run the same "
            "command again to go on from the last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(all_threads=True)
        os._exit(STATUS)
