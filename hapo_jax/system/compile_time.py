"""How long a program has waited for its compilers.

JAX reports each stage of compiling and the thread it ran in; what `compile_ahead` does
in threads of its own counts where somebody waits for it.
"""

import threading
import time

import jax

# What JAX reports, in seconds: a function becomes a graph, then text, then a program.
_STAGES = "/jax/core/compile/"
_WAITED = "/hapo_jax/compile/waited"


def note_wait(began: float) -> None:
    """Reports a wait for another thread's compiler.

    Args:
      began: by `time.monotonic`.
    """
    jax.monitoring.record_event_duration_secs(_WAITED, time.monotonic() - began)


class CompileTime:
    """Adds up the waits of the thread that made it, while its scope is open."""

    def __init__(self):
        self._thread = threading.get_ident()
        self._spans: list[tuple[float, float]] = []  # ascending, apart

    def __enter__(self) -> "CompileTime":
        jax.monitoring.register_event_duration_secs_listener(self._hear)
        return self

    def __exit__(self, *exception) -> None:
        jax.monitoring.unregister_event_duration_listener(self._hear)

    def _hear(self, event: str, seconds: float, **about) -> None:
        del about
        ours = threading.get_ident() == self._thread
        if not ours or not event.startswith((_STAGES, _WAITED)):
            return
        end = time.monotonic()
        # A function that is traced inside another is reported first, and is part of it.
        while self._spans and self._spans[-1][0] >= end - seconds:
            self._spans.pop()
        self._spans.append((end - seconds, end))

    def take(self) -> float:
        """Seconds since the last call, or since the scope was opened."""
        seconds = sum(end - begin for begin, end in self._spans)
        self._spans.clear()
        return seconds
