"""What the official harnesses of sets of programs do around a program, and how they
compare what it writes. docs/evaluation.md lists all sets, and where we differ.

A row's `source` says whose harness is meant. Other rows are compared by `same_output`
and `same_value`. Outputs are compared in the grading process, without a limit on time:
each comparison is linear in them. Values are compared in a process of its own, see
`sandbox/judge.py`.
"""

import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

# LiveCodeBench puts these names before each program (`lcb_runner/evaluation/
# testing_util.py`), and its starter code needs those of typing. The order counts: what
# comes later hides what came before, as builtins.pow hides math.pow.
_STARRED = (
    "string re datetime collections heapq bisect copy math random statistics itertools "
    "functools operator io sys json builtins typing"
).split()
_MODULES = [name for name in _STARRED if name not in ("builtins", "typing")]
# So deep may recursions go there, and so many digits may an integer have as text.
_RECURSION, _DIGITS = 50_000, 50_000
IMPORTS = "\n".join(
    [
        *(f"from {name} import *" for name in _STARRED),
        *(f"import {name}" for name in _MODULES),
        f"sys.setrecursionlimit({_RECURSION})",
        f"sys.set_int_max_str_digits({_DIGITS})",
    ]
)
# How LiveCodeBench asks for a program (`lcb_runner/prompts/code_generation.py`).
_ASK_STARTER = (
    "You will use the following starter code to write the solution to the problem and "
    "enclose your code within delimiters.\n```python\n{}\n```"
)
_ASK_SCRIPT = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do "
    "not directly test on the sample inputs). Enclose your code within delimiters as "
    "follows. Ensure that when the python program runs, it reads the inputs, runs the "
    "algorithm and writes output to STDOUT.\n```python\n# YOUR CODE HERE\n```"
)

# What CodeContests' tester reads as a number; words are in lower case by then.
# No two parts can share digits, or a long word would take time by its square.
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?")
_CLOSE = Decimal("1e-5")

# Contests accept rounding in the last digits.
_TOLERANCE = 1e-6
# Of all that Python's float reads: no 1_0, no digits of other scripts.
_PLAIN_NUMBER = re.compile(r"[0-9.eE+-]+")


def name(source: str) -> str:
    """The key of `HARNESSES` for rows of a source, such as livecodebench_v5."""
    return next((key for key in HARNESSES if key and str(source).startswith(key)), "")


def ask(starter_code: str) -> str:
    """What to write, in LiveCodeBench's words: the starter code's end, or a script."""
    return _ASK_STARTER.format(starter_code) if starter_code else _ASK_SCRIPT


def same_output(written: str, expected: str) -> bool:
    """Whether outputs agree word by word; where a fraction is expected, to 1e-6."""
    words, wanted = written.split(), expected.split()
    return len(words) == len(wanted) and all(map(_close_word, words, wanted))


def same_value(value: Any, expected: Any) -> bool:
    """Whether a returned value is the expected one, its types included.

    Tuples count as lists. Where a float is expected, at any depth of lists, tuples and
    dicts, an integer or a float within 1e-6 (relative or absolute) will do, and NaN
    where NaN is.
    """
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(expected, list | tuple):
        return (
            isinstance(value, list)
            and len(value) == len(expected)
            and all(map(same_value, value, expected))
        )
    if isinstance(expected, dict):
        return (
            isinstance(value, dict)
            and len(value) == len(expected)
            and all(
                key in value and same_value(value[key], wanted)
                for key, wanted in expected.items()
            )
            # 1, 1.0 and True are one key to a dict
            and sorted(map(_kind, value)) == sorted(map(_kind, expected))
        )
    if isinstance(expected, float) and type(value) in (int, float):  # no bool
        return _close(value, expected)
    return type(value) is type(expected) and value == expected


def same_lines(written: str, expected: str) -> bool:
    """LiveCodeBench: line by line, outer blanks aside, as text or as exact decimals."""
    lines, wanted = (
        [line.strip() for line in text.strip().split("\n")]
        for text in (written, expected)
    )
    return len(lines) == len(wanted) and all(map(_same_line, lines, wanted))


def equal(value: Any, expected: Any) -> bool:
    """LiveCodeBench: Python's `==`, where a tuple counts as a list but none within."""
    if isinstance(value, tuple):
        value = list(value)
    try:
        return bool(value == expected)
    except ArithmeticError:  # a signalling NaN
        return False


def same_words(written: str, expected: str) -> bool:
    """CodeContests: word by word in lower case, numbers to an absolute 1e-5."""
    words, wanted = written.lower().split(), expected.lower().split()
    return len(words) == len(wanted) and all(map(_same_word, words, wanted))


def _same_line(line: str, wanted: str) -> bool:
    if line == wanted:
        return True
    words, expected = line.split(), wanted.split()
    try:
        return len(words) == len(expected) and all(
            Decimal(word) == Decimal(other)
            for word, other in zip(words, expected, strict=True)
        )
    except ArithmeticError:
        return False


def _same_word(word: str, wanted: str) -> bool:
    if word == wanted:
        return True
    if not (_NUMBER.fullmatch(word) and _NUMBER.fullmatch(wanted)):
        return False
    try:
        return abs(Decimal(word) - Decimal(wanted)) < _CLOSE
    except ArithmeticError:
        return False


def _close_word(word: str, wanted: str) -> bool:
    if word == wanted:
        return True
    try:
        if not set(wanted) & set(".eE") or not _PLAIN_NUMBER.fullmatch(word):
            return False
        return _close(float(word), float(wanted))
    except ValueError:
        return False


def _close(value: float, wanted: float) -> bool:
    if math.isnan(wanted):
        return value != value
    try:
        return math.isclose(value, wanted, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    except OverflowError:  # an integer beyond all floats
        return False


def _kind(key: Any) -> str:
    return type(key).__name__


class Harness(NamedTuple):
    """Attributes:
    imports: whether `IMPORTS` stand before a program.
    same_output: (written, expected) → whether they agree.
    same_value: (returned, expected) → whether they agree.
    """

    imports: bool = False
    same_output: Callable[[str, str], bool] = same_output
    same_value: Callable[[Any, Any], bool] = same_value


HARNESSES = {
    "": Harness(),
    "livecodebench": Harness(True, same_lines, equal),
    "code_contests": Harness(same_output=same_words),
}
