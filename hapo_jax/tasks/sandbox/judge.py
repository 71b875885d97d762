"""Runs tests written in Python, in a process where the program is not.

`candidate` and the function's own name stand for a function in the program's process:
calling it sends the arguments there and brings a plain value back, or raises what the
function raised. Names that the tests use and nobody defines (the `Node` of a tree
problem) stand for the program's as well; modules of the standard library do not, and
builtins never. What is no plain value, such as a node, can be passed on, called and
looked into, but neither compared nor taken as true or false.
"""

import ast
import builtins
import importlib
import sys
import types
from typing import Any

from hapo_jax.tasks.sandbox import guest, wire

VERDICT = 5
_DETAIL_CHARACTERS = 300


def run() -> int:
    """Runs the tests of the payload and writes {"passed": bool, "detail": text}.

    The payload:

        prelude      source of what stands before the function in its prompt, trusted
        setup, code  source of the tests
        entry_point  name of the function
    """
    payload = guest.read_payload()
    try:
        _run(payload, _Connection())
        verdict = {"passed": True, "detail": ""}
    except BaseException as error:  # whatever the tests raise, they have not passed
        detail = f"{type(error).__name__}: {error}{_line(error, payload)}"
        verdict = {"passed": False, "detail": detail[:_DETAIL_CHARACTERS]}
    wire.send(VERDICT, verdict)
    return 0


def _run(payload: dict, program: "_Connection") -> None:
    name = payload["entry_point"]
    code = f"{payload['setup']}\n{payload['code']}"
    names: dict[str, Any] = {"__name__": "tests"}
    exec(payload["prelude"], names)
    names[name] = names["candidate"] = program.ask({"name": name})
    for missing in sorted(_free(code) - set(names)):
        if missing in sys.stdlib_module_names:
            names[missing] = importlib.import_module(missing)
        else:
            names[missing] = program.ask({"name": missing})
    exec(compile(code, "tests", "exec"), names)
    check = names.get("check")  # HumanEval's tests are a function
    if isinstance(check, types.FunctionType):
        check(names["candidate"])


def _free(code: str) -> set[str]:
    """Names that the code reads and nothing in it binds."""
    read, bound = set(), set(dir(builtins))
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                read.add(name)
            case ast.Name(id=name) | ast.arg(arg=name):
                bound.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                bound.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                bound |= {(a.asname or a.name).partition(".")[0] for a in aliases}
            case ast.ExceptHandler(name=str(name)):
                bound.add(name)
    return read - bound


class _Connection:
    """The program's process, seen from the tests."""

    def __init__(self):
        self._hear()

    def ask(self, request: dict) -> Any:
        """The answer to a request of `guest.serve`, or what it raised there."""
        wire.send(guest.REQUESTS, request)
        return wire.decode(self._hear()["value"], self._find)

    def encode(self, value: Any) -> Any:
        """A value for the program's process."""
        return wire.encode(value, _number)

    def _find(self, number: int) -> "_Remote":
        return _Remote(self, number)

    def _hear(self) -> dict:
        reply = wire.receive(guest.REQUESTS)
        if "raised" not in reply:
            return reply
        name, text = reply["raised"]
        kind = getattr(builtins, name, None)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            kind, text = RuntimeError, f"{name}: {text}"
        try:
            error = kind(text)
        except TypeError:  # UnicodeDecodeError and the like take more than a text
            error = RuntimeError(f"{name}: {text}")
        raise error


class _Remote:
    """Something in the program's process that is no plain value."""

    __slots__ = ("_number", "_program")
    __hash__ = None

    def __init__(self, program: _Connection, number: int):
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_number", number)

    def _ask(self, kind: str, **more: Any) -> Any:
        return self._program.ask({kind: {"object": self._number}, **more})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        encode = self._program.encode
        sent = {key: encode(value) for key, value in kwargs.items()}
        return self._ask("call", args=encode(list(args)), kwargs=sent)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return self._ask("get", attribute=attribute)

    def __setattr__(self, attribute: str, value: Any) -> None:
        self._ask("set", attribute=attribute, value=self._program.encode(value))

    def __iter__(self):
        return iter(self._ask("items"))

    def _no_value(self, *_: Any):
        raise TypeError("the program returned an object where a plain value belongs")

    __bool__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _no_value


def _number(value: Any) -> int:
    if isinstance(value, _Remote):
        return value._number
    raise TypeError(f"the tests pass a {type(value).__name__}, which cannot be sent.")


def _line(error: BaseException, payload: dict) -> str:
    """The line of the tests that failed, for a reader."""
    lines = f"{payload['setup']}\n{payload['code']}".splitlines()
    trace, number = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "tests":
            number = trace.tb_lineno
        trace = trace.tb_next
    return f" [{lines[number - 1].strip()}]" if 0 < number <= len(lines) else ""
