"""The process that starts programs: `python -m hapo_jax.tasks.sandbox.launcher`.

Started by `host.py`, never by hand. It holds nothing that a program must not see, since
a program's process is its copy: programs, inputs and tests pass by it in files that it
never reads. It has imported what most programs import.

Requests are JSON on one socket, files travel with them:

    -> {"ready": text} | {"failed": text}              once, after the start
    <- {"start": role, "limits": [...]} and files      a program's process begins
    -> {"process": id} | {"failed": text}
    <- {"wait": seconds}                               until one has ended, at most
    -> {}
    <- {"end": id, "patience_s": seconds}              ends it, at once or after a while
    -> {"code": exit code, negative for a signal, "outside": text}

`outside` says what somebody else did to the process, if it was not left alone: then
what it did or did not do is nothing to judge it by.

The end of the socket ends the process, and so does the death of the parent.
"""

# ruff: noqa: F401
import bisect
import collections
import contextlib
import copy
import datetime
import decimal
import fcntl
import fractions
import functools
import gc
import heapq
import itertools
import json
import math
import operator
import os
import random
import re
import select
import signal
import socket
import statistics
import string
import sys
import time
import traceback
import typing

from hapo_jax.tasks.sandbox import confine, guest, judge, kernel, seccomp

# role -> what its process runs, given its files; and which of these are which
ROLES = {
    "program": (guest.run, (0, 1, 3)),  # standard input and output, payload
    "functions": (guest.serve, (3, 4)),  # payload, requests
    "judge": (judge.run, (3, 4, 5)),  # payload, requests, verdict
}
_MOST_FILES = 3
_EVERY_S = 0.25  # how often the processor time of programs is looked at
_OUT_OF_THE_WAY = 32  # below the limit on descriptors, above all that are in use


def main(argv: list[str]) -> None:
    """Serves until the socket closes.

    Args:
      argv: number of the socket's descriptor, process id of the parent, way of
        confinement, newest version of Landlock to use.
    """
    descriptor, parent, way = int(argv[0]), int(argv[1]), confine.WAYS[argv[2]]
    kernel.end_with_parent(parent)
    os.environ.pop("PYTHONPATH")  # names folders of the user
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent decides
    control = socket.socket(fileno=descriptor)
    try:
        prepared = way.prepare(int(argv[3]))
        seccomp.build()  # once, for all
    except OSError as error:
        _send(control, {"failed": str(error)})
        return
    lifeline = os.pipe()
    gc.collect()
    gc.freeze()
    _send(control, {"ready": argv[2]})
    running: dict[int, int] = {}  # processes and their limits of processor time in s
    while True:
        _watch([control], running)
        message, files, *_ = socket.recv_fds(control, 2**16, _MOST_FILES)
        if not message:
            return
        request = json.loads(message)
        if "start" in request:
            limits = confine.Limits(*request["limits"])
            reply = _start(request["start"], files, way, prepared, limits, lifeline)
            if "process" in reply:
                running[reply["process"]] = limits.cpu_s
        elif "wait" in request:
            reply = _wait(running, request["wait"])
        else:
            reply = _end(request["end"], request["patience_s"], running)
        _send(control, reply)


def _start(
    role: str,
    files: list[int],
    way: confine.Way,
    prepared,
    limits: confine.Limits,
    lifeline: tuple[int, int],
) -> dict:
    """Forks a program's process; replies when it is confined."""
    report, reporting = os.pipe()
    try:
        process = kernel.fork(way.namespaces)
        if process == 0:
            _become(role, files, way, prepared, limits, lifeline, reporting)
    except OSError as error:
        os.close(report)
        return {"failed": str(error)}
    finally:
        for file in (*files, reporting):
            os.close(file)
    with open(report, "rb") as heard:  # until the child lets go of its end
        failure = heard.read().decode()
    if failure:
        _end(process, 0.0, {})
        return {"failed": failure}
    return {"process": process}


def _become(role, files, way, prepared, limits, lifeline, reporting) -> typing.NoReturn:
    """The child's side of `_start`: confines itself and plays its role."""
    code = 125
    try:
        play, places = ROLES[role]
        try:
            os.close(lifeline[1])
            null = os.open(os.devnull, os.O_RDWR)
            confine.confine(way, prepared, limits, lifeline[0])
        except BaseException:
            os.write(reporting, traceback.format_exc().encode())
            raise
        _arrange({0: null, 1: null, 2: null, **dict(zip(places, files))})
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        code = play()
    finally:  # whatever happened: the launcher's own code must not go on here
        os._exit(code)


def _arrange(places: dict[int, int]) -> None:
    """Leaves a program its files under the numbers it knows, and nothing else.

    That closes the report too, which tells the launcher that all went well.
    """
    high = {
        place: fcntl.fcntl(file, fcntl.F_DUPFD, _OUT_OF_THE_WAY)
        for place, file in places.items()
    }
    for place, file in high.items():
        os.dup2(file, place)
    os.closerange(max(places) + 1, 2**20)


def _watch(files: list, running: dict[int, int], seconds: float = math.inf) -> bool:
    """Waits for a file at most so long; kills who has used up its processor time.

    The kernel's own limit of processor time would be no less a SIGKILL than one that
    comes from outside; so it is set higher, and this is the one that holds.
    """
    until = time.monotonic() + seconds
    while True:
        left = max(0.0, until - time.monotonic())
        wait_s = min(left, _EVERY_S if running else math.inf)
        if select.select(files, [], [], None if wait_s == math.inf else wait_s)[0]:
            return True
        for process, cpu_s in running.items():
            if cpu_s and _used_s(process) > cpu_s:
                running[process] = 0
                os.kill(process, signal.SIGKILL)
        if not left:
            return False


def _used_s(process: int) -> float:
    """Processor time of a process that has not been waited for."""
    return time.clock_gettime(
        (~process << 3) | 2
    )  # its clock, see <linux/posix-timers>


def _wait(running: dict[int, int], seconds: float) -> dict:
    """Waits until one of the processes has ended, so that `_end` finds how."""
    watched = [os.pidfd_open(process) for process in running]
    try:
        _watch(watched, running, seconds)
    finally:
        for descriptor in watched:
            os.close(descriptor)
    return {}


def _end(process: int, patience_s: float, running: dict[int, int]) -> dict:
    """Waits, kills what is still there, and says how it ended."""
    watch, ours, outside = os.pidfd_open(process), False, ""
    try:
        if not _watch([watch], running, max(0.0, patience_s)):
            # It cannot stop itself.
            look = os.WSTOPPED | os.WCONTINUED | os.WNOHANG | os.WNOWAIT
            # One that has ended since the last look can no longer have stopped.
            with contextlib.suppress(ChildProcessError):
                if os.waitid(os.P_PID, process, look):
                    outside = "was stopped from outside"
                ours = True
                os.kill(process, signal.SIGKILL)
    finally:
        os.close(watch)
    used_up = running.pop(process, 0) == 0
    _, status = os.waitpid(process, 0)
    code = os.waitstatus_to_exitcode(status)
    if -code in kernel.FROM_OUTSIDE and not ours and not used_up:
        outside = f"was killed from outside by {signal.Signals(-code).name}"
    return {"code": code, "outside": outside}


def _send(control: socket.socket, message: dict) -> None:
    control.send(json.dumps(message).encode("ascii"))


if __name__ == "__main__":
    main(sys.argv[1:])
