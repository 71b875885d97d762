"""Mathematical answers: find the answer in a completion and compare it with the gold.

The answer is, in this order,

  1. what follows the last `Answer:` within the last 300 characters (DAPO's rule),
  2. the content of the last `\\boxed{...}`,
  3. what follows the last `####` (GSM8K's rule),

so there is exactly one, whatever else a completion lists. Two answers are equal if
their normalised texts are, or if math-verify finds their values equal. It is given the
answer as a whole and never searches it for a number that would fit: `41 or 42` is a
set of two, not a hit for 42.

Costs are bounded before any pattern with backtracking runs: answers are cut out with
scans linear in the completion and discarded above `MAX_ANSWER_CHARACTERS`; what would
explode in exact arithmetic is not evaluated. The pool's clock (`rollout/grading.py`)
ends what gets through all the same.
"""

import functools
import pathlib
import re
from typing import Any

from hapo_jax.tasks.problems import (
    Demonstration,
    Grade,
    Problem,
    read_demonstrations,
    read_problems,
)

DAPO_TAIL_CHARACTERS = 300
# The longest gold answers of MATH, OlympiadBench and Minerva have about 200.
MAX_ANSWER_CHARACTERS = 1_000
# Bounds on what math-verify may see. Gold answers stay far below each.
_MAX_NESTING = 25  # brackets of any kind
_EXPLOSIVE = re.compile(
    r"\d{101,}"  # one number of more than 100 digits
    r"|\^[\s{(]*-?\d+\s*\^"  # a tower of powers, 9^{9^9}
    r"|\^[\s{(]*-?\d{5,}"  # an exponent of five digits
    r"|\d{4,}\s*!|![\s)]*!"  # a factorial of a large number or of a factorial
)
# math-verify parses twice and compares once, each under this limit.
_SYMPY_SECONDS = 2
# math-verify compares to six decimals, in which all tiny numbers are zero. Gold answers
# below _SMALL are compared relatively too.
_SMALL = 1e-3
_SMALL_TOLERANCE = 1e-5

_ANSWER_LINE = re.compile(r"answer\s*:\s*([^\n]+)", re.IGNORECASE)
_BOXES = (r"\boxed{", r"\fbox{")


def problems(
    split: str, *, path: str | pathlib.Path, prompt_template: str
) -> list[Problem]:
    """The problems of a file (see `problems.read_problems`), with answers to grade by.

    Args:
      split: "train" or "test"; a label, since the config names a file for each.
      path: file of this split.
      prompt_template: text around `{problem}`; empty for the bare problem, and for
        files of verl's kind, whose prompts are whole messages.

    Raises:
      ValueError: there is no such split, its file is missing or broken, or a gold
        answer says nothing or is too long.
    """
    _check_split(split)
    found = read_problems(path, prompt_template=prompt_template)
    for problem in found:
        try:
            _gold(problem.answer)
        except ValueError as error:
            raise ValueError(f"{path}, problem {problem.id!r}: {error}") from None
    return found


def demonstrations(
    split: str, *, path: str | pathlib.Path, prompt_template: str, size: int
) -> list[Demonstration]:
    """Worked solutions of a file, for supervised fine-tuning.

    Args:
      split: "train" or "test".
      path: file of this split, whose rows have a `solution` or a `completion`.
      prompt_template: as in `problems`; use the template of the RL run that follows.
      size: how many, from the top of the file; 0 for all.

    Raises:
      ValueError: as `problems.read_demonstrations`, or there is no such split.
    """
    _check_split(split)
    return read_demonstrations(path, prompt_template=prompt_template, size=size)


def grade(completion: str, answer: str) -> Grade:
    """1.0 if the completion's answer equals the gold answer.

    Call it in a process's main thread: math-verify bounds its time with signals.

    Args:
      completion: what the policy wrote, special tokens removed.
      answer: the gold answer, bare, in `$...$` or in a box.

    Raises:
      ValueError: the gold answer says nothing, or is too long.
    """
    gold = _gold(answer)
    extracted = extract(completion)
    if extracted is None:
        return Grade(0.0, None)
    return Grade(1.0 if equal(gold, extracted) else 0.0, extracted)


def extract(completion: str) -> str | None:
    r"""The completion's answer as written, or None; linear in the completion.

    A place without a letter or a digit counts as absent: `Answer: \[` on a line of its
    own leaves the choice to the box that follows. So does a last box that is not
    closed: the completion was cut off inside its answer.
    """
    lines = _ANSWER_LINE.findall(completion[-DAPO_TAIL_CHARACTERS:])
    candidates = (
        _unboxed(lines[-1]) if lines else None,
        _last_box(completion),
        _after_hashes(completion),
    )
    for candidate in candidates:
        if candidate is not None and _speaks(candidate):
            return candidate if len(candidate) <= MAX_ANSWER_CHARACTERS else None
    return None


def equal(gold: str, pred: str) -> bool:
    """Whether two answers are the same text after cleaning, or the same value.

    As in math-verify, `50%` equals both `50` and `1/2`, and floats are compared to six
    decimals.
    """
    gold, pred = clean(gold), clean(pred)
    if not _speaks(gold) or not _speaks(pred):
        return False
    if _same_text(gold, pred):
        return True
    if _INTEGER.fullmatch(gold) and _INTEGER.fullmatch(pred):
        return False  # the usual miss, settled without sympy
    if any(_MISREAD.search(text) or _explosive(text) for text in (gold, pred)):
        return False
    return _same_value(gold, pred)


def _check_split(split: str) -> None:
    if split not in ("train", "test"):
        raise ValueError(f"{split=} must be one of train, test.")


def _gold(answer: str) -> str:
    """The gold answer without its box.

    Raises:
      ValueError: it says nothing, or is too long.
    """
    gold = _unboxed(answer)
    if gold is None or len(gold) > MAX_ANSWER_CHARACTERS or not _speaks(gold):
        raise ValueError(
            f"answer={answer[:80]!r} must hold a letter or a digit and at most "
            f"{MAX_ANSWER_CHARACTERS} characters; drop the problem."
        )
    return gold


# ---- finding ------------------------------------------------------------------------


def _last_box(text: str) -> str | None:
    """Content of the box that opens last; None if there is none or it stays open."""
    opened = [text.rfind(box) + len(box) for box in _BOXES if box in text]
    if not opened:
        return None
    start = place = max(opened)
    end = min(len(text), start + MAX_ANSWER_CHARACTERS + 1)
    depth = 1
    while place < end:
        character = text[place]
        if character == "\\":
            place += 1  # \{ and \} are brackets of the formula, not of the box
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return text[start:place].strip()
        place += 1
    return None


def _unboxed(text: str) -> str | None:
    """The content of the last box, or the text if no box opens in it."""
    return _last_box(text) if any(box in text for box in _BOXES) else text.strip()


def _after_hashes(text: str) -> str | None:
    """The rest of the line after the last `####`."""
    _, mark, rest = text.rpartition("####")
    return rest.split("\n", 1)[0].strip() if mark else None


def _speaks(text: str) -> bool:
    return any(character.isalnum() for character in text)


# ---- comparing texts ----------------------------------------------------------------


def _ungrouped(match: re.Match) -> str:
    """1,234,567 without its separators."""
    return re.sub(r"\D", "", match.group(1))


# Applied in order. The habits are those of the answer files of MATH, GSM8K, Minerva
# and OlympiadBench, and of models that answer them.
_CLEANING = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?i)\.?\s*I hope it is correct\b.*$", ""),  # Minerva's prompt asks for it
        (r"\*\*", "^"),  # Python's power; bold marks around the answer are gone by now
        (r"\\\\\[[^\]]*\]", r"\\\\"),  # \\[2pt] between the rows of a matrix
        (r"\\!|\\(?:left|right|displaystyle)(?![a-zA-Z])", ""),
        (
            r"\\\$|\$|(?<!\\)\\[()\[\],;: ]|\\q?quad(?![a-zA-Z])|~|\s",
            " ",
        ),  # math on, off, space
        (r"[−–]", "-"),
        (r"\\%", "%"),
        (r"\\[dt]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it)|mbox)\s*\{([^{}]*)\}", r" \1 "),
        (r"\^\s*(?:\\circ\b|\{\s*\\circ\s*\})|\\degree(?![a-zA-Z])|°", " "),
        (
            r"(?i)^\s*(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+)?(?:final\s+)?"
            r"answer\s*(?:is|:|=)?\s+",
            "",
        ),
        (r"(?<![\d.])(\d{1,3}(?:(?:,|\{,\}| )\d{3})+)(?!\d)", _ungrouped),
        (r"^\s*(-?\d+) (\d+)/(\d+)\s*$", r"\1\\frac{\2}{\3}"),  # 1 1/4
        (r"\\frac\s*(\w)\s*(\w)", r"\\frac{\1}{\2}"),
        (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
        (r"_\{(\w)\}", r"_\1"),
        (r"(\d)[eE]([+-]?\d{1,3})\b", r"\1\\times 10^{\2}"),
        (r"(?<![\d.])0+(?=\d)|(?<=\d)\.0*(?![\d.])|(\.\d*[1-9])0+(?!\d)", r"\1"),
        (r"(?<!\d)\.(?=\d)", "0."),
        (r"^\s*\+(?=\s*\d)|^\s*[a-zA-Z]\s*\\in\b", ""),
        (r" +", " "),
    )
)

_INTEGER = re.compile(r"-?\d+")
# What math-verify reads in a way of its own: it adds numbers that stand side by side
# (`40 2` would be 42) and forgets the base of a number (42_8). Compared as texts only.
_MISREAD = re.compile(r"\d \d|\d *_")
# A bare number or fraction and words behind it. Words that change the value are no
# units, and neither is a single letter, which may be a variable.
_UNIT = re.compile(
    r"(-?(?:[\d./]+|\\frac\{\d+\}\{\d+\}))"
    r"((?: [A-Za-z]{2,}\.?)+)(?:\s*\^\s*\{?[23]\}?)?"
)
_NO_UNITS = frozenset(
    "and|or|mod|percent|pct|dozen|hundred|thousand|million|billion|trillion|"
    "sin|cos|tan|log|ln|exp|sqrt|pi".split("|")
)
# x = ..., x_1 = ..., f(x) = ..., with one equals sign and one value
_ASSIGNMENT = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([a-z]\))?=([^=,;]+)")


def clean(text: str) -> str:
    """An answer's text in one spelling, still LaTeX that math-verify reads.

    Delimiters, markdown, sizes, fonts, degrees, units and the words `the answer is` go;
    numbers and fractions get one form. Percent signs stay: they carry value.
    """
    text = text.strip().strip("*_ ")
    for pattern, replacement in _CLEANING:
        text = pattern.sub(replacement, text)
    text = text.strip().rstrip(".,;: *")
    unit = _UNIT.fullmatch(text)
    if unit and _NO_UNITS.isdisjoint(unit.group(2).lower().split()):
        return unit.group(1)
    return text


def _same_text(gold: str, pred: str) -> bool:
    """Equal keys; `x = 5` equals `5`, but not `y = 5`."""
    gold, pred = _key(gold), _key(pred)
    if gold == pred:
        return True
    gold_value, pred_value = _ASSIGNMENT.fullmatch(gold), _ASSIGNMENT.fullmatch(pred)
    if pred_value and not gold_value:
        return pred_value.group(1) == gold
    if gold_value and not pred_value:
        return gold_value.group(1) == pred
    return False


def _key(text: str) -> str:
    """The cleaned text without spaces, a last percent sign and the case of a word.

    Spaces between digits stay, so that `4 2` does not become 42.
    """
    text = re.sub(r"(?<!\d) | (?!\d)", "", text).removesuffix("%")
    text = re.sub(r"^\(([A-Za-z])\)$", r"\1", text)  # a choice, (B)
    return text.lower() if len(text) > 1 and text.isalpha() else text


# ---- comparing values ---------------------------------------------------------------


def _explosive(text: str) -> bool:
    """Whether exact arithmetic or a recursive parser might choke on it."""
    depth = deepest = 0
    for character in text:
        depth += (character in "{[(") - (character in "}])")
        deepest = max(deepest, depth)
    return deepest > _MAX_NESTING or _EXPLOSIVE.search(text) is not None


def _same_value(gold: str, pred: str) -> bool:
    """math-verify's judgement of two whole answers, False if it takes too long."""
    import math_verify  # costs a second and 100 MB: only where it is needed

    gold_value, pred_value = _value(gold), _value(pred)
    if not gold_value or not pred_value:
        return False
    if not math_verify.verify(gold_value, pred_value, timeout_seconds=_SYMPY_SECONDS):
        return False
    return _close_if_small(gold_value[0], pred_value[0])


def _close_if_small(gold: Any, pred: Any) -> bool:
    """True, unless gold is a tiny number from which pred differs relatively."""
    try:
        # doit: math-verify leaves percentages unevaluated
        gold, pred = (complex(value.doit().evalf()) for value in (gold, pred))
    except (AttributeError, TypeError):  # a set, a relation, a symbol, a matrix
        return True
    if not 0 < abs(gold) < _SMALL:
        return True
    return abs(gold - pred) <= _SMALL_TOLERANCE * abs(gold)


@functools.lru_cache(maxsize=1_024)  # a group's completions share their gold answer
def _value(text: str) -> list[Any]:
    """What math-verify makes of a whole answer: a list of one expression, or of none.

    The box around the text and the single extraction config keep math-verify from
    looking for parts that it can read.
    """
    import math_verify

    return math_verify.parse(
        rf"\boxed{{{text}}}",
        [math_verify.LatexExtractionConfig(boxed_match_priority=0)],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=_SYMPY_SECONDS,
    )
