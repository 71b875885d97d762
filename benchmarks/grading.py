"""Gradings per second, through the pool, as training submits them.

    python -m benchmarks.grading               # prints JSON lines, one per kind of work
    python -m benchmarks.grading --work code_asserts --seconds 20

Every completion is another one, since the pool grades equal ones once. The clock runs
from the first to the last result, with all graders loaded. `goal` is what two cores
should reach.
"""

import argparse
import collections
import json
import os
import random
import time
from collections.abc import Callable, Iterator

from hapo_jax.grading import pool as pool_lib

# (completion, answer); completions of the length that models write
Items = Iterator[tuple[str, str]]
_THOUGHTS = "Let me think step by step about what is asked here. " * 40
_BATCH = 64


def main() -> None:
    """Measures each kind of work and prints a line for it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    with pool_lib.GradingPool(
        num_workers=args.workers, timeout_s=10.0, memory_gib=4.0, start_timeout_s=120.0
    ) as pool:
        for name in args.work:
            print(json.dumps(measure(pool, name, args.seconds)), flush=True)


def measure(pool: pool_lib.GradingPool, name: str, seconds: float) -> dict:
    """Grades for about so many seconds.

    Raises:
      RuntimeError: a completion was not graded right, so the figure means nothing.
    """
    task, make, goal = WORK[name]
    items = make()
    results = pool.grade(task, _take(items, 64))  # starts sandboxes, imports libraries
    pending = collections.deque(
        pool.submit(task, _take(items, _BATCH)) for _ in range(2)
    )
    cpu, start = time.process_time(), time.perf_counter()
    graded = 0
    # Two batches are always under way, as while a policy samples.
    while time.perf_counter() - start < seconds:
        done = pending.popleft().result()
        pending.append(pool.submit(task, _take(items, _BATCH)))
        results += done
        graded += len(done)
    took = time.perf_counter() - start
    for future in pending:
        results += future.result()
    wrong = [result for result in results if (result.score, result.outcome) != _RIGHT]
    if wrong:
        raise RuntimeError(f"{name}: {len(wrong)} of {len(results)}, first: {wrong[0]}")
    return {
        "work": name,
        "gradings_s": round(graded / took, 1),
        "goal": goal,
        "gradings": graded,
        "workers": len(pool._workers),
        "pool_cpu_over_wall": round((time.process_time() - cpu) / took, 3),
    }


_RIGHT = (1.0, "graded")


def _take(items: Items, count: int) -> list[tuple[str, str]]:
    return [next(items) for _ in range(count)]


def math_plain() -> Items:
    """Answers that equal the gold answer as text."""
    rng = random.Random(0)
    while True:
        number = rng.randrange(10**9)
        yield f"{_THOUGHTS}{rng.random()}\nAnswer: \\boxed{{{number}}}", str(number)


def math_value() -> Items:
    """Answers that equal the gold answer only as a value, by math-verify."""
    rng = random.Random(0)
    while True:
        a, b, c = (rng.randrange(2, 99) for _ in range(3))
        kind = rng.randrange(3)
        if kind == 0:
            said, gold = f"\\frac{{{a * b}\\sqrt{{{c}}}}}{{{b}}}", f"{a}\\sqrt{{{c}}}"
        elif kind == 1:
            said, gold = f"(x+{a})^2 + {b}", f"x^2 + {2 * a}x + {a * a + b}"
        else:
            said, gold = f"{a}\\pi + {b}\\pi", f"{a + b}\\pi"
        yield f"{_THOUGHTS}{rng.random()}\nAnswer: \\boxed{{{said}}}", f"${gold}$"


def code_asserts() -> Items:
    """A function and three asserts, as in MBPP."""
    tests = "\n".join(f"assert power({n}) == {n**3}" for n in (2, 7, -3))
    answer = _code([{"type": "python", "code": tests}], "power")
    for number in range(10**9):
        yield _fenced(f"def power(n):\n    return n ** 3  # {number}"), answer


def code_input() -> Items:
    """A script and two inputs, as in contests."""
    tests = [
        {"type": "stdin", "input": f"{n}\n", "output": f"{n**3}\n"} for n in (2, 7)
    ]
    answer = _code(tests, "")
    for number in range(10**9):
        yield _fenced(f"print(int(input()) ** 3)  # {number}"), answer


def _fenced(program: str) -> str:
    return f"{_THOUGHTS}\n```python\n{program}\n```\n"


def _code(tests: list[dict], entry_point: str) -> str:
    limits = {"test_s": 6.0, "total_s": 8.0, "memory_mib": 1024}
    return json.dumps(
        {"tests": tests, "entry_point": entry_point, "prelude": "", **limits}
    )


# name: (task, items, gradings per second to be reached on two cores)
WORK: dict[str, tuple[str, Callable[[], Items], int]] = {
    "math_plain": ("math", math_plain, 2_000),
    "math_value": ("math", math_value, 150),
    "code_asserts": ("code", code_asserts, 40),
    "code_input": ("code", code_input, 40),
}

if __name__ == "__main__":
    main()
