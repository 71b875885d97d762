"""Stops a run between two steps when the system or the user asks for it."""

import signal

import numpy as np

from hapo_jax.model import distributed


class Interrupt:
    """Catches SIGTERM and SIGINT while in scope; the loop asks `requested`.

    The first signal is remembered, so that the step in progress is finished and saved.
    The second SIGINT raises KeyboardInterrupt, for who cannot wait.

    Attributes:
      requested: name of the signal that came, or None.
    """

    def __init__(self):
        self.requested: str | None = None
        self._previous = {}

    def __enter__(self) -> "Interrupt":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

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
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name
        print(f"\n{self.requested}: finishing this step, then saving.", flush=True)
