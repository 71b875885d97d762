r"""Mathematical answers as values: exact numbers first, then math-verify under guard.

`same` compares two whole answers. math-verify gets each in a box of its own and never
searches a text for a part that would fit: `41 or 42` is a set of two, not a hit for 42.

`verify` is math-verify's own judgement of two whole texts, its search included, for
decisions that must agree with it. Guards are the same: what would explode in exact
arithmetic or in a recursive parser is not looked at and is not equal. The pool's clock
(`rollout/grading.py`) ends what gets through all the same.

Call both in a process's main thread: math-verify bounds its time with signals.
"""

import fractions
import functools
import math
import re
from types import ModuleType
from typing import Any

# Bounds on what math-verify may see. Gold answers stay far below each.
_MAX_CHARACTERS = 20_000  # its patterns are not linear
_MAX_NESTING = 25  # brackets of any kind
_POWER = r"(?:\^|\*\*)[\s{(]*"
_EXPLOSIVE = re.compile(
    r"\d{101,}"  # one number of more than 100 digits
    r"|(?:\^|\*\*)\s*-?\d+\s*(?:\^|\*\*)"  # a tower, 9^9^9 …
    r"|(?:\^|\*\*)[\s{(]+[^{}()]{0,60}?\d\s*(?:\^|\*\*)[\s{(]*-?\d"  # … or 9^{1+9^9}
    rf"|{_POWER}-?\d{{3,}}\s*[)}}][\s)}}]*(?:\^|\*\*)"  # (9^999)^9
    rf"|{_POWER}-?\d[\d,. ]{{4,}}"  # an exponent of five digits
    r"|\d{4,}\s*!|![\s)}]*!"  # a factorial of a large number, or of a factorial, or
    r"|(?:\d{4}|[*^]|\\cdot|\\times)[^!]{0,50}[)}]\s*!"  # of a product or a power
)
_POWERS_OF_POWERS = re.compile(rf"{_POWER}-?\d+\s*[)}}][\s)}}]*(?=\^|\*\*)")
# math-verify parses twice and is compared with twice at most, each under this limit.
_SYMPY_SECONDS = 2
# math-verify compares to six decimals, in which all tiny numbers are zero. Gold answers
# below _SMALL are compared relatively too.
_DECIMALS = 6
_SMALL = 1e-3
_SMALL_TOLERANCE = 1e-5
# Values of letters at which two formulas are compared first: positive, so that roots
# and logarithms stay real, and of no meaning. What differs there by more than _FAR,
# relative above 1, is another formula; _FAR lies far above any rounding of either side.
_PLACE = (1.37, 0.61, 1.83, 0.29, 2.11, 0.83, 1.19, 0.47)
_FAR = 1e-4
# What math-verify reads in a way of its own: it adds numbers that stand side by side
# (`40 2` would be 42), forgets the base of a number (42_8), what stands before an arrow
# or before an equals sign behind `\approx`, and dots. Compared as texts only.
_MISREAD = re.compile(
    r"\d \d|\d *_|\\(?:equiv|[Rr]ightarrow|to|implies|iff|mapsto|[lc]?dots)(?![a-zA-Z])"
    r"|[≡→⇒]|(?:\\approx|≈)[^=]*="
)
_NO_NUMBER = (TypeError, ValueError, ArithmeticError, RuntimeError)
_INEQUALITY = re.compile(r"[<>]|\\[lgn]e(?![a-zA-Z])")
_RECURRING = re.compile(r"(-?\d{1,50}\.)(\d{0,50})\\overline\{(\d{1,50})\}")
_NUMBER = re.compile(
    r"(?P<sign>-?)(?:(?P<whole>\d{1,100})??"
    r"(?:\\frac\{(?P<num>-?\d{1,100})\}\{(?P<den>\d{1,100})\})"
    r"|(?P<decimal>\d{1,100}(?:\.\d{1,100})?)(?:/(?P<over>\d{1,100}))?)(?P<percent>%?)"
)


def same(gold: str, pred: str, tolerance: float = 0.0) -> bool:
    """Whether two cleaned answers (`math_text.clean`) have one value.

    As in math-verify, `50%` equals both `50` and `1/2`, and floats are compared to six
    decimals. With a tolerance, single numbers may differ by so much, relative to gold.
    """
    left, right = number(gold), number(pred)
    if left and right and _RECURRING.fullmatch(gold) and _is_rounded(left[0], pred):
        return True
    if left and right:  # the usual case, settled without sympy
        return any(
            _close(a, b) or abs(a - b) <= tolerance * abs(a)
            for a in left
            for b in right
        )
    if any(_MISREAD.search(text) or explosive(text) for text in (gold, pred)):
        return False
    if "=" not in gold and (sides := _numeric_sides(pred)):
        if not all(same(gold, side, tolerance) for side in sides):
            return False  # of `41 = 42`, math-verify takes the last side alone
        if pred.endswith(sides[-1]) and not _INEQUALITY.search(pred):
            return True
    gold_value, pred_value = _value(gold), _value(pred)
    if not gold_value or not pred_value:
        return False
    settled = _settled(gold_value[0], pred_value[0], tolerance)
    if settled is not None:
        return settled
    if not _library().verify(gold_value, pred_value, timeout_seconds=_SYMPY_SECONDS):
        return False
    return _close_if_small(gold_value[0], pred_value[0])


def same_reduced(gold: str, pred: str) -> bool:
    """Whether two cleaned answers are one exact number, each in lowest terms."""
    left, right = number(gold), number(pred)
    return left != () and left == right and all(map(_is_reduced, (gold, pred)))


def number(text: str) -> tuple[fractions.Fraction, ...]:
    r"""The exact value of an integer, decimal, fraction or mixed number, or nothing.

    Two values for a percentage: `50%` is 50 or 1/2.
    """
    recurring = _RECURRING.fullmatch(text)
    if recurring:
        head, fixed, period = recurring.groups()
        tail = fractions.Fraction(
            int(period), (10 ** len(period) - 1) * 10 ** len(fixed)
        )
        value = fractions.Fraction(head + (fixed or "0"))
        return (value - tail if head.startswith("-") else value + tail,)
    match = _NUMBER.fullmatch(text.replace(" ", "") if "frac" in text else text)
    if match is None:
        return ()
    try:
        if match["decimal"]:
            value = fractions.Fraction(match["decimal"])
            value /= int(match["over"] or 1)
        else:
            value = fractions.Fraction(int(match["num"]), int(match["den"]))
            value += int(match["whole"] or 0)
    except ZeroDivisionError:
        return ()
    value = -value if match["sign"] else value
    return (value, value / 100) if match["percent"] else (value,)


def _numeric_sides(text: str) -> list[str]:
    """The sides without a variable of an equation, unless it is in a list of some."""
    sides = [] if "," in text or ";" in text else re.split(r"(?<![<>!\\])=", text)
    if len(sides) < 2:
        return []
    sides = [side.strip() for side in sides]
    return [s for s in sides if s and not re.search(r"(?<![\\A-Za-z])[A-Za-z]", s)]


def _is_reduced(text: str) -> bool:
    """Whether no fraction in the text could be cancelled."""
    match = _NUMBER.fullmatch(text)
    if match is None:  # a recurring decimal
        return True
    over, under = match["num"] or match["decimal"], match["den"] or match["over"]
    if not under or "." in over:
        return True
    return math.gcd(int(over), int(under)) == 1


def _is_rounded(exact: fractions.Fraction, pred: str) -> bool:
    """Whether a decimal is `exact` rounded to its own, at least one, places."""
    _, point, places = pred.partition(".")
    if not point or not places.isdigit():
        return False
    scale = 10 ** len(places)
    return 2 * abs(exact - fractions.Fraction(pred)) * scale <= 1


def verify(
    gold: str,
    pred: str,
    *,
    kinds: tuple[str, ...] = ("latex", "expr"),
    decimals: int = _DECIMALS,
    strict: bool = True,
    allow_set_relation_comp: bool = False,
) -> bool:
    """math-verify's judgement of two whole texts; False for what is not looked at.

    Args:
      gold, pred: texts that hold an answer each, as math-verify finds it.
      kinds: what it may find, of "latex" and "expr".
      decimals, strict, allow_set_relation_comp: see `math_verify.verify`.
    """
    if any(len(text) > _MAX_CHARACTERS or explosive(text) for text in (gold, pred)):
        return False
    math_verify = _library()
    configs = {
        "latex": math_verify.LatexExtractionConfig(),
        "expr": math_verify.ExprExtractionConfig(),
    }
    chosen = [configs[kind] for kind in kinds]
    gold_values, pred_values = (
        math_verify.parse(text, chosen, parsing_timeout=_SYMPY_SECONDS)
        for text in (gold, pred)
    )
    return math_verify.verify(
        gold_values,
        pred_values,
        float_rounding=decimals,
        strict=strict,
        allow_set_relation_comp=allow_set_relation_comp,
        timeout_seconds=_SYMPY_SECONDS,
    )


def explosive(text: str) -> bool:
    """Whether exact arithmetic or a recursive parser might choke on it."""
    depth = deepest = 0
    for character in text:
        depth += (character in "{[(") - (character in "}])")
        deepest = max(deepest, depth)
    return (
        deepest > _MAX_NESTING
        or _EXPLOSIVE.search(text) is not None
        or len(_POWERS_OF_POWERS.findall(text)) > 2
    )


def _close(gold: fractions.Fraction, pred: fractions.Fraction) -> bool:
    """Equal if both are integers; else to six decimals, and relatively if small."""
    if gold == pred:
        return True
    if gold.denominator == pred.denominator == 1:
        return False
    near = abs(gold - pred)
    if near > fractions.Fraction(1, 2 * 10**_DECIMALS):
        return False
    return abs(gold) >= _SMALL or near <= fractions.Fraction(_SMALL_TOLERANCE) * abs(
        gold
    )


@functools.cache
def _library() -> ModuleType:
    """math-verify, its reader made faster; late, since it costs a second and 100 MB."""
    import math_verify

    from hapo_jax.tasks import math_latex

    math_latex.install()
    return math_verify


def _settled(gold: Any, pred: Any, tolerance: float) -> bool | None:
    """Whether two formulas are equal where that is soon known; None elsewhere.

    Of formulas that are not spelt alike math-verify simplifies the difference, which
    takes most of its time. A difference that is far from zero at one place cannot
    become zero, and one that is zero once multiplied out need not be simplified.
    """
    if not _elementary(gold) or not _elementary(pred):
        return None
    math_verify = _library()
    limited = math_verify.utils.timeout(timeout_seconds=_SYMPY_SECONDS)
    try:
        return limited(_compared_at_a_place)(gold, pred, tolerance)
    # What has no number, such as 1/0, is left to math-verify, and so is what mpmath
    # cannot do.
    except (math_verify.errors.TimeoutException, *_NO_NUMBER):
        return None


def _compared_at_a_place(gold: Any, pred: Any, tolerance: float) -> bool | None:
    """False if the values there differ; True if the difference expands to zero.

    True too for numbers within a tolerance that is not 0.
    """
    import sympy

    letters = gold.free_symbols | pred.free_symbols
    names = sorted({letter.name for letter in letters})
    if len(names) > len(_PLACE):
        return None
    place = {letter: _PLACE[names.index(letter.name)] for letter in letters}
    # sympy's own numbers: a float has no room for (x+1)^{999}
    left, right = (value.evalf(subs=place) for value in (gold, pred))
    gap = abs(left - right)
    if tolerance and not letters and gap <= tolerance * abs(left):
        return True
    if gap > _FAR and gap > _FAR * abs(left) and gap > _FAR * abs(right):
        return False
    return True if sympy.expand(gold - pred) == 0 else None


def _elementary(value: Any) -> bool:
    """Whether it is a formula of numbers, letters and elementary functions alone.

    Those have a value at any place. Not so sets, relations, sums up to a letter; names
    and percentages are compared by rules of their own.
    """
    import sympy
    from sympy.functions.elementary import trigonometric

    known = (
        *(sympy.Add, sympy.Mul, sympy.Pow, sympy.exp, sympy.log),
        *(sympy.Number, sympy.NumberSymbol, sympy.Symbol, type(sympy.I)),
        *(trigonometric.TrigonometricFunction,),
        *(trigonometric.InverseTrigonometricFunction,),
    )
    if not isinstance(value, sympy.Expr) or isinstance(value, sympy.Symbol):
        return False
    return all(isinstance(node, known) for node in sympy.preorder_traversal(value))


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
    math_verify = _library()
    return math_verify.parse(
        rf"\boxed{{{text}}}",
        [math_verify.LatexExtractionConfig(boxed_match_priority=0)],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=_SYMPY_SECONDS,
    )
