"""The game of 24: use each of four numbers once to make 24; and its relatives.

Hands are listed here, or read from files whose rows have `numbers` and `target`
(Countdown's of this kind too). The answer is the expression, or the left side of the
equation, in the last `<answer>...</answer>`, else in the last `\\boxed{...}`, else
behind the last `Answer:`, else on the last line. Its value is computed exactly, in
fractions, from a tree of syntax that holds the four operations and whole numbers,
nothing else.
"""

import ast
import functools
import itertools
import json
import operator
import pathlib
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from hapo_jax.system import user_files
from hapo_jax.system.errors import Refused
from hapo_jax.tasks import data_checks, files
from hapo_jax.tasks.problems import (
    Grade,
    Problem,
    check_split,
    fill,
    path_text,
    read_structured,
)

MAX_EXPRESSION_CHARACTERS = 200
_MOST_TRIED = 4  # numbers of a hand all of whose expressions are tried
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_PROMPT = (
    "Use each of the numbers {numbers} exactly once, with +, -, *, / and brackets, to "
    "make {target}."
)
# How else the operations are written.
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "[": "(", "]": ")"})
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_LATEX = (
    (re.compile(r"\\(?:times|cdot)(?![a-z])"), "*"),
    (re.compile(r"\\div(?![a-z])"), "/"),
    (re.compile(r"\\(?:left|right|,|;|!)"), ""),
    (re.compile(r"\$"), ""),
)
# One hand in five is held out, whatever the seed or the size of a split.
_HELD_OUT_EVERY = 5


def problems(
    split: str,
    *,
    path: str | pathlib.Path,
    prompt_template: str,
    size: int,
    seed: int,
    max_number: int,
    target: int,
    columns: str = "",
    on_error: str = "stop",
) -> list[Problem]:
    """The solvable hands of a file, or of all hands of four numbers.

    Args:
      split: "train" or "test"; each listed hand belongs to one of them.
      path: data files, see `files.py`; "" to list hands, which the
        arguments behind the next describe.
      prompt_template: text around `{problem}`, or "".
      size: how many; fewer if there are not that many.
      seed: of their order and of the numbers' within a hand.
      max_number: numbers are 1 … max_number.
      target: 24.
      columns: `problem=text` and the like where fields have other names, see
        `schemas.py`.
      on_error: "stop" at a broken row of the file, or "skip" and count it.

    Raises:
      Refused: an argument is out of its range, or a row of the file is broken.
    """
    if path:
        return _read(files.find(path, split), prompt_template, columns, on_error)
    if columns:
        raise Refused(f"{columns=} is about files, and task.path is empty; drop it.")
    check_split(split)
    if not 1 <= max_number <= 100:
        raise Refused(f"task.max_number={max_number} must lie within 1 and 100.")
    numbers = range(1, max_number + 1)
    hands = list(itertools.combinations_with_replacement(numbers, 4))
    # By a draw of its own, so that neither seed nor size moves a hand between splits.
    random.Random("splits").shuffle(hands)
    held_out = len(hands) // _HELD_OUT_EVERY
    hands = hands[:held_out] if split == "test" else hands[held_out:]
    rng = random.Random(f"{split}/{seed}")
    rng.shuffle(hands)
    found = []
    for hand in hands:
        if len(found) >= size:
            break
        if solvable(hand, target):
            name = f"game{target}-{'-'.join(map(str, hand))}"
            shown = rng.sample(hand, len(hand))
            text = _PROMPT.format(numbers=", ".join(map(str, shown)), target=target)
            prompt = fill(prompt_template, problem=text)
            answer = _answer(shown, target)
            found.append(Problem(name, prompt, answer, f"game{target}", text))
    return found


def solvable(hand: tuple[int, ...], target: int) -> bool:
    """Whether the four operations make the target of all numbers of a hand."""
    whole = Fraction(target)
    for first, second in _parts(tuple(sorted(hand))):
        others = _reachable(second)
        for a in _reachable(first):
            # b of a + b, a - b, b - a, a * b, a / b and b / a = target; looked up, as
            # listing what a whole hand reaches takes a hundred times as long.
            wanted = [whole - a, a - whole, a + whole]
            wanted += [whole / a, whole * a] if a else []
            wanted += [a / whole] if whole and a else []
            if any(b in others for b in wanted):
                return True
    return False


def grade(completion: str, answer: str) -> Grade:
    """1.0 if the expression uses exactly the numbers of the hand and makes the target.

    Args:
      completion: what the policy wrote, special tokens removed.
      answer: the JSON of `problems`: numbers and target.

    Returns:
      Grade; `extracted` is the expression, or None if none could be read.
    """
    spec = json.loads(answer)
    text = _expression(completion)
    found = None if text is None else _parse(text)
    if found is None:
        return Grade(0.0, None)
    numbers, value = found
    won = Counter(numbers) == Counter(spec["numbers"]) and value == spec["target"]
    return Grade(float(won), text)


@functools.cache
def _reachable(hand: tuple[int, ...]) -> frozenset[Fraction]:
    """All values of expressions that use each number of a sorted hand once."""
    if len(hand) == 1:
        return frozenset([Fraction(hand[0])])
    found = set()
    for first, second in _parts(hand):
        for a in _reachable(first):
            for b in _reachable(second):
                found.update((a + b, a - b, b - a, a * b))
                found.update([a / b] if b else [])
                found.update([b / a] if a else [])
    return frozenset(found)


def _parts(hand: tuple[int, ...]) -> Iterator[tuple[tuple, tuple]]:
    """All ways to part a sorted hand in two."""
    places = range(len(hand))
    for size in range(1, len(hand) // 2 + 1):
        for left in itertools.combinations(places, size):
            rest = tuple(hand[i] for i in places if i not in left)
            yield tuple(hand[i] for i in left), rest


def _expression(completion: str) -> str | None:
    """The expression of a completion, an equation's other side cut off."""
    start = completion.rfind("<answer>")
    if start >= 0:
        text = completion[start + len("<answer>") :].partition("</answer>")[0]
    elif (start := completion.rfind(r"\boxed{")) >= 0:
        text = _braced(completion[start + len(r"\boxed{") :])
    elif (start := completion.lower().rfind("answer:")) >= 0:
        text = completion[start + len("answer:") :].strip().partition("\n")[0]
    else:
        lines = completion.strip().splitlines()
        text = lines[-1] if lines else ""
    if len(text) > MAX_EXPRESSION_CHARACTERS:
        return None
    fractions = 1
    while fractions:  # the innermost first
        text, fractions = _FRACTION.subn(r"((\1)/(\2))", text)
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    text = text.translate(_SIGNS).partition("=")[0].strip().rstrip(".")
    return text or None


def _braced(text: str) -> str:
    """Up to the brace that closes the one before `text`."""
    depth = 1
    for place, letter in enumerate(text[: MAX_EXPRESSION_CHARACTERS + 1]):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return text[:place]
    return text


def _parse(text: str) -> tuple[list[int], Fraction] | None:
    """(numbers used, value) of an expression; None if it is none, or divides by 0."""
    numbers: list[int] = []

    def value(node: ast.expr) -> Fraction:
        match node:
            case ast.BinOp(left, op, right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(left), value(right))
            case ast.Constant(value=int(number)) if not isinstance(number, bool):
                numbers.append(number)
                return Fraction(number)
        raise Refused("not one of the four operations")

    # Whole numbers in digits: Python's 0x18, 2_4 and 1e1 are no numbers of a hand.
    if re.search(r"[^\d+\-*/() ]", text):
        return None
    try:
        return numbers, value(ast.parse(text, mode="eval").body)
    except (ValueError, SyntaxError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _answer(numbers: list[int], target: int) -> str:
    return json.dumps({"numbers": numbers, "target": target})


def _read(
    paths: Sequence[pathlib.Path], template: str, columns: str, on_error: str
) -> list[Problem]:
    def make(row: dict[str, Any], where: str) -> Problem | None:
        numbers, target = row.get("numbers"), row.get("target")
        whole = isinstance(numbers, list) and all(isinstance(n, int) for n in numbers)
        if not whole or not numbers or not isinstance(target, int):
            raise Refused(
                f"{where}: fields 'numbers' and 'target' must be whole numbers, got "
                f"{user_files.short(numbers)} and "
                f"{user_files.short(target)}; correct the row."
            )
        if row.get("solvable") is False:
            return None  # no completion could be right
        prompt = fill(template, problem=row["problem"])
        answer = _answer(numbers, target)
        return Problem(row["id"], prompt, answer, row["source"], row["problem"])

    fields = ("numbers", "target", "solvable")
    found = read_structured(
        paths, fields=fields, make=make, on_error=on_error, columns=columns
    )
    data_checks.check_golds(
        found, _wins, lambda p: p.answer, grading="game24", source=path_text(paths)
    )
    return found


def _wins(problem: Problem) -> bool:
    """Whether a right completion exists; of long hands that takes too long to tell."""
    task = json.loads(problem.answer)
    hand = tuple(task["numbers"])
    return len(hand) > _MOST_TRIED or solvable(hand, task["target"])
