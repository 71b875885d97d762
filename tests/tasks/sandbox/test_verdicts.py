"""Verdicts are right, cost no more than the limit, and depend on no confinement."""

# ruff: noqa: E501, programs have lines of their own

import contextlib
import json
import math
import sys
import time

import pytest

from hapo_jax.grading import pool as pool_lib
from hapo_jax.system.user_files import any_digits
from hapo_jax.tasks import code, harnesses
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


def script(box, program, data=""):
    """The trial, and what the program wrote."""
    written = []
    trial = trials.on_input(
        box,
        program,
        data=data,
        accept=lambda text: written.append(text) is None,
        limits=LIMITS,
    )
    return trial, "".join(written)


def value(box, program, expected, *, args=(), **changes):
    return trials.on_calls(
        box,
        program,
        name="f",
        calls=[list(args)],
        outputs=[expected],
        limits=LIMITS._replace(**changes),
    )


def judged(box, program, source):
    return trials.on_tests(
        box, program, name="f", prelude="", setup="", code=source, limits=LIMITS
    )


# name: (program, standard input, standard output)
SCRIPTS = {
    "opened by number": ("import sys\nsys.stdout = open(1, 'w', closefd=False)\nprint(1)", "", "1\n"),
    "opened by fdopen": ("import os, sys\nsys.stdout = os.fdopen(1, 'w')\nprint(1)", "", "1\n"),
    "not the one of sys": ("import os\nout = os.fdopen(1, 'w')\nout.write('1')", "", "1"),
    "a second number": ("import os\nout = os.fdopen(os.dup(1), 'w')\nout.write('1')", "", "1"),
    "a wrapper": ("import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer)\nprint(1)", "", "1\n"),
    "detached": ("import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.detach())\nprint(1)", "", "1\n"),
    "codecs": ("import codecs, sys\nsys.stdout = codecs.getwriter('utf8')(sys.stdout.buffer)\nprint('é')", "", "é\n"),
    "BufferedWriter": ("import io, sys\nout = io.BufferedWriter(sys.stdout.buffer.raw)\nout.write(b'1')", "", "1"),
    "__stdout__": ("import sys\nsys.stdout = None\nprint(1, file=sys.__stdout__)", "", "1\n"),
    "only write": ("import os, sys\nclass W:\n    def write(self, s): os.write(1, s.encode())\nsys.stdout = W()\nprint(1)", "", "1\n"),
    "deleted": ("import sys\nprint(1)\ndel sys.stdout", "", "1\n"),
    "closed": ("import sys\nprint(1)\nsys.stdout.close()", "", "1\n"),
    "redirected and back": (
        "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as out: print(1)\nprint(out.getvalue() * 2)",
        "", "1\n1\n\n",
    ),
    "os.write": ("import os\nos.write(1, b'1\\n')", "", "1\n"),
    "at exit": ("import atexit, os\nout = os.fdopen(1, 'w')\natexit.register(out.write, '1')", "", "1"),
    "at its deletion": ("class A:\n    def __del__(self): print(2); 1 / 0\na = A()\nprint(1)", "", "1\n2\n"),
    "the former first": ("import sys\nprint(1, flush=True)\nsys.stdout = open(1, 'w', closefd=False)\nprint(2)", "", "1\n2\n"),
    "its name": ("print(__name__, __file__)", "", "__main__ program.py\n"),
    "a thread after the end": (
        "import sys, threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.1), print(1))).start()\nsys.exit()",
        "", "1\n",
    ),
    "a daemon is not waited for": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start()\nprint(1)",
        "", "1\n",
    ),
    "os._exit keeps what was flushed": ("import os\nprint(1, flush=True)\nprint(2)\nos._exit(0)", "", "1\n"),
    "no end of line": ("print(1, end='')", "", "1"),
    "NUL and lone surrogates": ("print('\\0', '\\ud800')", "", "\0 ?\n"),
    "a long line": ("print('1' * 10**6)", "", "1" * 10**6 + "\n"),
    "carriage returns": ("print(repr(input()))", "1\r\n2", "'1'\n"),
    "bytes keep them": ("import sys\nprint(sys.stdin.buffer.read())", "1\r\n", "b'1\\r\\n'\n"),
    "the end of the input": ("try: input()\nexcept EOFError: print(1)", "", "1\n"),
    "many digits": ("n = int(input())\nprint(n + 1)", "9" * 9_000, "1" + "0" * 9_000 + "\n"),
    "a literal of many digits": ("print(%s %% 10)" % ("7" * 5_000), "", "7\n"),
    "fast input and output": (
        "import io, os, sys\ninput = io.BytesIO(os.read(0, os.fstat(0).st_size)).readline\n"
        "sys.stdout = io.StringIO()\nprint(int(input()) + int(input()))\n"
        "os.write(1, sys.stdout.getvalue().encode())",
        "1\n2\n", "3\n",
    ),
    "/dev/stdin": ("print(open('/dev/stdin').read())", "1", "1\n"),
    "/dev/stdin by os": ("import os\nprint(os.read(os.open('/dev/stdin', os.O_RDONLY), 9))", "1", "b'1'\n"),
    "/dev/stdin by pathlib": ("import pathlib\nprint(pathlib.Path('/dev/stdin').read_text())", "1", "1\n"),
    "/dev/stdin by fileinput": ("import fileinput\nprint(list(fileinput.input('/dev/stdin')))", "1", "['1']\n"),
    "/dev/stdin by numpy": ("import numpy\nprint(numpy.loadtxt('/dev/stdin').sum())", "1 2", "3.0\n"),
    "/dev/stdin is there": (
        "import os\nprint(os.path.exists('/dev/stdin'), os.access('/dev/stdin', os.R_OK))", "", "True True\n",
    ),
    "/dev/fd/0": ("print(open('/dev/fd/0').read())", "1", "1\n"),
    "/proc/self/fd/0": ("print(open('/proc/self/fd/0').read())", "1", "1\n"),
    "what was read is gone": ("a = input()\nimport os\nprint(os.read(0, 9))", "1\n2", "b''\n"),
    "/dev/stdout": ("with open('/dev/stdout', 'w') as f: print(1, file=f)\nprint(2)", "", "1\n2\n"),
    "/dev/stderr": ("import sys\nsys.stderr = open('/dev/stderr', 'w')\nprint(1, file=sys.stderr)", "", ""),
    "/dev/null": ("import os, sys\nsys.stderr = open(os.devnull, 'w')\nprint(len(open('/dev/null').read()))", "", "0\n"),
    "/dev/zero": ("print(open('/dev/zero', 'rb').read(2))", "", "b'\\x00\\x00'\n"),
    "/dev/urandom": ("import os\nprint(len(open('/dev/urandom', 'rb').read(2)), len(os.urandom(3)))", "", "2 3\n"),
    "its folder": ("import os\nprint(os.getcwd(), os.environ['HOME'], os.path.abspath('x'))", "", "/tmp /tmp /tmp/x\n"),
    "a large stack for threads": (
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(2**29)\n"
        "def f(n): return n and 1 + f(n - 1)\n"
        "t = threading.Thread(target=lambda: print(f(50_000)))\nt.start()\nt.join()",
        "", "50000\n",
    ),
    "a larger stack": (
        "import resource, sys\nresource.setrlimit(resource.RLIMIT_STACK, (2**29, resource.RLIM_INFINITY))\n"
        "sys.setrecursionlimit(10**6)\ndef f(n): return n and 1 + f(n - 1)\nprint(f(50_000))",
        "", "50000\n",
    ),
    "a stack without end": (
        "import resource\nresource.setrlimit(resource.RLIMIT_STACK, (resource.RLIM_INFINITY,) * 2)\nprint(1)", "", "1\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", confine.WAYS)
def test_scripts_do_the_same_whatever_confines_them(way):
    try:
        box = host.Sandbox(way)
    except RuntimeError as error:
        pytest.skip(f"the kernel does not allow this way: {error}")
    with box:
        found = {
            name: script(box, program, data)
            for name, (program, data, _) in SCRIPTS.items()
        }
    assert found == {
        name: (trials.Trial(True), wanted) for name, (*_, wanted) in SCRIPTS.items()
    }


COLLIDING = "[i * (2**61 - 1) for i in range(60_000)]"


@pytest.mark.parametrize(
    "program",
    [
        f"def f(): return set({COLLIDING})",
        f"def f(): return dict.fromkeys({COLLIDING})",
        f"def f(): return frozenset({COLLIDING})",
        "def f(): return [[]] * (2**21 - 9)",
        "def f(): return [{}] * (2**18)",
        "def f(): return 10**400",
        "def f(): return -10**400",
        "def f(): return [10**400]",
        "import decimal\ndef f(): return decimal.Decimal('1e999999')",
        "import decimal\ndef f(): return decimal.Decimal('sNaN')",
        "def f(): return float('nan')",
        "def f(): return range(10**18)",
        "x = []\nfor _ in range(10**5): x = [x]\ndef f(): return x",
        "def f(): raise StopIteration",
        "def f(): raise GeneratorExit",
        "def f(): raise SystemExit(0)",
        "import os\ndef f(): os._exit(0)",
        "def f(): yield 1.5",
        "def f(): return {1.5: 1}.keys()",
        "class A:\n    def __repr__(self): raise ValueError\n    __str__ = __eq__ = __hash__ = __repr__\n"
        "    def __del__(self): raise ValueError\ndef f(): return A()",
    ],
)
@pytest.mark.parametrize("source", ["", "livecodebench"])
def test_wrong_values_cost_their_limit_and_nothing_else(program, source):
    """In a grader with the rivals' programs, whose verdicts do not suffer."""
    limits = {"test_s": 0.6, "total_s": 0.6, "memory_mib": 512, "prelude": ""}
    spec = {"entry_point": "f", "harness": source, "imports": False, **limits}
    spec["tests"] = [{"type": "call", "args": [], "output": 1.5}]
    start = time.monotonic()
    with contextlib.suppress(TimeoutError):  # the program's own limit
        assert code.grade(program, json.dumps(spec)).score == 0.0
    assert time.monotonic() - start < 5.0  # the limit, and a busy machine
    assert code.grade("def f(): return 1.5", json.dumps(spec)).score == 1.0


def test_values_that_attack_are_no_crash_of_the_grader():
    spec = {"entry_point": "f", "test_s": 1.0, "total_s": 1.0, "memory_mib": 512}
    spec |= {"prelude": "", "tests": [{"type": "call", "args": [], "output": 1.5}]}
    programs = [
        f"def f(): return set({COLLIDING})",
        "def f(): return 1.5",
        "def f(): return 10**400",
        "def f(): return [[]] * (2**21 - 9)",
        "def f(): return 3 / 2",
    ]
    with pool_lib.GradingPool(
        num_workers=1, timeout_s=10.0, memory_gib=2.0, start_timeout_s=60.0
    ) as pool:
        results = pool.grade("code", [(p, json.dumps(spec)) for p in programs])
    assert [r.score for r in results] == [0.0, 1.0, 0.0, 0.0, 1.0]
    assert {r.outcome for r in results} <= {"graded", "timed_out"}
    assert [results[i].outcome for i in (1, 2, 4)] == ["graded"] * 3


@pytest.mark.parametrize(
    ("returned", "expected", "same"),
    [
        ("{'a': 0.1 + 0.2}", {"a": 0.3}, True),
        ("{'a': [0.1 + 0.2, (3,)]}", {"a": [0.3, [3.0]]}, True),
        ("({'a': (0.1 + 0.2,)},)", [{"a": [0.3]}], True),
        ("{'a': 0.31}", {"a": 0.3}, False),
        ("{'a': 0.3, 'b': 1}", {"a": 0.3}, False),
        ("{'b': 0.3}", {"a": 0.3}, False),
        ("[0.1 + 0.2, 1.0]", [0.3, 1], False),
        ("-0.0", 0.0, True),
        ("float('inf')", math.inf, True),
        ("float('-inf')", math.inf, False),
        ("10**400", math.inf, False),
        ("float('nan')", math.nan, True),
        ("[float('nan')]", [1.0], False),
        ("1.0", math.nan, False),
        ("b'a'", "a", False),
        ("{1, 2}", [1, 2], False),
        ("None", None, True),
        ("'\\ud800\\0'", "\ud800\0", True),
        ("__import__('numpy').float64(0.1) + 0.2", 0.3, True),
        ("__import__('numpy').longdouble(0.5)", 0.5, True),
        ("__import__('numpy').int64(3)", 3, True),
        ("__import__('numpy').bool_(True)", True, True),
        ("__import__('collections').OrderedDict(a=1.0)", {"a": 1.0}, True),
        ("[10**5000 + 1]", [10**5000 + 1], True),
        ("[10**5000]", [10**5000 + 1], False),
    ],
)
def test_returned_values_are_compared_to_any_depth(box, returned, expected, same):
    trial = value(box, f"def f(): return {returned}", expected)
    assert trial.passed == same, trial
    if not same:
        assert trial.detail == "call 0: wrong value"


def test_dicts_are_compared_with_their_keys_types():
    assert not harnesses.same_value({1: 0.5}, {True: 0.5})
    assert harnesses.same_value({(1, 2): (0.1 + 0.2,)}, {(1, 2): [0.3]})


def test_integers_of_any_length_pass_through_rows_and_calls(tmp_path):
    digits = "9" * 6_000
    path = tmp_path / "rows.jsonl"
    row = {"id": "a", "problem": "p", "entry_point": "f", "source": "mine"}
    path.write_text(
        json.dumps(row)[:-1]
        + f', "tests": [{{"type": "call", "args": [{digits}], "output": {digits}}}]}}\n'
    )
    (problem,) = code.problems(
        "test", path=path, prompt_template="", subject="", test_s=5.0, total_s=5.0,
        memory_mib=256,
    )  # fmt: skip
    assert code.grade("def f(n): return n", problem.answer).score == 1.0
    assert code.grade("def f(n): return n + 1", problem.answer).score == 0.0
    by_text = "def f(n): return int(str(n))"
    assert code.grade(by_text, problem.answer).score == 1.0
    before = sys.get_int_max_str_digits()
    with any_digits():
        assert len(str(10**9_000)) == 9_001
    assert sys.get_int_max_str_digits() == before


@pytest.mark.parametrize(
    ("program", "source", "passes"),
    [
        ("def f(x): raise StopIteration", "assert list(map(f, [1, 2])) == []", False),
        ("def f(x): raise StopIteration", "for y in map(f, [1]): assert y == 2", False),
        ("def f(x): raise StopIteration", "assert all(map(f, [1, 2]))", False),
        ("def f(x): raise StopAsyncIteration", "assert all(map(f, [1]))", False),
        ("def f(x): raise GeneratorExit", "assert all(f(x) for x in [1])", False),
        ("def f(x): raise SystemExit", "try: f(1)\nexcept Exception: pass", False),
        ("def f(x): raise KeyboardInterrupt", "try: f(1)\nexcept Exception: pass", False),
        ("import os\ndef f(x): os._exit(0)", "try: f(1)\nexcept BaseException: pass", False),
        ("import json\ndef f(x): json.loads('[')", "try: f(1)\nexcept ValueError: pass", True),
        ("class E(KeyError): pass\ndef f(x): raise E(x)", "try: f(1)\nexcept KeyError: pass\nelse: assert 0", True),
        ("def f(x): return {1: 2, 3: 4}.keys()", "assert f(1) == {1, 3} and list(f(1)) == [1, 3]", True),
        ("def f(x): return {1: 2}.values()", "assert list(f(1)) == [2] and f(1) != [2]", True),
        ("def f(x): return {1: 2}.items()", "assert f(1) == {(1, 2)} and len(f(1)) == 1", True),
        ("def f(x): return (y for y in (1, 2))", "assert sorted(f(1)) == [1, 2]", True),
        ("def f(x): return 10**5000", "assert f(1) == int('1' + '0' * 5000)", True),
    ],
)  # fmt: skip
def test_what_a_program_raises_ends_no_iteration_of_its_tests(
    box, program, source, passes
):
    assert judged(box, program, source).passed == passes


@pytest.mark.parametrize("same", [h.same_output for h in harnesses.HARNESSES.values()])
@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("1" * 400_000 + "x", "1.5"),
        ("1" * 400_000 + "e", "1"),
        ("1." * 200_000, "1.5"),
        ("1 " * 400_000, "1.5"),
        ("9" * 400_000, "1.5"),
        ("1e999999999", "1.5"),
    ],
    ids=lambda text: text[:3] + text[-1],
)
def test_comparisons_of_outputs_are_linear(same, written, expected):
    """By the square of the length, one would take minutes."""
    assert not same(written, expected)
