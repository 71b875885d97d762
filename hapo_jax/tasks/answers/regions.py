r"""Sets of numbers: intervals, unions, what is left of a line, inequalities.

`1 \le x < 2`, `x \in [1, 2)` and `[1,2)` are one region; the first two name their
variable, and another name is another answer.
"""

from collections.abc import Callable
from typing import NamedTuple

from hapo_jax.tasks.answers import trees, values
from hapo_jax.tasks.answers.trees import SETS, Tree

_INFINITY: Tree = ("inf",)
_LINE: Tree = ("interval", ("neg", _INFINITY), _INFINITY, False, False)
_ASCENDING = {"<": "<", "\\le": "\\le", ">": "<", "\\ge": "\\le"}


class Region(NamedTuple):
    """Attributes:
    variable: what lies in it; None if that is not said.
    parts: ("interval", low, high, closed, closed), ("point", x) or ("numbers", name).
    """

    variable: Tree | None
    parts: tuple[Tree, ...]


def is_named(tree: Tree) -> bool:
    """Whether it can be what a value is given for: x_1, f(2), AB, NO/BO, (p, q)."""
    kind, *parts = tree
    if kind in ("sym", "name", "apply"):
        return True
    if kind in ("mul", "div", "abs"):
        return all(map(is_named, parts))
    if kind in ("tuple", "ratio"):
        return all(map(is_named, parts[0]))
    return kind == "call" and is_named(parts[1])


def read(tree: Tree) -> Region | None:
    """The region that a tree describes; None if it describes none.

    A pair is an open interval here, a set of values its points.
    """
    kind, *parts = tree
    if kind == "interval":
        return Region(None, (tree,))
    if kind == "tuple" and len(parts[0]) == 2:
        return Region(None, (("interval", *parts[0], False, False),))
    if kind == "set":
        return Region(None, tuple(("point", item) for item in parts[0]))
    if kind == "numbers":
        return Region(None, (_LINE if parts[0] == "R" else tree,))
    if kind == "union":
        return _joined([read(part) for part in parts])
    if kind == "minus":
        whole, taken = map(read, parts)
        points = [part for part in taken.parts if part[0] == "point"] if taken else []
        if not whole or not points or len(points) < len(taken.parts):
            return None
        return _without(whole, [point[1] for point in points])
    if kind == "such":
        inner = read(parts[0])
        return inner and Region(None, inner.parts)
    if kind == "rel":
        return _of_relation(*parts)
    if kind == "list":
        return _of_list(*parts)
    return None


def is_continuous(tree: Tree) -> bool:
    """Whether a tree describes a region and cannot be a list of values."""
    kind, *parts = tree
    if kind == "list":
        return parts[0][0][0] == "rel" and read(tree) is not None
    if kind == "rel":
        return read(tree) is not None
    return kind in SETS and kind != "set"


def same(gold: Region, pred: Region, scalars: Callable[[Tree, Tree], bool]) -> bool:
    """Whether two regions are one, part by part in any order."""
    if gold.variable and pred.variable and gold.variable != pred.variable:
        return False
    left = list(pred.parts)
    for part in gold.parts:
        found = next((p for p in left if _same_part(part, p, scalars)), None)
        if found is None:
            return False
        left.remove(found)
    return not left


def _same_part(gold: Tree, pred: Tree, scalars: Callable[[Tree, Tree], bool]) -> bool:
    if gold[0] != pred[0] or gold[3:] != pred[3:]:
        return False
    if gold[0] == "numbers":
        return gold == pred
    return all(scalars(*ends) for ends in zip(gold[1:3], pred[1:3]))


def _joined(regions: list[Region | None]) -> Region | None:
    """The union of regions about one variable."""
    if None in regions:
        return None
    variables = {region.variable for region in regions} - {None}
    parts = tuple(part for region in regions for part in region.parts)
    return Region(next(iter(variables), None), parts) if len(variables) < 2 else None


def _without(region: Region, points: list[Tree]) -> Region | None:
    """A region without points that lie inside of it."""
    parts = list(region.parts)
    try:
        for point in points:
            at = _real(point)
            for place, (kind, *ends) in enumerate(parts):
                if kind == "interval" and _real(ends[0]) < at < _real(ends[1]):
                    low, high, closed, closes = ends
                    parts[place : place + 1] = [
                        ("interval", low, point, closed, False),
                        ("interval", point, high, False, closes),
                    ]
                    break
            else:
                return None
    except values.Undefined:
        return None
    return Region(region.variable, tuple(parts))


def _real(tree: Tree) -> float:
    value = values.number(tree)
    if value.imag != 0:
        raise values.Undefined
    return value.real


def _of_relation(operators: tuple[str, ...], sides: tuple[Tree, ...]) -> Region | None:
    r"""`x \in [1, 2)`, `x \ne 3`, `1 < x \le 2`."""
    if operators == ("\\in",) and is_named(sides[0]):
        inner = read(sides[1])
        return inner and Region(sides[0], inner.parts)
    if operators == ("\\ne",) and is_named(sides[0]):
        points = trees.variants(sides[1])
        return _without(Region(sides[0], (_LINE,)), points)
    ascending = ascend(operators, sides)
    return ascending and _between(*ascending)


def ascend(
    operators: tuple[str, ...], sides: tuple[Tree, ...]
) -> tuple[tuple[str, ...], tuple[Tree, ...]] | None:
    """An inequality from its smallest side on; None if it is none."""
    if not set(operators) <= set(_ASCENDING):
        return None
    if set(operators) <= {">", "\\ge"}:
        operators, sides = operators[::-1], sides[::-1]
    elif not set(operators) <= {"<", "\\le"}:
        return None
    return tuple(_ASCENDING[operator] for operator in operators), sides


def _between(operators: tuple[str, ...], sides: tuple[Tree, ...]) -> Region | None:
    """The region in which an inequality from below has its variable."""
    if len(sides) == 2 and ("neg" in (sides[0][0], sides[1][0])):  # -x < 3
        flipped = [side[1] if side[0] == "neg" else ("neg", side) for side in sides]
        if is_named(flipped[0]) != is_named(flipped[1]):
            sides = tuple(reversed(flipped))
    named = [is_named(side) for side in sides]
    if named == [True, False]:
        (variable, high), low = sides, ("neg", _INFINITY)
        operators = ("<", *operators)
    elif named == [False, True]:
        (low, variable), high = sides, _INFINITY
        operators = (*operators, "<")
    elif len(sides) == 3 and named[1]:
        low, variable, high = sides
    else:
        return None
    if trees.letters(variable) & (trees.letters(low) | trees.letters(high)):
        return None
    closed, closes = (operator == "\\le" for operator in operators)
    part = ("interval", low, high, closed, closes)
    if variable[0] == "abs":
        return _of_size(variable[1], part)
    return Region(variable, (part,))


def _of_size(variable: Tree, part: Tree) -> Region:
    """Where a number lies whose absolute value lies in an interval."""
    _, low, high, closed, closes = part
    if low == ("neg", _INFINITY):
        return Region(variable, (("interval", ("neg", high), high, closes, closes),))
    below = ("interval", ("neg", high), ("neg", low), closes, closed)
    return Region(variable, (below, part))


def _of_list(items: tuple[Tree, ...], joint: str) -> Region | None:
    """Inequalities in one variable: all of them hold, or one of them."""
    if all(item[:2] == ("rel", ("\\ne",)) for item in items):
        points = [item[2][1] for item in items]
        variables = {item[2][0] for item in items}
        if len(variables) > 1 or not is_named(items[0][2][0]):
            return None
        return _without(Region(variables.pop(), (_LINE,)), points)
    if not all(item[0] == "rel" for item in items):
        return None
    regions = [read(item) for item in items]
    if joint != "or" and None not in regions:  # `x \in \mathbb{R}` adds nothing
        regions = [r for r in regions if r.parts != (_LINE,)] or regions[:1]
    joined = _joined(regions)
    if joint == "or" or not joined or len(joined.parts) != 2 or len(regions) != 2:
        return joined
    return _overlap(joined) or (joined if joint == "," else None)


def _overlap(region: Region) -> Region | None:
    """What two half-lines have in common; None if that is nothing."""
    first, second = region.parts
    if first[0] != second[0] or first[0] != "interval":
        return None
    if first[1] == ("neg", _INFINITY):
        first, second = second, first
    if first[2] != _INFINITY or second[1] != ("neg", _INFINITY):
        return None
    try:
        if not _real(first[1]) < _real(second[2]):
            return None
    except values.Undefined:
        return None
    common = ("interval", first[1], second[2], first[3], second[4])
    return Region(region.variable, (common,))
