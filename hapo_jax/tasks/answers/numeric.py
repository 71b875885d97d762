"""Whether two scalar formulas have one value: their trees, computed.

Numbers are computed with as many digits as they have. Formulas with letters are equal
if they agree, in far more digits than chance could give, wherever their letters are
put: at values of both signs, or at whole numbers where rounding or factorials occur.
What would explode is not computed and is not equal: values stay within 10^±4000, so
that each operation is quick.
"""

import fractions
import math
import operator
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from mpmath import mp

from hapo_jax.tasks.answers.formula import Tree, nodes

_DIGITS = 50  # of most computations
_SPARE = 15  # digits that rounding may cost
_MAX_POWER = 4_000  # of ten
_MAX_ARGUMENT = 10**30  # of a sine, which is reduced exactly
_MAX_FACTORIAL = 1_500
_MAX_BITS = 14_000  # of exact powers
_MAX_LETTERS = 30
_TRIALS, _WHOLE_TRIALS = 6, 12  # of whole numbers, k > n leaves many undefined
_ENOUGH = 3  # places at which both sides must have a value
# A decimal stands for what rounds to it: to six places, in which all numbers below
# _SMALL would be nearly zero; those are compared relatively.
_SIX_PLACES = 0.5e-6
_SMALL, _SMALL_TOLERANCE = 1e-3, 1e-5
_INTEGERS = (5, 8, 12, 3, 17, 10, 7, 14, 21, 6, 11)  # for n in floor(n/2) or n!


class Reading(NamedTuple):
    """How to read what is ambiguous, the same on both sides.

    Attributes:
      degrees: whether a degree is pi/180; else its sign counts for nothing.
      common: whether `log` has base 10; else e.
    """

    degrees: bool = False
    common: bool = False


class Undefined(ArithmeticError):
    """There is no value, or none that can be computed."""


def same(gold: Tree, pred: Tree, tolerance: float = 0.0) -> bool:
    """Whether two scalars are equal, in one of the readings that they leave open.

    Args:
      gold, pred: scalar trees of `formula`.
      tolerance: by how much numbers may differ, relative to the gold one.
    """
    left, right = exact(gold), exact(pred)
    if left is not None and right is not None:
        whole = left.denominator == right.denominator == 1
        gap, size = _float(abs(left - right)), _float(abs(left))
        return left == right or _near(gap, size, gold, pred, tolerance, whole)
    names = letters(gold) | letters(pred)
    every = [*nodes(gold), *nodes(pred)]
    degrees = any(node[0] == "deg" for node in every)
    logs = any(node[:2] == ("log", None) for node in every)
    readings = {Reading(d and degrees, c and logs) for d in (0, 1) for c in (0, 1)}
    if names:
        return any(_agree(gold, pred, names, r, _close) for r in readings)
    return any(_same_number(gold, pred, r, tolerance) for r in readings)


def proportional(gold: Tree, pred: Tree, positive: bool) -> bool:
    """Whether formulas with letters differ by a factor that is not 0, or positive."""
    names = letters(gold) | letters(pred)
    factors: list[Any] = []

    def one_factor(left: Any, right: Any, digits: int) -> bool:
        if mp.isinf(left) or mp.isinf(right):
            return False
        if left == 0 or right == 0:
            return left == right
        factors.append(right / left)
        if positive and not (_is_real(factors[-1]) and mp.re(factors[-1]) > 0):
            return False
        return _close(factors[0], factors[-1], digits)

    return bool(names and _agree(gold, pred, names, Reading(), one_factor) and factors)


def exact(tree: Tree) -> fractions.Fraction | None:
    """The value of a tree of numbers and arithmetic, unless it is too large."""
    kind = tree[0]
    if kind == "num":
        return tree[1]
    if kind not in ("neg", "add", "mul", "div", "pow", "fact", "binom"):
        return None
    parts = [exact(part) for part in tree[1:]]
    if None in parts:
        return None
    try:
        value = _EXACT[kind](*parts)
    except (ZeroDivisionError, Undefined):
        return None
    return value if isinstance(value, fractions.Fraction) else None


def _exact_power(base: fractions.Fraction, power: fractions.Fraction) -> Any:
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if power.denominator > 1 or bits * abs(power) > _MAX_BITS:
        raise Undefined
    return base ** int(power)


def _exact_factorial(n: fractions.Fraction) -> fractions.Fraction:
    if n.denominator > 1 or not 0 <= n <= _MAX_FACTORIAL:
        raise Undefined
    return fractions.Fraction(math.factorial(int(n)))


def _exact_binomial(n: fractions.Fraction, k: fractions.Fraction) -> fractions.Fraction:
    if n.denominator * k.denominator > 1 or not 0 <= k <= n <= _MAX_FACTORIAL:
        raise Undefined
    return fractions.Fraction(math.comb(int(n), int(k)))


_EXACT = {
    "neg": operator.neg,
    "add": operator.add,
    "mul": operator.mul,
    "div": operator.truediv,
    "pow": _exact_power,
    "fact": _exact_factorial,
    "binom": _exact_binomial,
}


def number(tree: Tree) -> Any:
    """The value of a scalar without letters, to 50 digits; sorts and tests signs.

    Raises:
      Undefined: it has none.
    """
    with mp.workdps(_DIGITS):
        return _computed(tree, {}, Reading())


def _near(
    gap: Any, size: Any, gold: Tree, pred: Tree, tolerance: float, whole: bool
) -> bool:
    """Whether numbers that differ are as near as a tolerance and decimals allow."""
    if tolerance and gap <= tolerance * size:
        return True
    if gold[0] == pred[0] == "num" and gold[2] == "recurring":
        return _is_rounded(gold[1], pred[1])
    every = [*nodes(gold), *nodes(pred)]
    if whole or not any(node[0] == "num" and node[2] == "decimal" for node in every):
        return False
    return gap <= _SIX_PLACES and (size >= _SMALL or gap <= _SMALL_TOLERANCE * size)


def decimal_places(value: fractions.Fraction) -> int:
    """How many a decimal has; 0 for what is none, or has more than 20."""
    if value.denominator == 1:
        return 0
    return next((n for n in range(1, 21) if (value * 10**n).denominator == 1), 0)


def _is_rounded(value: fractions.Fraction, decimal: fractions.Fraction) -> bool:
    """Whether a decimal is `value`, rounded to its own places, of which it has some."""
    places = decimal_places(decimal)
    return places > 0 and 2 * 10**places * abs(value - decimal) <= 1


def _same_number(gold: Tree, pred: Tree, reading: Reading, tolerance: float) -> bool:
    """Whether two numbers are one, or near."""
    try:
        left, right, digits = _both(gold, pred, {}, reading)
    except Undefined:
        return False
    if _close(left, right, digits):
        return True
    if mp.isinf(left) or mp.isinf(right):
        return False
    with mp.workdps(digits):
        return _near(abs(left - right), abs(left), gold, pred, tolerance, whole=False)


def _agree(
    gold: Tree,
    pred: Tree,
    names: set[str],
    reading: Reading,
    agrees: Callable[[Any, Any, int], bool],
) -> bool:
    """Whether two formulas agree at the places where both have a real value.

    Where there are too few of these, complex values count: `1/\\sqrt{x}` and
    `\\sqrt{1/x}` differ at negative x alone, where nobody means them.
    """
    if len(names) > _MAX_LETTERS:
        return False
    whole = any(_is_of_integers(node) for tree in (gold, pred) for node in nodes(tree))
    real, others = 0, []
    for trial in range(_WHOLE_TRIALS if whole else _TRIALS):
        try:
            values = _both(gold, pred, _place(names, trial, whole), reading)
        except Undefined:
            continue
        if not (_is_real(values[0]) and _is_real(values[1])):
            others.append(values)
        elif agrees(*values):
            real += 1
        else:
            return False
    if real >= _ENOUGH:
        return True
    return real + len(others) >= _ENOUGH and all(agrees(*values) for values in others)


def _both(
    gold: Tree, pred: Tree, place: Mapping[str, Any], reading: Reading
) -> tuple[Any, Any, int]:
    """The values of both, and the digits with which they were computed."""
    digits = _DIGITS
    while True:
        with mp.workdps(digits):
            left, right = (_computed(tree, place, reading) for tree in (gold, pred))
        sizes = _power(left), _power(right)
        needed = int(max(sizes)) + 2 * _SPARE
        if digits >= needed or abs(sizes[0] - sizes[1]) > 1:
            return left, right, digits
        digits = needed


def _close(left: Any, right: Any, digits: int) -> bool:
    if mp.isinf(left) or mp.isinf(right):
        return left == right
    with mp.workdps(digits):
        rest = mp.mpf(10) ** (_SPARE - digits) * max(abs(left), abs(right))
        return abs(left - right) <= rest


def _power(value: Any) -> float:
    """Its size as a power of ten."""
    return 0.0 if value == 0 or mp.isinf(value) else mp.mag(value) * 0.30103


def _is_real(value: Any) -> bool:
    return abs(mp.im(value)) <= abs(value) * mp.mpf(10) ** (_SPARE - _DIGITS)


def _float(value: fractions.Fraction) -> Any:
    return mp.mpf(value.numerator) / value.denominator


def letters(tree: Tree) -> set[str]:
    """The letters that stand for values in a tree."""
    return {node[1] for node in nodes(tree) if node[0] == "sym"}


def _is_of_integers(node: Tree) -> bool:
    """Whether it tells that its letters are whole numbers: n!, or (-1)^n."""
    if node[0] == "pow":
        base = exact(node[1])
        return base is not None and base < 0 and bool(letters(node[2]))
    return node[0] in ("fact", "binom", "floor", "ceil") and bool(letters(node))


def _place(names: set[str], trial: int, whole: bool) -> dict[str, Any]:
    """Values of no meaning for letters; those of the first places are positive."""
    if whole:
        size = len(_INTEGERS)
        return {
            name: mp.mpf(_INTEGERS[(5 * k + 3 * trial) % size])
            for k, name in enumerate(sorted(names))
        }
    place = {}
    for k, name in enumerate(sorted(names)):
        spread = (0.618034 * (k + 1) + 0.754878 * trial) % 1
        value = 0.2 + spread * (2.3 if trial % 3 else 7.1)
        sign = -1 if trial >= _ENOUGH and (k + trial) % 3 else 1
        place[name] = mp.mpf(sign * round(value * 10**6)) / 10**6
    return place


# ---- values


def _computed(tree: Tree, place: Mapping[str, Any], reading: Reading) -> Any:
    """The value of a scalar, or Undefined for whatever mpmath raises."""
    try:
        return _value(tree, place, reading)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise Undefined from error


def _value(node: Tree, place: Mapping[str, Any], reading: Reading) -> Any:
    """The value of a scalar.

    Raises:
      Undefined: it has none, is too large, or is no scalar.
    """
    kind, *parts = node
    match kind:
        case "num":
            return _float(parts[0])
        case "const":
            return {"pi": mp.pi, "e": mp.e, "i": mp.j}[parts[0]] * 1
        case "inf":
            return mp.inf
        case "sym":
            return place[parts[0]] if parts[0] in place else _undefined()
        case "apply":
            arguments = [_value(part, place, reading) for part in parts[1]]
            return _opaque(parts[0], arguments)
        case "big":
            sign, variable, *parts = parts
            place = {**place, variable[1]: mp.mpf(7) / 3}
            return _opaque(sign, [_value(part, place, reading) for part in parts])
        case "call":
            name, value = parts[0], _value(parts[1], place, reading)
            return _ln(value) if name == "ln" else _function(name, value)
        case "log":
            base, value = parts[0], _value(parts[1], place, reading)
            if base is None:
                return _ln(value) / (mp.ln(10) if reading.common else 1)
            return _ln(value) / _nonzero(_ln(_value(base, place, reading)))
        case "deg":
            value = _value(parts[0], place, reading)
            return value * mp.pi / 180 if reading.degrees else value
        case "pow" | "root":
            return _powered(kind, *parts, place, reading)
    if kind not in _ARITHMETIC:
        raise Undefined
    found = _ARITHMETIC[kind](*(_value(part, place, reading) for part in parts))
    if mp.isnan(found) or abs(_power(found)) > _MAX_POWER:
        raise Undefined
    return found


def _undefined(*_: Any) -> NoReturn:
    raise Undefined


def _nonzero(value: Any) -> Any:
    return value if value != 0 else _undefined()


def _sum(left: Any, right: Any) -> Any:
    """What is left of terms that cancel is rounding, not a value."""
    found = left + right
    rest = mp.mpf(10) ** (_SPARE // 2 - mp.dps) * max(abs(left), abs(right))
    return mp.mpf(0) if abs(found) <= rest < mp.inf else found


def _ln(value: Any) -> Any:
    return mp.log(_nonzero(value))


def _function(name: str, value: Any) -> Any:
    """A trigonometric, hyperbolic or inverse function."""
    if abs(value) > (_MAX_POWER if name.endswith("h") else _MAX_ARGUMENT):
        raise Undefined
    return getattr(mp, name.replace("arc", "a"))(value)


def _powered(
    kind: str, first: Tree, second: Tree, place: Mapping[str, Any], reading: Reading
) -> Any:
    """A power or a root; a root of odd degree of a negative number is real."""
    base, power = (first, second) if kind == "pow" else (second, first)
    ratio = exact(power)
    base, power = (_value(tree, place, reading) for tree in (base, power))
    if kind == "root":
        power, ratio = 1 / _nonzero(power), ratio and 1 / ratio
    if mp.isinf(power) or mp.isinf(base) or (base == 0 and not mp.re(power) > 0):
        raise Undefined
    if base == 0:
        return base
    if ratio is not None and ratio.denominator == 1:
        if abs(_power(base) * ratio) > _MAX_POWER:
            raise Undefined
        return base ** int(ratio)
    turns = abs(power) * abs(mp.arg(base))
    size = abs(mp.re(power) * mp.log10(abs(base))) + abs(mp.im(power)) * (1 + turns)
    if size > _MAX_POWER or turns > _MAX_ARGUMENT:
        raise Undefined
    odd = ratio is not None and ratio.denominator % 2 == 1
    if odd and _is_real(base) and mp.re(base) < 0:
        return (-1) ** ratio.numerator * mp.power(-mp.re(base), power)
    return mp.power(base, power)


def _whole(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function where its arguments are whole numbers that are not too large."""

    def guarded(*values: Any) -> Any:
        if any(not mp.isint(v) or not 0 <= v <= _MAX_FACTORIAL for v in values):
            raise Undefined
        return function(*values)

    return guarded


def _rounded(function: Callable[[Any], Any], nudge: int) -> Callable[[Any], Any]:
    """Rounding that does not take 2.999... for less than 3."""

    def guarded(value: Any) -> Any:
        if not _is_real(value) or mp.isinf(value):
            raise Undefined
        return function(mp.re(value) + nudge * mp.mpf(10) ** (_SPARE - _DIGITS))

    return guarded


def _opaque(name: str, arguments: list[Any]) -> Any:
    """A function of no meaning, so that `f(x+1)` is `f(1+x)` and nothing else."""
    seed = mp.mpf(zlib.crc32(name.encode()) % 10**6) / 10**6 + 1
    total = mp.mpf(len(arguments))
    for argument in arguments:
        argument = mp.mpf(11) / 7 if mp.isinf(argument) else argument
        total = total * seed + argument
    return _function("cos", seed * total) + total / 3


_ARITHMETIC = {
    "neg": operator.neg,
    "add": _sum,
    "mul": operator.mul,
    "div": lambda left, right: left / _nonzero(right),
    "percent": lambda value: value / 100,
    "abs": abs,
    "fact": _whole(mp.factorial),
    "binom": _whole(mp.binomial),
    "floor": _rounded(mp.floor, 1),
    "ceil": _rounded(mp.ceil, -1),
}
