"""What somebody else does to a program is no verdict; what it does to itself is one."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from hapo_jax.grading import pool as pool_lib
from hapo_jax.grading import processes
from hapo_jax.tasks import code
from hapo_jax.tasks.sandbox import confine, host, launcher, trials
from hapo_jax.tasks.sandbox.confine import Limits

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="confines on Linux alone"),
    pytest.mark.slow,
]
LIMITS = Limits(wall_s=0.8, cpu_s=2, memory_mib=256)
SLEEPS = "import time\ndef f(x):\n    time.sleep(0.25)\n    return x\n"


def test_a_process_that_ends_between_two_looks_has_ended_by_itself(monkeypatch):
    """The launcher finds it running, and gone when it asks whether it was stopped."""
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    monkeypatch.setattr(launcher, "_watch", lambda *arguments: False)
    found = launcher._end(child.pid, 0.0, {child.pid: 1})
    assert found == {"code": 7, "outside": ""}


@pytest.fixture(params=confine.WAYS)
def box(request):
    try:
        made = host.Sandbox(request.param)
    except RuntimeError as error:
        pytest.skip(f"the kernel does not allow this way: {error}")
    with made:
        yield made


def on_input(box, program, limits=LIMITS):
    return trials.on_input(
        box, program, data="", accept=lambda text: True, limits=limits
    )


def on_calls(box, program):
    return trials.on_calls(
        box,
        program,
        name="f",
        calls=[[1]],
        outputs=[1],
        limits=LIMITS,
    )


def on_tests(box, program):
    return trials.on_tests(
        box,
        program,
        name="f",
        prelude="",
        setup="",
        code="assert f(1) == 1",
        limits=LIMITS,
    )


def while_it_runs(box, number, which=0):
    """Signals a program's process, started in this order, in a tenth of a second."""

    def act():
        time.sleep(0.1)
        os.kill(sorted(processes.children(box._launcher.pid))[which], number)

    threading.Thread(target=act).start()


@pytest.mark.parametrize(
    ("number", "trial", "program", "which"),
    [
        (signal.SIGKILL, on_input, SLEEPS + "f(1)", 0),
        (signal.SIGKILL, on_calls, SLEEPS, 0),
        (signal.SIGKILL, on_calls, SLEEPS, 1),  # the process that compares
        (signal.SIGKILL, on_tests, SLEEPS, 0),
        (signal.SIGKILL, on_tests, SLEEPS, 1),  # the tests' own process
        (signal.SIGSTOP, on_input, SLEEPS + "f(1)", 0),
        (signal.SIGSTOP, on_calls, SLEEPS, 0),
        (signal.SIGSTOP, on_tests, SLEEPS, 1),
    ],
)
def test_what_others_kill_or_stop_has_no_verdict(box, number, trial, program, which):
    while_it_runs(box, number, which)
    with pytest.raises(host.NoVerdict, match="(killed|stopped) from outside"):
        trial(box, program)
    assert on_calls(box, "def f(x): return x").passed  # it works on


@pytest.mark.parametrize(
    "program",
    [
        "import os\nos._exit(1)",
        "import os\nos.kill(os.getpid(), 9)",
        "import os\nos.abort()",
        "import signal, time\nsignal.setitimer(0, 0.1)\nsignal.pause()",
        "import ctypes\nctypes.string_at(0)",
        "import signal\nsignal.signal(13, signal.SIG_DFL)\nimport os\n"
        "r, w = os.pipe(); os.close(r); os.write(w, b'x')",
        "import resource as r\nr.setrlimit(r.RLIMIT_CPU, (1, 1))\nwhile True: pass",
        "import resource as r\nr.setrlimit(r.RLIMIT_CPU, (0, 0))\nwhile True: pass",
        "import ctypes\nctypes.CDLL(None).syscall(222, 1, 0, 0)\nraise SystemExit(1)",
        "while True: pass",
        "import time\ntime.sleep(9)",
        "x = []\nwhile True: x.append(bytearray(2**20))",
    ],
)
def test_what_it_does_to_itself_has_one(box, program):
    assert not on_input(box, program).passed


def test_the_limit_of_processor_time_has_one(box):
    trial = on_input(box, "while True: pass", LIMITS._replace(wall_s=9.0, cpu_s=1))
    assert trial == trials.Trial(False, detail="ended with exit code -9")


SPEC = {"entry_point": "", "prelude": "", "harness": "", "memory_mib": 256}
SPEC |= {"tests": [{"type": "stdin", "input": "", "output": "1\n"}]}
SPEC |= {"test_s": 5.0, "total_s": 5.0}
# Long enough that it is there when it is looked for.
RIGHT = "import time\ntime.sleep(0.3)\nprint(1)\n"


def test_a_launcher_that_is_killed_costs_no_verdict():
    code._box.cache_clear()
    box = code._box()
    os.kill(box._launcher.pid, signal.SIGKILL)
    with pytest.raises(host.NoVerdict, match="sandbox"):
        code.grade(RIGHT, json.dumps(SPEC))
    assert code.grade(RIGHT, json.dumps(SPEC)).score == 1.0
    code._box().close()
    code._box.cache_clear()


@pytest.mark.parametrize("level", ["program", "launcher"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_pool_grades_again_what_others_disturbed(level, number):
    """As a rival that reaches it would; nobody's score suffers."""
    with pool_lib.GradingPool(
        num_workers=1, timeout_s=9.0, memory_gib=2.0, start_timeout_s=60.0
    ) as pool:
        assert pool.grade("code", [(RIGHT, json.dumps(SPEC))])[0].score == 1.0
        (launcher,) = processes.children(pool._workers[0].process.pid)
        answer = json.dumps(SPEC | {"test_s": 2.0})
        future = pool.submit("code", [(f"{RIGHT}#{i}", answer) for i in range(2)])
        deadline = time.monotonic() + 20.0
        while not (found := processes.children(launcher)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(found[0] if level == "program" else launcher, number)
        results = future.result(timeout=60.0)
        assert [(r.score, r.outcome) for r in results] == [(1.0, "graded")] * 2
        if number == signal.SIGKILL:
            assert sum(r.repeats for r in results) == 1
        else:
            while pool.state["grading/resumed"] < 1:
                assert time.monotonic() < deadline
                time.sleep(0.01)
