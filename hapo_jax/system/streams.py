"""Standard output and error that cannot end a program.

A full disk behind `> log`, or a reader that has gone, is no reason to fail a run that
has done its work.
"""

import contextlib
import sys
from typing import Any


class Safe:
    """A text stream whose writes and flushes fail without a sound."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """What the stream took; all of it where it fails."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: it was closed
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Passes on what is buffered."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def install() -> None:
    """Makes this process's output safe."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Safe):
            setattr(sys, name, Safe(stream))
