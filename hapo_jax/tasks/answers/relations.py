r"""Equations: what `x = 5` says, and when two equations are one.

An equation with the value of a name says that value. Others are compared as equations:
equal up to a factor, unless the gold answer is solved, for then `3x = 15`, which the
problem might have said itself, is no answer.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

from hapo_jax.tasks.answers import numeric, regions, trees, values
from hapo_jax.tasks.answers.trees import Tree

_COMPOSED = (*trees.COMPOSED, "matrix")
Scalars = Callable[[Tree, Tree], bool]


class Stated(NamedTuple):
    """What an equation says.

    Attributes:
      name: what the value is of; None in a chain of equal numbers.
      values: the value; of a chain that agrees, also its other numbers.
    """

    name: Tree | None
    values: tuple[Tree, ...]


def read(tree: Tree, scalars: Scalars, of_many: bool = False) -> Stated | None:
    r"""The value that an equation or a chain of some gives; None if it gives none.

    The numbers of a chain must agree (`x = 41 = 42` says nothing), and what follows
    `\approx` must be rounded from what stands before it.

    Args:
      tree: any.
      scalars: whether two scalars are equal.
      of_many: whether `x + y = 7` gives the value of `x + y`.
    """
    if tree[0] != "rel" or not set(tree[1]) <= {"=", "\\approx"}:
        return None
    operators, sides = tree[1:]
    equal = [*operators, "\\approx"].index("\\approx")
    if "=" in operators[equal:]:
        return None
    chain, rounded = list(sides[: equal + 1]), sides[equal + 1 :]
    name = None
    if _names(chain[0], sides[1:], of_many):
        name = chain.pop(0)
    elif len(chain) == 2 and _names(chain[1], chain[:1], False):
        name = chain.pop(1)
    if not chain:
        chain, rounded = [rounded[0]], rounded[1:]
    if name is None and len(set(chain)) < len(chain):
        return None  # x = x
    if not _agree(chain, scalars, name is not None):
        return None
    if not all(_rounds(chain[-1], value) for value in rounded):
        return None
    numbers = [side for side in chain[:-1] if not trees.letters(side)]
    return Stated(name, (chain[-1], *numbers, *rounded))


def _names(name: Tree, others: tuple[Tree, ...] | list[Tree], of_many: bool) -> bool:
    """Whether a side is what the other sides are the value of."""
    inside = trees.letters(name)
    elsewhere = set().union(*map(trees.letters, others))
    if regions.is_named(name) or name in (("const", "e"), ("const", "i")):
        return inside & elsewhere <= {argument(name)}
    many = len(inside) > 1 or any(node[0] == "apply" for node in trees.nodes(name))
    return of_many and many and not elsewhere


def argument(name: Tree) -> str | None:
    """The letter that `f(x)` or `p(x)`, as a name, is a function of."""
    if name[0] == "apply":
        last = name[2][-1]
    elif name[0] == "mul" and name[1][0] == "sym":
        last = name[2]
    else:
        return None
    return last[1] if last[0] == "sym" else None


def _agree(chain: list[Tree], scalars: Scalars, named: bool) -> bool:
    """Whether the sides of a chain are one value, those that can be compared."""
    *others, last = chain
    if any(side[0] in _COMPOSED for side in others):
        return all(side == last for side in others)
    for side in others:
        if last[0] in _COMPOSED:
            return False
        if named and trees.letters(side) > trees.letters(last):
            continue  # values were put in: A = \pi r^2 = 9\pi
        if not (scalars(last, side) or _rounds(side, last)):
            return False
    return True


def _rounds(value: Tree, decimal: Tree) -> bool:
    """Whether a number is a rounding of another, which is no whole number."""
    value, decimal = (t[1] if t[0] == "quantity" else t for t in (value, decimal))
    exact, rounded = values.exact(value), values.exact(decimal)
    if rounded is None or (exact is not None and exact.denominator == 1):
        return exact == rounded is not None
    try:
        gap = abs(values.number(value) - values.number(decimal))
    except values.Undefined:
        return False
    if rounded.denominator == 1:
        return gap <= 0.5
    places = values.decimal_places(rounded)
    return places > 0 and gap <= 10.0**-places


def same(gold: Tree, pred: Tree) -> bool:
    """Whether two relations are one: side by side, or up to a factor."""
    equations = gold[1] == pred[1] and set(gold[1]) == {"="}
    if equations and _is_solved(gold):
        return False
    if equations:
        ascending = [tree[1:] for tree in (gold, pred)]
    else:
        ascending = [regions.ascend(*tree[1:]) for tree in (gold, pred)]
    if None in ascending or ascending[0][0] != ascending[1][0]:
        return False
    left, right = (sides for _, sides in ascending)
    differences = _difference(left), _difference(right)
    if all(differences) and numeric.proportional(*differences, positive=not equations):
        return True
    orders = itertools.permutations(right) if equations and len(right) < 5 else (right,)
    return any(all(map(_same_side, left, order)) for order in orders)


def _same_side(gold: Tree, pred: Tree) -> bool:
    if gold[0] in _COMPOSED or pred[0] in _COMPOSED:
        return gold == pred
    return numeric.same(gold, pred)


def _is_solved(tree: Tree) -> bool:
    """Whether it is a number's name and the number: `x = 5`."""
    stated = read(tree, numeric.same)
    if not stated or not stated.name or stated.values[0][0] == "name":
        return False
    return not trees.letters(stated.values[0])


def _difference(sides: tuple[Tree, ...]) -> Tree | None:
    if len(sides) != 2 or any(side[0] in _COMPOSED for side in sides):
        return None
    return ("add", sides[0], ("neg", sides[1]))
