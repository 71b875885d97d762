"""The value of a scalar tree: exact, or to as many digits as are asked for.

What would explode is not computed: values stay within 10^±4000, so that each operation
is quick.
"""

import fractions
import math
import operator
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from mpmath import mp

from hapo_jax.tasks.answers.trees import Tree

DIGITS = 50  # of most computations
SPARE = 15  # digits that rounding may cost
_MAX_POWER = 4_000  # of ten
_MAX_ARGUMENT = 10**30  # of a sine, which is reduced exactly
_MAX_FACTORIAL = 1_500
_MAX_BITS = 14_000  # of exact powers


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
    with mp.workdps(DIGITS):
        return computed(tree, {}, Reading())


def decimal_places(value: fractions.Fraction) -> int:
    """How many a decimal has; 0 for what is none, or has more than 20."""
    if value.denominator == 1:
        return 0
    return next((n for n in range(1, 21) if (value * 10**n).denominator == 1), 0)


def size(value: Any) -> float:
    """Of a value, as a power of ten."""
    return 0.0 if value == 0 or mp.isinf(value) else mp.mag(value) * 0.30103


def is_real(value: Any) -> bool:
    """Whether a value has no imaginary part, up to rounding."""
    return abs(mp.im(value)) <= abs(value) * mp.mpf(10) ** (SPARE - DIGITS)


def mpf(value: fractions.Fraction) -> Any:
    """The fraction as a number of mpmath."""
    return mp.mpf(value.numerator) / value.denominator


def computed(tree: Tree, place: Mapping[str, Any], reading: Reading) -> Any:
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
            return mpf(parts[0])
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
    if mp.isnan(found) or abs(size(found)) > _MAX_POWER:
        raise Undefined
    return found


def _undefined(*_: Any) -> NoReturn:
    raise Undefined


def _nonzero(value: Any) -> Any:
    return value if value != 0 else _undefined()


def _sum(left: Any, right: Any) -> Any:
    """What is left of terms that cancel is rounding, not a value."""
    found = left + right
    rest = mp.mpf(10) ** (SPARE // 2 - mp.dps) * max(abs(left), abs(right))
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
        if abs(size(base) * ratio) > _MAX_POWER:
            raise Undefined
        return base ** int(ratio)
    turns = abs(power) * abs(mp.arg(base))
    growth = abs(mp.re(power) * mp.log10(abs(base))) + abs(mp.im(power)) * (1 + turns)
    if growth > _MAX_POWER or turns > _MAX_ARGUMENT:
        raise Undefined
    odd = ratio is not None and ratio.denominator % 2 == 1
    if odd and is_real(base) and mp.re(base) < 0:
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
        if not is_real(value) or mp.isinf(value):
            raise Undefined
        return function(mp.re(value) + nudge * mp.mpf(10) ** (SPARE - DIGITS))

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
