"""What runs in a program's process: the program as a script, or its functions on call.

Nothing here decides anything, and nothing here is secret: the program shares this
process and can change all of it. What leaves the process is checked outside.
"""

import _io
import atexit
import builtins
import gc
import io
import itertools
import json
import os
import random
import sys
import threading
import types
from typing import Any

from hapo_jax.tasks.sandbox import habits, wire

PAYLOAD, REQUESTS = 3, 4
# Items taken from an iterator that a test asks for; endless ones are cut.
_MOST_ITEMS = 100_000
_ERROR_CHARACTERS = 300


def begin() -> dict:
    """What the grading process wrote for this one; integers may have any length."""
    sys.set_int_max_str_digits(0)
    with open(PAYLOAD, "rb") as file:
        return json.load(file)


def run() -> int:
    """Runs a program as Python runs a script; returns its exit code.

    Its payload: `{"program": source}`, and perhaps a `preamble` that runs before it.
    """
    payload = begin()
    for name, number, mode in (
        ("stdin", 0, "r"),
        ("stdout", 1, "w"),
        ("stderr", 2, "w"),
    ):
        stream = os.fdopen(number, mode, encoding="utf-8", errors="replace")
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    # Bound here, since the program may put what it likes into the modules.
    shutdown, run_exits, get_objects = (
        threading._shutdown,
        atexit._run_exitfuncs,
        gc.get_objects,
    )
    code, module = 0, types.ModuleType("__main__")
    try:
        _execute(payload, module)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        code = 1
    for step in (shutdown, run_exits):  # as Python does: waits for threads first
        try:
            step()
        except BaseException:
            code = code or 1
    _flush(get_objects)
    module.__dict__.clear()  # what has a `__del__` may write something in it
    _flush(get_objects)
    return code & 0xFF


def _flush(get_objects) -> None:
    """Writes what any file still holds, `sys.stdout` first, as the end of Python does.

    The program may have replaced or reopened its output. What cannot be written is
    missing in the output, which is all that counts.
    """
    files = [thing for thing in get_objects() if issubclass(type(thing), _io._IOBase)]
    # A text's buffer goes on into a buffer of bytes.
    files.sort(key=lambda file: not isinstance(file, io.TextIOBase))
    for file in (vars(sys).get("stdout"), *files):
        try:
            file.flush()
        except BaseException:
            continue


def serve() -> int:
    """Runs a program, see `run`, and then answers requests for its functions.

        -> {"loaded": true} | {"raised": [name of the exception, text]}
        <- {"name": text} | {"call": target, "args": [...], "kwargs": {...}}
         | {"get": target, "attribute": text} | {"set": target, "attribute": text,
           "value": value} | {"items": target}
        -> {"value": value} | {"raised": [name, text]}

    Values travel as in `wire.py`; a target is one that came as `{"object": number}`.
    """
    payload = begin()
    objects: list[Any] = []
    # Bound here, since the program may put what it likes into the modules.
    send, receive = wire.send, wire.receive
    try:
        names = _execute(payload, types.ModuleType("solution"))
    except BaseException as error:
        send(REQUESTS, _raised(error))
        return 1
    send(REQUESTS, {"loaded": True})

    def refer(value: Any) -> int:
        objects.append(value)
        return len(objects) - 1

    while True:
        try:
            request = receive(REQUESTS)
        except EOFError:
            return 0
        try:
            value = _perform(request, names, objects.__getitem__)
            reply = {"value": wire.encode(value, refer)}
            send(REQUESTS, reply)
        except BaseException as error:
            send(REQUESTS, _raised(error))


def _execute(payload: dict, module: types.ModuleType) -> dict:
    """Executes a program as a module; returns its names."""
    sys.argv = ["program.py"]
    habits.install()
    random.seed(0)  # the verdict about a program should not be a matter of luck
    module.__file__ = sys.argv[0]
    sys.modules[module.__name__] = module
    # Apart, so that `from __future__` may be the program's first statement.
    for part, file in (("preamble", "preamble.py"), ("program", "program.py")):
        exec(compile(payload.get(part, ""), file, "exec"), module.__dict__)
    return module.__dict__


def _perform(request: dict, names: dict, find) -> Any:
    if "name" in request:
        return _named(names, request["name"])
    kind = next(kind for kind in ("call", "get", "set", "items") if kind in request)
    target = wire.decode(request[kind], find)
    if kind == "call":
        arguments = wire.decode(request["args"], find)
        keywords = {k: wire.decode(v, find) for k, v in request["kwargs"].items()}
        return target(*arguments, **keywords)
    if kind == "get":
        return getattr(target, request["attribute"])
    if kind == "set":
        setattr(target, request["attribute"], wire.decode(request["value"], find))
        return None
    return list(itertools.islice(target, _MOST_ITEMS))


def _named(names: dict, name: str) -> Any:
    """A function of the program, or the method of its class `Solution`."""
    if name in names:
        return names[name]
    solution = names.get("Solution")
    if isinstance(solution, type) and hasattr(solution, name):
        return getattr(solution(), name)
    raise NameError(f"the program does not define {name}")


def _raised(error: BaseException) -> dict:
    """The nearest builtin exception, which is what tests can wait for, and the text."""
    kind = type(error)
    try:
        text = str.__getitem__(str(error), slice(_ERROR_CHARACTERS))
        near = next(k for k in kind.__mro__ if vars(builtins).get(k.__name__) is k)
    except BaseException:
        text, near = "", RuntimeError
    if near in (Exception, BaseException) and near is not kind:
        near = kind  # says nothing by itself
    return {"raised": [near.__name__, text]}
