"""No program passes without doing its work, outstays its limit, or leaves anything."""

import json
import os
import pathlib
import sys
import time

import pytest

from hapo_jax.grading import pool as pool_lib
from hapo_jax.tasks import code
from hapo_jax.tasks.sandbox import confine, host
from tests.tasks import hostile_programs

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="confines on Linux alone"),
    pytest.mark.slow,
]

TEST_S = 0.6
NUMBERS = (7, 12, -3, 104_729)
BASE = {"prelude": "", "total_s": TEST_S, "test_s": TEST_S, "memory_mib": 256}
ASSERTS = {
    "type": "python",
    "code": "\n".join(f"assert square({n}) == {n * n}" for n in NUMBERS),
}
CALLS = [{"type": "call", "args": [n], "output": n * n} for n in NUMBERS]
INPUTS = [{"type": "stdin", "input": f"{n}\n", "output": f"{n * n}\n"} for n in NUMBERS]
BY_ASSERTS = json.dumps({**BASE, "entry_point": "square", "tests": [ASSERTS]})
BY_CALLS = json.dumps({**BASE, "entry_point": "square", "tests": CALLS})
BY_INPUT = json.dumps({**BASE, "entry_point": "", "tests": INPUTS})
FUNCTION = "def square(n): return n * n"
SCRIPT = "print(int(input()) ** 2)"


@pytest.fixture(scope="module")
def box():
    with host.best() as box:
        yield box


@pytest.fixture
def outside(tmp_path):
    """A folder that file modes alone would let anybody change."""
    (tmp_path / "kept").write_text("square(7) == 49 \nsquare(12) == 144 \n")
    tmp_path.chmod(0o777)
    (tmp_path / "kept").chmod(0o666)
    return tmp_path


def processes_of(box):
    """The launcher and all that it has forked: their command line is its own."""
    mark = f"launcher\0{box._launcher.args[-4]}\0{os.getpid()}\0".encode()
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [int(path.parent.name)] * (mark in path.read_bytes())
        except OSError:
            continue  # it has just ended
    return found


def check(box, outside, program, answer):
    before = outside.stat().st_mtime_ns, (outside / "kept").read_text()
    start = time.monotonic()
    _, trial = code.judge(box, program.replace("OUTSIDE", str(outside)), answer)
    took = time.monotonic() - start
    assert not trial.passed
    assert took < TEST_S + 2.0
    assert processes_of(box) == [box._launcher.pid]
    assert (outside.stat().st_mtime_ns, (outside / "kept").read_text()) == before
    assert [path.name for path in outside.iterdir()] == ["kept"]
    for folder in ("/dev/shm", "/var/tmp", "/tmp"):
        assert not pathlib.Path(folder, "hapo_jax_left").exists()


def test_hostile_programs_fail_by_what_they_do_not_by_how_they_are_written():
    for name, program in {
        **hostile_programs.FUNCTIONS,
        **hostile_programs.SCRIPTS,
    }.items():
        if name not in ("no Python", "NUL bytes", "lone surrogates"):
            compile(program, name, "exec")


@pytest.mark.parametrize("name", hostile_programs.FUNCTIONS)
def test_no_hostile_function_passes(box, outside, name):
    check(box, outside, hostile_programs.FUNCTIONS[name], BY_ASSERTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", hostile_programs.SCRIPTS)
def test_no_hostile_script_passes(box, outside, name):
    check(box, outside, hostile_programs.SCRIPTS[name], BY_INPUT)


@pytest.mark.slow
@pytest.mark.parametrize("name", hostile_programs.FORGERIES)
def test_no_forgery_passes_where_calls_are_compared(box, outside, name):
    check(box, outside, hostile_programs.FORGERIES[name], BY_CALLS)


@pytest.mark.long
@pytest.mark.parametrize("way", confine.WAYS)
def test_every_way_of_confinement_holds(outside, way):
    try:
        box = host.Sandbox(way)
    except RuntimeError as error:
        pytest.skip(f"the kernel does not allow this way: {error}")
    with box:
        for program in hostile_programs.FUNCTIONS.values():
            check(box, outside, program, BY_ASSERTS)
        assert code.judge(box, FUNCTION, BY_ASSERTS)[1].passed
        assert code.judge(box, SCRIPT, BY_INPUT)[1].passed


def test_honest_programs_pass_after_all_that(box):
    for program, answer in (
        (FUNCTION, BY_ASSERTS),
        (FUNCTION, BY_CALLS),
        (SCRIPT, BY_INPUT),
    ):
        _, trial = code.judge(box, program, answer)
        assert trial.passed, trial


@pytest.mark.slow
def test_the_pool_grades_on_among_hostile_programs(outside):
    """One completion in twenty is hostile, as in a run that goes wrong."""
    hostile = [
        source.replace("OUTSIDE", str(outside))
        for name, source in hostile_programs.FUNCTIONS.items()
        if name not in hostile_programs.RUNAWAYS  # those cost their limit each
    ] + ["while True: pass"]
    items = []
    for number, program in enumerate(hostile[:: len(hostile) // 8]):
        items += [(f"{FUNCTION}  # {number} {i}", BY_ASSERTS) for i in range(19)]
        items.append((program, BY_ASSERTS))
    with pool_lib.GradingPool(
        num_workers=2, timeout_s=10.0, memory_gib=2.0, start_timeout_s=60.0
    ) as pool:
        results = pool.grade("code", items)
        assert [r.score for r in results] == [1.0, *[1.0] * 18, 0.0] * (
            len(items) // 20
        )
        assert {r.outcome for r in results} <= {"graded", "timed_out"}
        assert pool.counters["grading/code/crashed"] == 0
        assert pool.counters["grading/code/graded"] >= 0.95 * len(items)


@pytest.mark.slow
def test_programs_end_with_a_grader_that_is_killed(outside):
    """The pool's own clock ends the grader; nothing of the sandbox may survive it."""
    slow = json.loads(BY_INPUT) | {"test_s": 60.0, "total_s": 60.0}
    with pool_lib.GradingPool(
        num_workers=1, timeout_s=1.5, memory_gib=2.0, start_timeout_s=60.0
    ) as pool:
        worker = pool._workers[0].process.pid
        (result,) = pool.grade(
            "code", [("import time; time.sleep(99)", json.dumps(slow))]
        )
        assert result.outcome == "timed_out"
        deadline = time.monotonic() + 10.0
        while _launched_by(worker) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _launched_by(worker)
        assert pool.grade("code", [(SCRIPT, BY_INPUT)])[0].score == 1.0


def _launched_by(parent):
    mark = f"\0{parent}\0".encode()
    return [
        path
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline")
        if b"sandbox.launcher" in (text := _read(path)) and mark in text
    ]


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""
