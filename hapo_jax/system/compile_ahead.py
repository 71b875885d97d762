"""Programs that are compiled in threads before they are needed.

A jitted function compiles when it is called, so that a run would first sample, and then
wait for its learner to be compiled. Its shapes are known at the start: `Ahead` compiles
them meanwhile. Nothing else changes: what is not compiled yet, or could not be, is
compiled by the call.
"""

import concurrent.futures
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

from hapo_jax.system import compile_time

_log = logging.getLogger(__name__)
_MOST_THREADS = 8
_NAME = "compile"  # of the threads


class Jitted:
    """A jitted function; a call waits for the program that a thread is compiling.

    All else, such as `lower`, is that of the function.
    """

    def __init__(self, function: Callable):
        self._function = function
        self._coming: dict[Any, concurrent.futures.Future] = {}

    def __call__(self, *args):
        if self._coming:
            self._wait(args)
        return self._function(*args)

    def __getattr__(self, name: str):
        return getattr(self._function, name)

    def is_coming(self, args, future: concurrent.futures.Future) -> None:
        """Notes that the program for arguments of these shapes is being compiled."""
        self._coming[_shapes(args)] = future

    def _wait(self, args) -> None:
        future = self._coming.pop(_shapes(args), None)
        # One that no thread has begun is compiled by the call.
        if future is not None and not future.cancel():
            began = time.monotonic()
            future.result()
            compile_time.note_wait(began)


class Program(NamedTuple):
    """A jitted function with the shapes of its arguments.

    Attributes:
      name: for messages.
      function: a `Jitted`.
      args: ShapeDtypeStructs in place of arrays.
      mesh: that is current when it is called.
    """

    name: str
    function: Jitted
    args: tuple
    mesh: jax.sharding.Mesh

    def lower(self, platforms: tuple[str, ...] | None = None) -> jax.stages.Lowered:
        """The program's text, for the platforms given or for this machine."""
        with jax.set_mesh(self.mesh):
            return self.function.trace(*self.args).lower(lowering_platforms=platforms)


class Ahead:
    """Compiles programs in threads, in their order; leaving the scope drops the rest.

    A thread that has begun a program ends it. The interpreter waits for that at its
    end, unless `leave` has ended the process.
    """

    def __init__(self):
        threads = min(_MOST_THREADS, len(os.sched_getaffinity(0)))
        self._pool = concurrent.futures.ThreadPoolExecutor(
            threads, thread_name_prefix=_NAME
        )

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(self, *exception) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def compile(self, programs: Iterable[Program]) -> None:
        """Compiles programs, the first first."""
        for program in programs:
            future = self._pool.submit(_compile, program)
            program.function.is_coming(program.args, future)


def leave(status: int) -> None:
    """Ends the process if a thread still compiles, for who cannot wait for that."""
    if any(thread.name.startswith(_NAME) for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _compile(program: Program) -> None:
    """Ends without an exception: the call of the function will meet the same one."""
    try:
        program.lower().compile()
    except Exception as error:
        _log.warning(
            "Compiling %s ahead failed (%s: %s); it is compiled when it is needed.",
            program.name,
            type(error).__name__,
            str(error).partition("\n")[0],
        )


def _shapes(args) -> tuple:
    leaves, structure = jax.tree.flatten(args)
    # Of what is no array, such as a number of columns, the value decides.
    found = [(x.shape, x.dtype) if hasattr(x, "shape") else x for x in leaves]
    return structure, tuple(found)
