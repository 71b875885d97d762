"""Programs: find the program in a completion and run it on tests.

Rows of HumanEval, MBPP, CodeContests and LiveCodeBench are understood:

    {"id", "problem", "source"?, "subject"?, "starter_code"?, "entry_point"?, "tests"}

with tests of three kinds

    {"type": "python", "code": ..., "setup"?: ...}   asserts, or HumanEval's check
    {"type": "call", "args": [...], "output": ...}   of `entry_point`, or of Solution's
    {"type": "stdin", "input": ..., "output": ...}   of a whole program

The program is the last fenced block, or the whole completion without one: see
`code_text.py`. Where the problem is the beginning of a function (HumanEval), a
completion that defines this function follows it, and one that does not goes on with its
body.

A program is right if it passes all tests. Rows of LiveCodeBench and CodeContests are
run and compared as in their official harnesses, see `harnesses.py`. Where a program
runs, and why it cannot cheat, says `sandbox/__init__.py`.
"""

import functools
import json
import logging
import math
import pathlib
import re
import time
from typing import Any

from hapo_jax.system import user_files
from hapo_jax.system.errors import Refused
from hapo_jax.tasks import code_text, files, harnesses
from hapo_jax.tasks.problems import Grade, Problem, fill, read_structured
from hapo_jax.tasks.sandbox import host, trials
from hapo_jax.tasks.sandbox.confine import Limits

_TESTS = {
    "python": ("code",),
    "call": ("args", "output"),
    "stdin": ("input", "output"),
}
# MBPP's further asserts, which its protocol does not run.
_LEFT_OUT = "python_challenge"
_FIELDS = ("subject", "starter_code", "entry_point", "tests")
MAX_PROGRAM_CHARACTERS = 200_000


def problems(
    split: str,
    *,
    path: str | pathlib.Path,
    prompt_template: str,
    subject: str,
    test_s: float,
    total_s: float,
    memory_mib: int,
    columns: str = "",
    on_error: str = "stop",
) -> list[Problem]:
    """The problems of a file.

    Args:
      split: "train" or "test"; a label, since the config names a file for each.
      path: data files, see `files.py`.
      prompt_template: text around `{problem}`, in which may also stand
        `{starter_code}`, `{format}` (that in LiveCodeBench's words), `{tests}` (tests
        in Python) and `{example}` (their first line).
      subject: rows of this `subject` alone; empty for all. MBPP's are train,
        validation, test and prompt.
      test_s: wall-clock seconds for each run of a program; of calls, which share one
        run, for each.
      total_s: the same for all tests together.
      memory_mib: address space of a program, Python's 40 included.
      columns: `problem=text` and the like where fields have other names, see
        `schemas.py`.
      on_error: "stop" at a broken row, or "skip" and count it.

    Raises:
      Refused: an argument is out of its range, or a row is broken; names file, line,
        field and remedy.
      RuntimeError: programs cannot be confined on this machine.
    """
    if not 0 < test_s <= total_s:
        raise Refused(f"{test_s=} must lie above 0 and not above {total_s=}.")
    if memory_mib < 64:
        raise Refused(f"{memory_mib=} must be at least 64; Python itself needs 40.")
    limits = {"test_s": test_s, "total_s": total_s, "memory_mib": memory_mib}

    def make(row: dict[str, Any], where: str) -> Problem | None:
        if subject and row.get("subject") != subject:
            return None
        spec = _spec(row, where)
        return Problem(
            id=row["id"],
            prompt=_prompt(row, spec, prompt_template),
            answer=_answer({**spec, **limits}),
            source=row["source"],
            statement=row["problem"],
        )

    found = read_structured(
        files.find(path, split),
        fields=_FIELDS,
        make=make,
        on_error=on_error,
        columns=columns,
    )
    confinement()
    return found


@functools.cache
def confinement() -> str:
    """How programs are confined on this machine, in words; warns if not the best way.

    Raises:
      RuntimeError: they cannot be, so none may run.
    """
    with host.best() as box:
        host.say_once(host.why_weaker(box), logging.WARNING)
        return host.describe(box)


def why_weaker() -> str:
    """Why this process's programs are confined by a way that is not the best; or "".

    Raises:
      RuntimeError: they cannot be confined.
    """
    return host.why_weaker(_box())


def grade(completion: str, answer: str) -> Grade:
    """1.0 if the program passes all tests.

    Args:
      completion: what the policy wrote, special tokens removed.
      answer: the JSON of `problems`.

    Returns:
      Grade; `extracted` is the program, or None if there is none.

    Raises:
      TimeoutError: it took too long.
      host.NoVerdict: the machine interfered; the program may be right or wrong.
    """
    box = _box()
    try:
        program, trial = judge(box, completion, answer)
    except RuntimeError:  # the next program shall find a sandbox that works
        box.close()
        _box.cache_clear()
        raise
    if trial.timed_out:
        raise TimeoutError(trial.detail)
    return Grade(float(trial.passed), program)


def judge(
    box: host.Sandbox, completion: str, answer: str
) -> tuple[str | None, trials.Trial]:
    """The program of a completion, and how it did; see `grade`."""
    with user_files.any_digits():
        spec = json.loads(answer)
    program = extract(completion, spec["prelude"], spec["entry_point"])
    if program is None:
        return None, trials.Trial(False, detail="there is no program")
    deadline = time.monotonic() + spec["total_s"]
    calls = [test for test in spec["tests"] if test["type"] == "call"]
    # All calls share a process, as in the test suites that they come from.
    groups = [[test] for test in spec["tests"] if test["type"] != "call"]
    for tests in [calls, *groups] if calls else groups:
        left = deadline - time.monotonic()
        if left <= 0:
            detail = f"all tests together took longer than {spec['total_s']} s"
            return program, trials.Trial(False, True, detail)
        seconds = min(spec["test_s"] * len(tests), left)
        limits = Limits(
            wall_s=seconds,
            cpu_s=math.ceil(seconds) + 1,  # the wall clock tells more
            memory_mib=spec["memory_mib"],
        )
        trial = _run(box, program, spec, tests, limits)
        if not trial.passed:
            return program, trial
    return program, trials.Trial(True)


def extract(completion: str, prelude: str, entry_point: str) -> str | None:
    """The program of a completion.

    Args:
      completion: what the policy wrote.
      prelude: the beginning of the function `entry_point`, or "".
      entry_point: name of the function, or "".

    Returns:
      Its source, the prelude included; None if it is empty or too long.
    """
    code = code_text.find(completion)
    if not code.strip() or len(code) > MAX_PROGRAM_CHARACTERS:
        return None
    if not prelude:
        return code
    if re.search(rf"^def\s+{re.escape(entry_point)}\b", code, re.MULTILINE):
        return f"{prelude}\n\n{code}"
    return prelude + _body(code)


@functools.cache
def _box() -> host.Sandbox:
    """The sandbox of this process; it ends with it."""
    return host.best()


def _run(
    box: host.Sandbox, program: str, spec: dict, tests: list[dict], limits: Limits
) -> trials.Trial:
    """A program on one test, or on all calls."""
    test = tests[0]
    harness = harnesses.HARNESSES[spec.get("harness", "")]
    preamble = harnesses.IMPORTS if spec.get("imports") else ""
    if test["type"] == "stdin":
        return trials.on_input(
            box,
            program,
            data=test["input"],
            accept=lambda written: harness.same_output(written, test["output"]),
            limits=limits,
            preamble=preamble,
        )
    if test["type"] == "call":
        return trials.on_calls(
            box,
            program,
            name=spec["entry_point"],
            calls=[test["args"] for test in tests],
            outputs=[test["output"] for test in tests],
            harness=spec.get("harness", ""),
            limits=limits,
            preamble=preamble,
        )
    return trials.on_tests(
        box,
        program,
        name=spec["entry_point"],
        prelude=spec["prelude"],
        setup=test.get("setup") or "",
        code=test["code"],
        limits=limits,
        preamble=preamble,
    )


def _body(code: str) -> str:
    """The indented lines at the top; a model that goes on writing ends the function."""
    lines = code.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.strip() and not line[0].isspace():
            return "".join(lines[:number])
    return code


def _answer(spec: dict) -> str:
    with user_files.any_digits():
        return json.dumps(spec)


def _prompt(row: dict, spec: dict, template: str) -> str:
    tests = "\n".join(t["code"].strip() for t in spec["tests"] if t.get("code"))
    starter = row.get("starter_code") or ""
    return fill(
        template,
        problem=row["problem"],
        starter_code=starter,
        format=harnesses.ask(starter),
        tests=tests,
        example=tests.partition("\n")[0],
    )


def _spec(row: dict, where: str) -> dict[str, Any]:
    """Tests and what is needed to run them, checked."""
    for field in ("entry_point", "starter_code"):
        if not isinstance(row.get(field) or "", str):
            raise Refused(
                f"{where}: field {field!r} must be a text, got "
                f"{user_files.short(row[field])}; correct the row."
            )
    tests, name = row.get("tests"), row.get("entry_point") or ""
    if isinstance(tests, list):
        tests = [
            t for t in tests if not isinstance(t, dict) or t.get("type") != _LEFT_OUT
        ]
    if not isinstance(tests, list) or not tests:
        raise Refused(
            f"{where}: field 'tests' must be a list with at least one test, got "
            f"{str(tests)[:80]!r}; a problem without tests cannot be graded."
        )
    for place, test in enumerate(tests):
        kind = test.get("type") if isinstance(test, dict) else None
        missing = [field for field in _TESTS.get(kind, ()) if field not in test]
        if kind not in _TESTS or missing:
            raise Refused(
                f"{where}: tests[{place}] must have a type of {', '.join(_TESTS)} and "
                f"this type's fields, got {str(test)[:80]!r}; missing: {missing}."
            )
        if kind != "stdin" and not name:
            raise Refused(
                f"{where}: field 'entry_point' must name the function that tests of "
                f"type {kind!r} call; fill it in."
            )
    begins = name and re.search(
        rf"^def\s+{re.escape(name)}\b", row["problem"], re.MULTILINE
    )
    harness = harnesses.name(row["source"])
    # Starter code of other sets names the same types without importing them.
    imports = harnesses.HARNESSES[harness].imports or bool(row.get("starter_code"))
    return {
        "tests": tests,
        "entry_point": name,
        "prelude": row["problem"] if begins else "",
        "harness": harness,
        "imports": imports,
    }
