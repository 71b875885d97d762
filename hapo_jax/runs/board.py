"""TensorBoard's event files, written at once and anew after a failure.

tensorboardX writes them in a thread of its own, which ends for good at the first error
while those who hand it events wait for ever. Its formats are used here without it.
"""

# ruff: noqa: E402 (what stands before an import decides what it imports)

import pathlib
import sys
import time
from collections.abc import Mapping

import numpy as np

# tensorboardX imports torch wherever there is one, which takes longer than JAX itself,
# and nothing here needs it. It does without where `import torch` fails.
_torch = sys.modules.get("torch")
sys.modules["torch"] = _torch  # None: the import fails
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

if _torch is None:
    del sys.modules["torch"]

_POSITIVE = np.geomspace(1e-12, 1e20, 775)  # each 1.1 times the one before
_BINS = np.concatenate([-_POSITIVE[::-1], [0], _POSITIVE])


class Board:
    """One run's event files. Every method may raise OSError and can be called again."""

    def __init__(self, folder: pathlib.Path, first_step: int):
        """Opens nothing yet; what there is of `first_step` and later ones is hidden."""
        self._folder = folder
        self._first_step: int | None = first_step
        self._writer: EventsWriter | None = None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one number per tag."""
        for tag, value in values.items():
            self._add(step, summary.scalar(tag, value))
        self._flush()

    def histograms(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Adds one histogram per tag, of finite values."""
        for tag, value in values.items():
            self._add(step, summary.histogram(tag, value, bins=_BINS))
        self._flush()

    def text(self, step: int, tag: str, text: str) -> None:
        """Adds a text in Markdown."""
        self._add(step, summary.text(tag, text))
        self._flush()

    def close(self) -> None:
        """Closes the file, if there is one."""
        if self._writer is not None:
            self._writer.close()

    def _add(self, step: int, found) -> None:
        self._write(Event(step=step, wall_time=time.time(), summary=found))

    def _write(self, event: Event) -> None:
        try:
            if self._writer is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                # A name of its own: one second may see several.
                suffix = f".{time.time_ns()}"
                self._writer = EventsWriter(str(self._folder / "events"), suffix)
            if self._first_step is not None:
                start = SessionLog(status=SessionLog.START)
                self._writer.write_event(
                    Event(step=self._first_step, session_log=start)
                )
                self._first_step = None
            self._writer.write_event(event)
        except Exception:
            # What comes behind half an event cannot be read: another file then.
            self._writer = None
            raise

    def _flush(self) -> None:
        try:
            if self._writer is not None:
                self._writer.flush()
        except Exception:
            self._writer = None
            raise
