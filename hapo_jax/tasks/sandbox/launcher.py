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
# Signals that a program can neither send to itself nor cause by what it computes. Of
# SIGKILL this is so but for our own, and for the limit of processor time.
_FROM_OUTSIDE = {
    signal.SIGKILL,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
}
_NEARLY = 0.9  # share of the limit of processor time from which on it was the limit
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
    limits_s: dict[int, int] = {}  # of processor time, by process
    while True:
        message, files, *_ = socket.recv_fds(control, 2**16, _MOST_FILES)
        if not message:
            return
        request = json.loads(message)
        if "start" in request:
            limits = confine.Limits(*request["limits"])
            reply = _start(request["start"], files, way, prepared, limits, lifeline)
            if "process" in reply:
                limits_s[reply["process"]] = limits.cpu_s
        elif "wait" in request:
            reply = _wait(limits_s, request["wait"])
        else:
            process = request["end"]
            reply = _end(process, request["patience_s"], limits_s.pop(process))
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
        _end(process, 0.0, limits.cpu_s)
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


def _wait(processes: typing.Iterable[int], seconds: float) -> dict:
    """Waits until one of the processes has ended, so that `_end` finds how."""
    watched = [os.pidfd_open(process) for process in processes]
    try:
        select.select(watched, [], [], seconds)
    finally:
        for descriptor in watched:
            os.close(descriptor)
    return {}


def _end(process: int, patience_s: float, cpu_s: int) -> dict:
    """Waits, kills what is still there, and says how it ended."""
    watch, ours, outside = os.pidfd_open(process), False, ""
    try:
        if not select.select([watch], [], [], max(0.0, patience_s))[0]:
            ours = True
            # It cannot stop itself.
            look = os.WSTOPPED | os.WCONTINUED | os.WNOHANG | os.WNOWAIT
            if os.waitid(os.P_PID, process, look):
                outside = "was stopped from outside"
            os.kill(process, signal.SIGKILL)
    finally:
        os.close(watch)
    _, status, usage = os.wait4(process, 0)
    code = os.waitstatus_to_exitcode(status)
    used_s = usage.ru_utime + usage.ru_stime
    limited = code == -signal.SIGKILL and used_s > _NEARLY * cpu_s
    if -code in _FROM_OUTSIDE and not ours and not limited:
        outside = f"was killed from outside by {signal.Signals(-code).name}"
    return {"code": code, "outside": outside}


def _send(control: socket.socket, message: dict) -> None:
    control.send(json.dumps(message).encode("ascii"))


if __name__ == "__main__":
    main(sys.argv[1:])
