"""Runs tests, in a process where the program is not.

What the program's functions return is decoded and compared here, under the program's
limits: whatever it takes ends with this process.

In tests written in Python, `candidate` and the function's own name stand for a function
in the program's process: calling it sends the arguments there and brings a plain value
back, or raises what the function raised. Names that the tests use and nobody defines
(the `Node` of a tree problem) stand for the program's as well; modules of the standard
library do not, and builtins never. What is no plain value, such as a node, can be
passed on, called and looked into, but neither compared nor taken as true or false.
"""

import ast
import builtins
import importlib
import sys
import types
from typing import Any

from hapo_jax.tasks import harnesses
from hapo_jax.tasks.sandbox import guest, wire

VERDICT = 5
_DETAIL_CHARACTERS = 300


def run() -> int:
    """Runs the tests of the payload and writes a verdict.

    {"passed": bool, "detail": text, "lost": whether the program's process had gone}.

    The payload of tests in Python:

        prelude      source of what stands before the function in its prompt, trusted
        setup, code  source of the tests
        entry_point  name of the function

    and of calls that are compared:

        calls        arguments of each, as `wire.encode` writes them
        outputs      what is expected of each, encoded too
        harness      whose comparison decides, see `harnesses.py`
        entry_point  name of the function
    """
    payload = guest.begin()
    program = _Connection()
    try:
        program.start()
        (_call if "calls" in payload else _test)(payload, program)
        if program.lost:  # and the tests took that for an error that they wait for
            raise EOFError("the program ended before it answered")
        passed, detail = True, ""
    except BaseException as error:  # whatever the tests raise, they have not passed
        passed, detail = False, _detail(error, payload)
    verdict = {"passed": passed, "detail": detail, "lost": program.lost}
    wire.send(VERDICT, verdict)
    return 0


def _call(payload: dict, program: "_Connection") -> None:
    same = harnesses.HARNESSES[payload["harness"]].same_value
    outputs = wire.decode(payload["outputs"])
    for number, arguments in enumerate(payload["calls"]):
        # Anew for each call, as a method belongs to a new object each time.
        function = program.ask({"name": payload["entry_point"]})
        value = function(*wire.decode(arguments))
        if not same(value, outputs[number]):
            raise AssertionError(f"call {number}: wrong value")


def _test(payload: dict, program: "_Connection") -> None:
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


class _Ended(BaseException):
    """The program raised what is no Exception: no test may take it for one."""


class _Connection:
    """The program's process, seen from the tests.

    Attributes:
      lost: whether the process has gone.
    """

    def __init__(self):
        self.lost = False

    def start(self) -> None:
        """Waits until the program is loaded; raises what it raised."""
        self._hear()

    def ask(self, request: dict) -> Any:
        """The answer to a request of `guest.serve`, or what it raised there."""
        try:
            wire.send(guest.REQUESTS, request)
        except OSError as error:
            self._lose(error)
        return wire.decode(self._hear().get("value"), self._find)

    def encode(self, value: Any) -> Any:
        """A value for the program's process."""
        return wire.encode(value, _number)

    def _find(self, number: int) -> "_Remote":
        return _Remote(self, number)

    def _hear(self) -> dict:
        try:
            reply = wire.receive(guest.REQUESTS)
        except (EOFError, OSError) as error:
            self._lose(error)
        if not isinstance(reply, dict):
            raise _Ended("the program wrote no answer")
        if "raised" not in reply:
            return reply
        raise _error(*map(str, reply["raised"]))

    def _lose(self, error: Exception):
        self.lost = True
        raise _Ended("the program ended before it answered") from error


def _error(name: str, text: str) -> BaseException:
    """What stands in the tests for an exception that was raised in the program."""
    kind = getattr(builtins, name, None)
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        return RuntimeError(f"{name}: {text}")
    if issubclass(kind, StopIteration | StopAsyncIteration):
        # As it is, it would end a `map` or `zip` of the tests as if all were done.
        return RuntimeError(f"{name}: {text}")
    if not issubclass(kind, Exception):
        return _Ended(f"{name}: {text}")
    try:
        return kind(text)
    except TypeError:  # UnicodeDecodeError and the like take more than a text
        return RuntimeError(f"{name}: {text}")


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


def _detail(error: BaseException, payload: dict) -> str:
    """What failed, for a reader; tests in Python with their line."""
    if "calls" in payload and isinstance(error, AssertionError):
        return str(error)
    kind = "" if isinstance(error, _Ended) else f"{type(error).__name__}: "
    return f"{kind}{error}{_line(error, payload)}"[:_DETAIL_CHARACTERS]


def _line(error: BaseException, payload: dict) -> str:
    if "calls" in payload:
        return ""
    lines = f"{payload['setup']}\n{payload['code']}".splitlines()
    trace, number = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "tests":
            number = trace.tb_lineno
        trace = trace.tb_next
    return f" [{lines[number - 1].strip()}]" if 0 < number <= len(lines) else ""
