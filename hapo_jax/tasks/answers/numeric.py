"""Whether two scalar formulas have one value: their trees, computed.

Numbers are computed with as many digits as they have. Formulas with letters are equal
if they agree, in far more digits than chance could give, wherever their letters are
put: at values of both signs, or at whole numbers where rounding or factorials occur.
What cannot be computed is not equal.
"""

import fractions
from collections.abc import Callable, Mapping
from typing import Any

from mpmath import mp

from hapo_jax.tasks.answers import values
from hapo_jax.tasks.answers.trees import Tree, letters, nodes
from hapo_jax.tasks.answers.values import Reading, Undefined, exact

_MAX_LETTERS = 30
_TRIALS, _WHOLE_TRIALS = 6, 12  # of whole numbers, k > n leaves many undefined
_ENOUGH = 3  # places at which both sides must have a value
# A decimal stands for what rounds to it: to six places, in which all numbers below
# _SMALL would be nearly zero; those are compared relatively.
_SIX_PLACES = 0.5e-6
_SMALL, _SMALL_TOLERANCE = 1e-3, 1e-5
_INTEGERS = (5, 8, 12, 3, 17, 10, 7, 14, 21, 6, 11)  # for n in floor(n/2) or n!


def same(gold: Tree, pred: Tree, tolerance: float = 0.0) -> bool:
    """Whether two scalars are equal, in one of the readings that they leave open.

    Args:
      gold, pred: scalar trees of `formula`.
      tolerance: by how much numbers may differ, relative to the gold one.
    """
    left, right = exact(gold), exact(pred)
    if left is not None and right is not None:
        whole = left.denominator == right.denominator == 1
        gap, size = values.mpf(abs(left - right)), values.mpf(abs(left))
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
        if positive and not (values.is_real(factors[-1]) and mp.re(factors[-1]) > 0):
            return False
        return _close(factors[0], factors[-1], digits)

    return bool(names and _agree(gold, pred, names, Reading(), one_factor) and factors)


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


def _is_rounded(value: fractions.Fraction, decimal: fractions.Fraction) -> bool:
    """Whether a decimal is `value`, rounded to its own places, of which it has some."""
    places = values.decimal_places(decimal)
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
            pair = _both(gold, pred, _place(names, trial, whole), reading)
        except Undefined:
            continue
        if not (values.is_real(pair[0]) and values.is_real(pair[1])):
            others.append(pair)
        elif agrees(*pair):
            real += 1
        else:
            return False
    if real >= _ENOUGH:
        return True
    return real + len(others) >= _ENOUGH and all(agrees(*pair) for pair in others)


def _both(
    gold: Tree, pred: Tree, place: Mapping[str, Any], reading: Reading
) -> tuple[Any, Any, int]:
    """The values of both, and the digits with which they were computed."""
    digits = values.DIGITS
    while True:
        with mp.workdps(digits):
            left, right = (
                values.computed(tree, place, reading) for tree in (gold, pred)
            )
        sizes = values.size(left), values.size(right)
        needed = int(max(sizes)) + 2 * values.SPARE
        if digits >= needed or abs(sizes[0] - sizes[1]) > 1:
            return left, right, digits
        digits = needed


def _close(left: Any, right: Any, digits: int) -> bool:
    if mp.isinf(left) or mp.isinf(right):
        return left == right
    with mp.workdps(digits):
        rest = mp.mpf(10) ** (values.SPARE - digits) * max(abs(left), abs(right))
        return abs(left - right) <= rest


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
