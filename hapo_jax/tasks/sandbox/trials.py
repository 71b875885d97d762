"""One program on one kind of test, decided in the grading process.

Each function returns a Trial and keeps the wall clock of its limits.
"""

import contextlib
import json
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hapo_jax.tasks.sandbox import host, wire
from hapo_jax.tasks.sandbox.confine import Limits

_PIECE = 2**16


class Trial(NamedTuple):
    """How a program did.

    Attributes:
      passed: it did all that was asked.
      timed_out: it did not, for it took too long.
      detail: what went wrong, for a reader.
    """

    passed: bool
    timed_out: bool = False
    detail: str = ""


def on_input(
    box: host.Sandbox,
    program: str,
    *,
    data: str,
    accept: Callable[[str], bool],
    limits: Limits,
    preamble: str = "",
) -> Trial:
    """Runs a script.

    Args:
      box: where it runs.
      program: its source.
      data: its standard input.
      accept: decides about its standard output.
      limits: of its process.
      preamble: source that runs before it, in its names.
    """
    deadline = time.monotonic() + limits.wall_s
    reading, writing = os.pipe()
    with (
        os.fdopen(reading, "rb", buffering=0) as output,
        os.fdopen(writing, "wb", buffering=0) as end,
        host.sealed(data.encode("utf-8", "replace")) as standard_input,
        host.sealed(_payload(program=program, preamble=preamble)) as payload,
    ):
        files = [standard_input, end.fileno(), payload]
        process = box.start("program", files, limits)
        end.close()
        patience_s, written = 0.0, None
        try:
            written = _read(output.fileno(), limits.output_bytes, deadline)
            if written is not None:
                patience_s = deadline - time.monotonic()
        except TimeoutError:
            return _too_long(limits)
        finally:
            code = box.end(process, patience_s=max(0.0, patience_s))
    if written is None:
        return Trial(False, detail=f"wrote more than {limits.output_bytes} bytes")
    if code and time.monotonic() >= deadline:
        return _too_long(limits)
    if code:
        return Trial(False, detail=f"ended with exit code {code}")
    if not accept(written.decode("utf-8", "replace")):
        return Trial(False, detail="wrong output")
    return Trial(True)


def on_calls(
    box: host.Sandbox,
    program: str,
    *,
    name: str,
    calls: Sequence[Sequence[Any]],
    outputs: Sequence[Any],
    limits: Limits,
    harness: str = "",
    preamble: str = "",
) -> Trial:
    """Calls a function of a program; another process compares (see `judge.py`).

    Args:
      box: where both processes run.
      program: its source.
      name: of the function, or of a method of its class `Solution`.
      calls: arguments, plain values.
      outputs: for each call the value that is expected, of JSON's types.
      limits: of each process, for all calls together.
      harness: whose comparison decides, a key of `harnesses.HARNESSES`.
      preamble: source that runs before the program, in its names.
    """
    tests = {
        "calls": [wire.encode(list(arguments)) for arguments in calls],
        "outputs": wire.encode(list(outputs)),
        "harness": harness,
        "entry_point": name,
    }
    return _judged(box, program, tests, limits, preamble)


def on_tests(
    box: host.Sandbox,
    program: str,
    *,
    name: str,
    prelude: str,
    setup: str,
    code: str,
    limits: Limits,
    preamble: str = "",
) -> Trial:
    """Runs tests written in Python, in a process of their own (see `judge.py`).

    Args:
      box: where both processes run.
      program: its source.
      name: of the function that the tests are about.
      prelude: source that stands before the function in its prompt, or "".
      setup, code: source of the tests.
      limits: of each process; the wall clock is theirs together.
      preamble: source that runs before the program, in its names.
    """
    tests = {"prelude": prelude, "setup": setup, "code": code, "entry_point": name}
    return _judged(box, program, tests, limits, preamble)


def _judged(
    box: host.Sandbox, program: str, tests: dict, limits: Limits, preamble: str
) -> Trial:
    """A program's functions in one process, tests of `judge.run` in another."""
    deadline = time.monotonic() + limits.wall_s
    with contextlib.ExitStack() as stack:
        peer = _serve(stack, box, program, limits, preamble)
        reading, writing = os.pipe()
        stack.callback(os.close, reading)
        try:
            with host.sealed(_payload(**tests)) as payload:
                judge = box.start("judge", [payload, peer, writing], limits)
        finally:
            os.close(writing)
        stack.callback(box.end, judge)
        try:
            verdict = wire.receive(reading, deadline)
        except TimeoutError:
            return _too_long(limits)
        except EOFError:
            box.wait()
            return Trial(False, detail="the tests did not reach their end")
        if verdict["lost"]:
            box.wait()  # so that its end can tell whose doing it was
    return Trial(verdict["passed"], detail=verdict["detail"])


def _serve(
    stack: contextlib.ExitStack,
    box: host.Sandbox,
    program: str,
    limits: Limits,
    preamble: str,
) -> int:
    """Starts the process of a program's functions; returns where it listens."""
    ours, theirs = socket.socketpair()
    stack.callback(ours.close)
    source = _payload(program=program, preamble=preamble)
    with theirs, host.sealed(source) as payload:
        process = box.start("functions", [payload, theirs.fileno()], limits)
    stack.callback(box.end, process)
    return ours.fileno()


def _payload(**fields: Any) -> bytes:
    return json.dumps(fields).encode("ascii")


def _read(descriptor: int, most: int, deadline: float) -> bytes | None:
    """All that a pipe brings; None if that is too much."""
    found = bytearray()
    while len(found) <= most:
        left = max(0.0, deadline - time.monotonic())
        if not select.select([descriptor], [], [], left)[0]:
            raise TimeoutError
        data = os.read(descriptor, _PIECE)
        if not data:
            return bytes(found)
        found += data
    return None


def _too_long(limits: Limits) -> Trial:
    return Trial(False, True, f"took longer than {limits.wall_s:.1f} s")
