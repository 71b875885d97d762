"""What honest programs and tests may do, and how dishonest machines are reported."""

import sys
import time

import pytest

from hapo_jax.tasks.sandbox import confine, host, trials
from hapo_jax.tasks.sandbox.confine import Limits

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="confines on Linux alone"
)
LIMITS = Limits(wall_s=10.0, cpu_s=10, memory_mib=512)


@pytest.fixture(scope="module")
def box():
    with host.best() as box:
        yield box


def run(box, program, data="", **limits):
    """The trial, and what the program wrote."""
    written = []
    trial = trials.on_input(
        box,
        program,
        data=data,
        accept=lambda text: written.append(text) is None,
        limits=LIMITS._replace(**limits),
    )
    return trial, "".join(written)


def ask(box, program, code, *, setup="", prelude="", name="f"):
    return trials.on_tests(
        box, program, name=name, prelude=prelude, setup=setup, code=code, limits=LIMITS
    )


@pytest.mark.parametrize(
    ("program", "data", "expected"),
    [
        ("print(input()[::-1])", "abc\n", "cba\n"),
        ("import sys\nprint(sum(map(int, sys.stdin)))", "1\n2\n", "3\n"),
        ("import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read())", "é", "é"),
        ("print(open(0).read())", "x", "x\n"),
        ("if __name__ == '__main__': print(1)", "", "1\n"),
        ("import sys\nprint(2)\nsys.exit()", "", "2\n"),
        ("print(3)\nexit(0)", "", "3\n"),
        ("import os\nprint(4, flush=True)\nos._exit(0)", "", "4\n"),
        ("import atexit\natexit.register(print, 5)", "", "5\n"),
        (
            "import sys, threading\nsys.setrecursionlimit(10**6)\n"
            "threading.stack_size(2**26)\n"
            "def f(n): return n and 1 + f(n - 1)\n"
            "threading.Thread(target=lambda: print(f(50_000))).start()",
            "",
            "50000\n",
        ),
        ("import asyncio\nasync def f(): print(6)\nasyncio.run(f())", "", "6\n"),
        ("import numpy\nprint(numpy.arange(4).sum())", "", "6\n"),
        ("import zoneinfo, sqlite3, decimal, ssl\nprint(7)", "", "7\n"),
        ("import signal\nsignal.alarm(5)\nprint(8)", "", "8\n"),
        ("import random\nprint(len({random.random() for _ in range(9)}))", "", "9\n"),
        ("print(hash('a') == hash('a'), len(set('abc')))", "", "True 3\n"),
    ],
)
def test_scripts_run_as_in_python(box, program, data, expected):
    assert run(box, program, data) == (trials.Trial(True), expected)


def test_a_program_may_use_its_folder(box):
    if box.way != "namespaces":
        pytest.skip("there are no temporary files under Landlock")
    program = """
import os, tempfile
assert os.listdir('.') == []
open('x', 'w').write('1')
with tempfile.NamedTemporaryFile('w') as file: file.write('2')
print(open('x').read(), os.getcwd())
"""
    for _ in range(2):  # the second finds nothing of the first
        assert run(box, program) == (trials.Trial(True), "1 /tmp\n")


def test_programs_know_nothing_of_the_user(box, monkeypatch):
    program = "import os\nprint(sorted(os.environ), os.getuid())"
    _, written = run(box, program)
    assert "HOME" in written
    assert not [
        name for name in ("TOKEN", "KEY", "USER", "PYTHONPATH") if name in written
    ]


def test_the_same_program_prints_the_same(box):
    program = "import random\nprint(random.random(), list({'a', 'b', 'c', 'd'}))"
    assert run(box, program) == run(box, program)


@pytest.mark.parametrize(
    ("program", "limits", "detail"),
    [
        ("1 / 0", {}, "exit code 1"),
        ("raise SystemExit('no')", {}, "exit code 1"),
        ("raise SystemExit(7)", {}, "exit code 7"),
        ("print('x' * 200)", {"output_bytes": 100}, "more than 100 bytes"),
        ("bytearray(2**27)", {"memory_mib": 100}, "exit code 1"),
        ("while True: pass", {"wall_s": 0.2}, "took longer than 0.2 s"),
        ("while True: pass", {"cpu_s": 1, "wall_s": 20.0}, "exit code -9"),
        ("def", {}, "exit code 1"),
    ],
)
def test_failures_say_what_happened(box, program, limits, detail):
    trial, _ = run(box, program, **limits)
    assert not trial.passed
    assert detail in trial.detail
    assert trial.timed_out == ("took longer" in detail)


NODE = """
class Node:
    def __init__(self, value): self.value, self.next = value, None
def f(node): return node.value + (f(node.next) if node.next else 0)
"""


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("def f(x): return x + 1", "assert f(1) == 2"),
        (
            "def f(x): return x + 1",
            "def check(candidate):\n    assert candidate(1) == 2",
        ),
        ("def f(*a, **k): return a, k", "assert f(1, b=[2]) == ((1,), {'b': [2]})"),
        ("def f(x): return x / 3", "assert abs(f(1) - 0.333) < 1e-3"),
        ("def f(x): return x / 3", "assert math.isclose(f(1), 1 / 3)"),
        ("def f(): yield 1; yield 2", "assert list(f()) == [1, 2]"),
        (
            "def f(x): raise ValueError(x)",
            "try:\n    f(3)\nexcept ValueError:\n    pass",
        ),
        ("def f(t): return t('3')", "assert f(int) == 3"),
        (NODE, "a = Node(1)\na.next = Node(2)\nassert f(a) == 3 and a.next.value == 2"),
        ("def f(x): print(x); return x", "assert f('noise') == 'noise'"),
        ("import sys\nsys.stdin.read()\ndef f(): return 1", "assert f() == 1"),
    ],
)
def test_tests_see_the_function_as_if_it_were_theirs(box, program, code):
    assert ask(box, program, code) == trials.Trial(True)


@pytest.mark.parametrize(
    ("program", "code", "detail"),
    [
        (
            "def f(x): return x",
            "assert f(1) == 2",
            "AssertionError:  [assert f(1) == 2]",
        ),
        ("def g(x): return x", "assert f(1) == 1", "does not define f"),
        ("def f(x): 1 / 0", "assert f(1) == 2", "ZeroDivisionError"),
        ("def f(x", "assert f(1) == 1", "SyntaxError"),
        ("def f(x): return f", "assert f(1)", "object where a plain value belongs"),
        ("def f(x): return x", "assert f(print) == 1", "cannot be sent"),
    ],
)
def test_failed_tests_say_which(box, program, code, detail):
    trial = ask(box, program, code)
    assert not trial.passed
    assert detail in trial.detail


def test_a_program_that_does_not_read_holds_nobody(box):
    """It answers ahead, and the arguments are more than a socket holds."""
    program = """
import json, os, struct, time
def frame(message):
    data = json.dumps(message).encode()
    return struct.pack("!I", len(data)) + data
os.write(4, frame({"loaded": True}) + frame({"value": {"object": 0}}))
time.sleep(99)
"""
    start = time.monotonic()
    trial = trials.on_calls(
        box,
        program,
        name="f",
        calls=[["x" * 2**22]],
        outputs=["x"],
        limits=LIMITS._replace(wall_s=0.5),
    )
    assert trial.timed_out
    assert time.monotonic() - start < 2.5


def test_helpers_of_tests_are_not_the_programs(box):
    """Names of builtins, modules and of the prompt mean what they mean in the tests."""
    program = """
class math:
    isclose = staticmethod(lambda *a: True)
def sorted(x): return [1, 2]
def twice(x): return 2
def f(x): return 0
"""
    prelude = "def twice(x):\n    return 2 * x\n\ndef f(x):\n    'Doubles x.'\n"
    assert not ask(box, program, "assert math.isclose(f(1), 2)").passed
    assert not ask(box, program, "assert sorted([f(1)]) == [1, 2]").passed
    assert not ask(box, program, "assert f(1) == twice(0) + 2", prelude=prelude).passed
    assert ask(box, program, "assert f(1) == twice(0)", prelude=prelude).passed


def test_a_broken_launcher_is_reported(box):
    with host.Sandbox(box.way) as other:
        other._launcher.kill()
        other._launcher.wait()
        with pytest.raises(RuntimeError, match="launcher is gone|it died"):
            run(other, "print(1)")


def test_a_machine_without_confinement_is_refused(monkeypatch):
    def refuse(box):
        raise RuntimeError("not on this machine")

    monkeypatch.setattr(host, "_try", refuse)
    with pytest.raises(
        RuntimeError, match=r"cannot be confined(.|\n)*landlock: not on"
    ):
        host.best()


@pytest.mark.parametrize("way", confine.WAYS)
def test_what_is_in_force_is_said(way):
    try:
        box = host.Sandbox(way)
    except RuntimeError as error:
        pytest.skip(f"the kernel does not allow this way: {error}")
    with box:
        assert f"confined by {way}" in host.describe(box)
        assert run(box, "print(1)")[0].passed
