"""The pool survives every completion, counts outcomes, and leaves nothing behind."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

import hapo_jax
from hapo_jax import tasks
from hapo_jax.grading import lookout, processes
from hapo_jax.grading import pool as pool_lib

ROOT = pathlib.Path(hapo_jax.__file__).resolve().parents[1]
# Far above what a grader needs here, so that a busy machine fails no test.
pytestmark = pytest.mark.slow  # processes and signals, no matter of jax
START_TIMEOUT_S = 60.0
TIMEOUT_S = 1.0
MEMORY_GIB = 1.0

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
# Items that tell who graded them; no two are equal, so each is graded.
PIDS = [("pid", str(i)) for i in range(200)]

# A task of this file: the completion says what the grader does. Worker processes come
# to know it through a sitecustomize module on PYTHONPATH.
STUB_TASK = """
import ctypes, os, signal, sys, time
from hapo_jax.tasks.problems import Grade
from hapo_jax.tasks.sandbox.host import NoVerdict

def recurse(n):
    return recurse(n + 1) + 1

def grade(completion, answer):
    if completion == "pid":
        return Grade(1.0, str(os.getpid()))
    if completion == "count":
        open(answer, "a").write("!")
        return Grade(1.0, "counted")
    if completion == "late":
        raise TimeoutError("2 s")
    if completion == "sleep":
        time.sleep(600)
    if completion == "spin":
        while True:
            pass
    if completion in ("spin at first", "wait at first"):
        fresh = not os.path.exists(answer)
        open(answer, "w").close()
        while fresh and completion == "spin at first":
            pass
        time.sleep(0.3 * fresh)
        return Grade(1.0, None)
    if completion == "wait a little":
        open(answer, "w").close()
        time.sleep(0.3)
        return Grade(1.0, None)
    if completion == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if completion == "interfered":
        raise NoVerdict("the machine is ill")
    if completion == "block":  # one call of C that no Python signal interrupts
        9 ** 9 ** 9
    if completion == "exit":
        os._exit(7)
    if completion == "sys.exit":
        sys.exit(0)
    if completion == "segfault":
        ctypes.string_at(0)
    if completion == "memory":
        bytearray(8 * 2**30)
    if completion == "recursion":
        recurse(0)
    if completion == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
    if completion == "print":
        print("x" * 1_000_000)
        print("x" * 1_000_000, file=sys.stderr)
    return Grade(float(completion == answer), completion)
"""
REGISTER = """
from hapo_jax import tasks
tasks.TASKS["stub"] = "stub_task"
tasks.TASKS["broken"] = "broken_task"
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Makes the tasks "stub" and "broken" known, here and in the workers."""
    folder = tmp_path / "path"
    folder.mkdir()
    (folder / "stub_task.py").write_text(STUB_TASK)
    (folder / "broken_task.py").write_text("import no_such_library")
    (folder / "sitecustomize.py").write_text(REGISTER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))
    for name in ("stub", "broken"):
        monkeypatch.setitem(tasks.TASKS, name, f"{name}_task")
    return folder


def make_pool(**changes):
    options = {
        "num_workers": 2,
        "timeout_s": TIMEOUT_S,
        "memory_gib": MEMORY_GIB,
        "start_timeout_s": START_TIMEOUT_S,
    }
    return pool_lib.GradingPool(**(options | changes))


def alive(pid):
    """Whether a process runs; one that waits for its parent to notice does not."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def wait_until(true, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert true()


def outcomes(results):
    return [result.outcome for result in results]


def test_results_come_in_order(stub):
    items = [(str(i), str(i if i % 3 else -1)) for i in range(1_000)]
    with make_pool() as pool:
        results = pool.grade("stub", items)
        assert [result.extracted for result in results] == [a for a, _ in items]
        assert [result.score for result in results] == [
            float(i % 3 > 0) for i in range(1_000)
        ]
        assert set(outcomes(results)) == {"graded"}
        assert pool.grade("stub", []) == []
        assert pool.counters["grading/stub/graded"] == 1_000
        assert pool_lib.count(results)["grading/graded"] == 1_000


@pytest.mark.parametrize(
    ("completion", "outcome", "detail"),
    [
        ("sleep", "timed_out", "took longer than 1.0 s"),
        ("spin", "timed_out", "took longer than 1.0 s"),
        ("block", "timed_out", "took longer than 1.0 s"),
        ("exit", "crashed", "ended with exit code 7"),
        ("segfault", "crashed", f"ended with exit code -{int(signal.SIGSEGV)}"),
        ("sys.exit", "crashed", "SystemExit: 0"),
        ("memory", "crashed", "MemoryError"),
        ("recursion", "crashed", "RecursionError"),
    ],
)
def test_only_the_guilty_item_is_lost(stub, completion, outcome, detail):
    items = [(str(i), str(i)) for i in range(40)]
    items[17] = (completion, completion)
    with make_pool() as pool:
        results = pool.grade("stub", items)
        guilty = results.pop(17)
        assert (guilty.score, guilty.extracted, guilty.outcome) == (0.0, None, outcome)
        assert detail in guilty.detail
        assert [result.score for result in results] == [1.0] * 39
        expected = dict.fromkeys(pool_lib.OUTCOMES, 0) | {"graded": 39, outcome: 1}
        assert pool.counters == {f"grading/stub/{o}": n for o, n in expected.items()}
        # As good as new, with as many processes as before.
        assert pool.grade("stub", [("a", "a")])[0].score == 1.0
        pids = {r.extracted for r in pool.grade("stub", PIDS)}
        assert 1 <= len(pids) <= 2
        assert pool_lib.count([guilty]) == {
            "grading/graded": 0,
            "grading/cached": 0,
            "grading/timed_out": int(outcome == "timed_out"),
            "grading/crashed": int(outcome == "crashed"),
            "grading/killed": 0,
            "grading/repeated": 0,
        }


@pytest.mark.parametrize("longer", [{"stub": 60.0}, {"math": 60.0}])
def test_a_task_may_have_a_limit_of_its_own(stub, longer):
    with make_pool(timeout_s=0.3, task_timeouts_s=longer) as pool:
        waiting = pool.submit("stub", [("sleep", "1"), ("a", "a")])
        if "stub" in longer:
            with pytest.raises(TimeoutError):
                waiting.result(timeout=1.0)
        else:
            assert outcomes(waiting.result()) == ["timed_out", "graded"]
    with pytest.raises(ValueError, match=r"task_timeouts_s\[code\]=0.0 must be pos"):
        make_pool(task_timeouts_s={"code": 0.0})


def test_each_item_has_the_whole_limit(stub):
    """A chunk may take longer than an item."""
    kinds = ["exit", "sleep", "sleep", "1"] * 2
    items = [(kind, str(i)) for i, kind in enumerate(kinds)]
    with make_pool(num_workers=1, timeout_s=0.3) as pool:
        results = pool.grade("stub", items)
    assert outcomes(results) == ["crashed", "timed_out", "timed_out", "graded"] * 2


def test_equal_items_are_graded_once(stub, tmp_path):
    """Within a call, while one is under way, and later; with the same result."""
    items = [("count", str(tmp_path / "a")), ("count", str(tmp_path / "b"))]
    with make_pool() as pool:
        futures = [pool.submit("stub", items * 20) for _ in range(3)]
        for future in futures:
            assert {result._replace(outcome="") for result in future.result()} == {
                pool_lib.GradeResult(1.0, "counted", "", "")
            }
        again = pool.grade("stub", items)
        assert outcomes(again) == ["cached", "cached"]
        assert pool.counters["grading/stub/graded"] == 2
        assert pool.counters["grading/stub/cached"] == 120
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "!"


def test_equal_items_differ_by_their_answer(stub):
    with make_pool() as pool:
        results = pool.grade("stub", [("1", "1"), ("1", "2"), ("1", "1")])
    assert [result.score for result in results] == [1.0, 0.0, 1.0]


def test_what_was_too_slow_is_tried_again(stub):
    """But equal items that wait together share one failure."""
    with make_pool(num_workers=1, timeout_s=0.3) as pool:
        for _ in range(2):
            results = pool.grade("stub", [("sleep", "")] * 5)
            assert outcomes(results) == ["timed_out"] * 5
        assert pool.counters["grading/stub/cached"] == 0


def test_a_grader_may_keep_a_clock_of_its_own(stub):
    with make_pool(num_workers=1) as pool:
        (pid, *_) = pool.grade("stub", PIDS[:1])
        (result,) = pool.grade("stub", [("late", "")])
        assert (result.outcome, result.detail) == ("timed_out", "2 s")
        (after,) = pool.grade("stub", PIDS[1:2])
    assert after.extracted == pid.extracted


def test_what_a_grader_prints_disturbs_nothing(stub, capfd):
    with make_pool() as pool:
        results = pool.grade("stub", [("print", "print")] * 3)
    assert [result.score for result in results] == [1.0] * 3
    assert capfd.readouterr() == ("", "")


def test_an_interrupt_leaves_the_processes_alone(stub):
    with make_pool() as pool:
        assert pool.grade("stub", [("interrupt", "interrupt")])[0].score == 1.0


def test_an_item_whose_process_is_killed_from_outside_is_graded_again(stub, tmp_path):
    told = tmp_path / "told"
    with make_pool(num_workers=1, timeout_s=60.0) as pool:
        (before,) = pool.grade("stub", PIDS[:1])
        items = [("1", "1"), ("spin at first", str(told)), ("2", "2")]
        future = pool.submit("stub", items)
        wait_until(told.exists)
        os.kill(int(before.extracted), signal.SIGKILL)
        results = future.result(timeout=START_TIMEOUT_S)
        assert outcomes(results) == ["graded", "graded", "graded"]
        assert [r.score for r in results] == [1.0, 1.0, 1.0]
        assert [r.repeats for r in results] == [0, 1, 0]
        assert pool_lib.count(results)["grading/repeated"] == 1
        (after,) = pool.grade("stub", PIDS[1:2])
        assert after.extracted != before.extracted


def test_what_is_killed_each_time_is_no_wrong_answer(stub):
    """Neither "graded" nor "crashed"; and the others do not suffer."""
    items = [("1", "1"), ("killed", "a"), ("interfered", "b"), ("2", "2")]
    with make_pool() as pool:
        results = pool.grade("stub", items)
    assert outcomes(results) == ["graded", "killed", "killed", "graded"]
    assert results[1].extracted is results[2].extracted is None
    assert "tried 4 times" in results[1].detail
    assert "exit code -9" in results[1].detail
    assert "the machine is ill" in results[2].detail
    assert {"timed_out", "crashed", "killed"} == set(pool_lib.UNGRADED)


def test_many_items_that_are_killed_break_the_pool(stub):
    with make_pool(num_workers=1) as pool:
        pool.grade("stub", [("interfered", "0"), ("1", "1")])
        with pytest.raises(
            RuntimeError, match=r"8 completions in a row.*grading\.workers"
        ):
            pool.grade("stub", [("interfered", str(i)) for i in range(20)])


@linux
def test_a_process_that_is_stopped_goes_on(stub, tmp_path, capfd):
    """SIGSTOP from outside costs no item, and is said and counted."""
    told = tmp_path / "told"
    with make_pool(num_workers=1, timeout_s=3.0) as pool:
        (before,) = pool.grade("stub", PIDS[:1])
        future = pool.submit("stub", [("wait a little", str(told)), ("2", "2")])
        wait_until(told.exists)
        os.kill(int(before.extracted), signal.SIGSTOP)
        results = future.result(timeout=START_TIMEOUT_S)
        assert outcomes(results) == ["graded", "graded"]
        wait_until(lambda: pool.state["grading/resumed"] == 1)
    said = capfd.readouterr().err
    assert (
        f"process {before.extracted}, which grades for {os.getpid()}, had been" in said
    )


@linux
def test_a_time_that_ran_out_while_stopped_does_not_count(stub, tmp_path):
    """The limit is over before the lookout looks; the item is graded again."""
    told = tmp_path / "told"
    with make_pool(num_workers=1, timeout_s=0.5) as pool:
        (before,) = pool.grade("stub", PIDS[:1])
        future = pool.submit("stub", [("wait at first", str(told))])
        wait_until(told.exists)
        os.kill(int(before.extracted), signal.SIGSTOP)
        (result,) = future.result(timeout=START_TIMEOUT_S)
    assert (result.outcome, result.score, result.repeats) == ("graded", 1.0, 1)


@linux
def test_the_process_that_holds_the_pool_does_not_stay_stopped(stub, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("""
import os, time
from hapo_jax.grading import lookout, pool as pool_lib, processes
with pool_lib.GradingPool(
    num_workers=1, timeout_s=10.0, memory_gib=1.0, start_timeout_s=60.0
) as pool:
    pool.grade("stub", [("1", "1")])
    print("ready", flush=True)
    while pool.state["grading/resumed"] == 0:
        time.sleep(0.05)
    print(pool.grade("stub", [("2", "2")])[0].score, pool.state, flush=True)
""")
    with subprocess.Popen(
        [sys.executable, "-c", f"{REGISTER}\nexec(open({str(script)!r}).read())"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as run:
        assert run.stdout.readline() == "ready\n"
        os.kill(run.pid, signal.SIGSTOP)
        said, warned = run.communicate(timeout=START_TIMEOUT_S)
    assert said.startswith("1.0 {'grading/resumed': 1")
    assert f"process {run.pid}, which trains, had been stopped from outside" in warned


@linux
@pytest.mark.parametrize("by", ["SIGSTOP", "SIGTSTP"])
def test_a_pause_by_the_terminal_is_no_stop(by):
    """Where the kernel says which signal it was."""
    with subprocess.Popen(["sleep", "60"], process_group=0) as sleeper:
        os.kill(sleeper.pid, getattr(signal, by))
        wait_until(lambda: processes._stat(sleeper.pid)[0] == "T")
        known = int(processes._stat(sleeper.pid)[-1])
        stopped = processes.is_stopped(sleeper.pid)
        sleeper.kill()
    if not known:
        pytest.skip("this kernel does not say by which signal a process was stopped")
    assert stopped == (by == "SIGSTOP")


@linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_lookout_is_watched_too(stub, monkeypatch, number):
    monkeypatch.setattr(lookout, "_SILENT_S", 2.0)
    with make_pool(num_workers=1) as pool:
        first = pool._lookout.process.pid
        wait_until(lambda: pool._lookout.deadline < time.monotonic() + 2.0)
        os.kill(first, number)
        wait_until(lambda: pool._lookout and pool._lookout.process.pid != first)
        assert pool.state["grading/resumed"] == 1
        (before,) = pool.grade("stub", PIDS[:1])
        os.kill(int(before.extracted), signal.SIGSTOP)  # the new one knows them
        wait_until(lambda: pool.state["grading/resumed"] == 2)
    assert not alive(first)


@linux
def test_a_weaker_confinement_is_counted_and_said_once(stub, caplog):
    with make_pool() as pool:
        assert pool.state["grading/weaker_confinement"] == 0
        (stub / "stub_task.py").write_text(
            STUB_TASK + "\ndef why_weaker(): return 'no namespaces here'\n"
        )
        pool.grade("stub", PIDS)
        assert pool.state["grading/weaker_confinement"] in (1, 2)
    assert caplog.text.count("no namespaces here") == 1


def test_futures_run_side_by_side(stub):
    with make_pool() as pool:
        slow = pool.submit("stub", [("sleep", "")])
        fast = pool.submit("stub", [("1", "1")])
        assert fast.result(timeout=START_TIMEOUT_S)[0].score == 1.0
        assert not slow.done()
        assert outcomes(slow.result()) == ["timed_out"]


def test_several_threads_may_grade(stub):
    found = {}

    def work(name):
        found[name] = pool.grade("stub", [(name, name)] * 50)

    with make_pool() as pool:
        threads = [threading.Thread(target=work, args=(str(i),)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for name in map(str, range(8)):
        assert [result.extracted for result in found[name]] == [name] * 50


def test_close_ends_processes_and_waiting_futures(stub):
    pool = make_pool(timeout_s=60.0)
    pids = {r.extracted for r in pool.grade("stub", PIDS)}
    future = pool.submit("stub", [("sleep", "")] * 10)
    pool.close()
    pool.close()
    with pytest.raises(RuntimeError, match="closed while this was waiting"):
        future.result()
    with pytest.raises(RuntimeError, match="pool is closed"):
        pool.grade("stub", [("1", "1")])
    assert not any(alive(pid) for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("last_words", ["os.kill(os.getpid(), 9)", "sys.exit(0)"])
def test_processes_end_with_their_parent(stub, tmp_path, last_words):
    """Killed or merely forgetful, from a script without a __main__ guard."""
    script = tmp_path / "script.py"
    script.write_text(f"""
import os, sys, time
from hapo_jax.grading import lookout, pool as pool_lib, processes
pool = pool_lib.GradingPool(
    num_workers=2, timeout_s=600.0, memory_gib=1.0, start_timeout_s=60.0
)
results = pool.grade("stub", [("pid", str(i)) for i in range(200)])
print(*{{result.extracted for result in results}}, flush=True)
pool.submit("stub", [("block", ""), ("spin", "")])
time.sleep(0.3)
{last_words}
""")
    done = subprocess.run(
        [sys.executable, "-c", f"{REGISTER}\nexec(open({str(script)!r}).read())"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    pids = done.stdout.split()
    assert pids, done.stderr
    wait_until(lambda: not any(alive(pid) for pid in pids))


def test_a_task_that_cannot_be_loaded_breaks_the_pool_and_says_why(stub):
    with make_pool() as pool:
        with pytest.raises(RuntimeError, match="no_such_library"):
            pool.grade("broken", [("1", "1")])
        with pytest.raises(RuntimeError, match="no_such_library"):
            pool.submit("stub", [("1", "1")])


def test_processes_that_cannot_start_are_reported(stub):
    (stub / "sitecustomize.py").write_text("raise SystemExit('no luck')")
    with pytest.raises(RuntimeError, match=r"failed to start(.|\n)*no luck"):
        make_pool()


def test_a_start_that_takes_too_long_is_reported(stub):
    (stub / "sitecustomize.py").write_text("import time; time.sleep(600)")
    with pytest.raises(RuntimeError, match=r"no word in 0.2 s"):
        make_pool(start_timeout_s=0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_workers": 0}, "num_workers=0 must be at least 1"),
        ({"timeout_s": 0.0}, "timeout_s=0.0 must be positive"),
        ({"memory_gib": -1.0}, "memory_gib=-1.0 must be positive"),
        ({"start_timeout_s": float("inf")}, "start_timeout_s=inf must be positive"),
    ],
)
def test_arguments_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        make_pool(**changes)


def test_items_are_checked(stub):
    with make_pool(num_workers=1) as pool:
        with pytest.raises(ValueError, match="task.name='stubb' .*did you mean 'stub'"):
            pool.submit("stubb", [("1", "1")])
        with pytest.raises(ValueError, match=r"items\[1\] must be a pair of texts"):
            pool.submit("stub", [("1", "1"), ("1", 1)])


HOSTILE = {
    "nested braces": "{" * 100_000 + "}" * 100_000,
    "nested braces in a box": "\\boxed{" + "{" * 100_000 + "}" * 100_000 + "}",
    "unclosed boxes": "\\boxed{" * 100_000,
    "nested boxes": "\\boxed{" * 100_000 + "41" + "}" * 99_999,
    "tower of powers": "Answer: 9**9**9**9",
    "tower of powers in LaTeX": "\\boxed{9^{9^{9^9}}}",
    "powers of powers": "\\boxed{((9^{9999})^{9999})^{9999}}",
    "factorials": "Answer: ((9!)!)!",
    "binomial": "\\boxed{\\binom{1000000000}{500000000}}",
    "long sum": "\\boxed{\\sum_{n=1}^{10000000000} \\frac{1}{n^2+1}}",
    "hard integral": "\\boxed{\\int_0^1 e^{\\sin(x^x)}\\,dx}",
    "large expansion": "\\boxed{(a+b+c+d+e+f)^{999}(a-b-c)^{999}}",
    "digits": "4" * 3_000_000,
    "digits in a box": "\\boxed{" + "4" * 3_000_000 + "}",
    "digits after Answer": "Answer: " + "4" * 3_000_000,
    "digits after hashes": "#### " + "4" * 3_000_000,
    "1,000 digits": "\\boxed{" + "4" * 1_000 + "}",
    "spaces after Answer": "Answer:" + " " * 1_000_000,
    "many answers": "Answer: " * 100_000,
    "many hashes": "#" * 1_000_000,
    "many stars": "Answer: " + "*" * 290,
    "many zeros": "\\boxed{0." + "0" * 990 + "}",
    "many groups": "\\boxed{" + "1,000" * 190 + "}",
    "many percents": "\\boxed{" + "%" * 900 + "1}",
    "many fractions": "\\boxed{" + "\\frac{1}{" * 90 + "2" + "}" * 91,
    "brackets": "Answer: " + "(" * 140 + "1" + ")" * 140,
    "NUL": "Answer: 42\x00",
    "only NUL": "\x00" * 100_000,
    "lone surrogate": "Answer: \ud80042\udfff",
    "backslashes": "\\boxed{" + "\\" * 900,
    "line breaks": "Answer:" + "\n" * 1_000_000,
}


@pytest.mark.slow
def test_hostile_answers_are_wrong_in_time(record_property):
    """All at once, through the real grader; and the pool works afterwards."""
    timeout_s = 3.0
    with make_pool(timeout_s=timeout_s) as pool:
        pool.grade("math", [("Answer: 1", "1")])  # loads math-verify
        for name, completion in HOSTILE.items():
            start = time.monotonic()
            (result,) = pool.grade("math", [(completion, "42")])
            took = time.monotonic() - start
            record_property(name, f"{took:.3f} s, {result.outcome}")
            assert result.score == 0.0, name
            # The limit, and time to kill a process and start and load another.
            assert took < timeout_s + START_TIMEOUT_S / 10, name
            assert result.outcome in ("graded", "timed_out"), (name, result.detail)
        assert pool.grade("math", [("Answer: 42", "42")])[0].score == 1.0
        assert sum(pool.counters.values()) == len(HOSTILE) + 2


def test_cheap_items_are_graded_fast():
    """The pool costs a fraction of what it takes to sample a completion."""
    answer = '{"numbers": [3, 4], "target": 7, "operations": 1}'
    items = [
        (completion, answer + " " * i)  # no two are equal, or the pool remembers them
        for i in range(2_000)
        for completion in ("3 + 4 = 7 ; yes", "3 + 4 = 8 ; yes")
    ]
    with make_pool() as pool:
        pool.grade("countdown", items[:10])
        start = time.monotonic()
        results = pool.grade("countdown", items)
        took = time.monotonic() - start
    assert [result.score for result in results] == [1.0, 0.0] * 2_000
    # 35,000 per second on an idle machine of two cores.
    assert took < 4.0
