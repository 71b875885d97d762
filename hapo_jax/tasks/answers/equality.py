r"""Whether two answers are one: as texts, or as what they mean.

`same` is the grading `lenient`: values decide. `1/2` is `0.5`, `x = 5` is `5`, a list
has no order, `[1, 2)` is `1 \le x < 2`. `same_written` is `strict`: formulas must be
written alike, up to LaTeX's ways of writing one thing.

An answer that `formula` cannot read whole equals only its own text. What counts is said
in full, with examples, in docs/math_grading.md.
"""

import functools
import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hapo_jax.tasks.answers import (
    formula,
    lexer,
    matrices,
    numeric,
    regions,
    relations,
    trees,
    units,
    values,
)
from hapo_jax.tasks.answers.trees import SETS, Tree, nodes

_POINT, _COMMA = re.compile(r"-?\d+\.\d+"), re.compile(r"-?\d+,\d+")
_CHOICE = re.compile(r"^\(?([A-Za-z])\)?$")
_COMPARED_WHOLE = frozenset(("based", "time", "name", "tuple"))
Tokens = tuple[lexer.Token, ...]


class _Rule(NamedTuple):
    """How strict a comparison is.

    Attributes:
      scalars: whether two scalars are equal.
      sides: the same for the sides of one equation, each of which may be off.
      written: whether the order of lists and the form of relations count.
    """

    scalars: Callable[[Tree, Tree], bool] = numeric.same
    sides: Callable[[Tree, Tree], bool] = numeric.same
    written: bool = False


class _Thing(NamedTuple):
    """One thing that an answer says.

    Attributes:
      tree: all of it.
      name, values: see `relations.Stated`; no name and the tree where it is no such.
    """

    tree: Tree
    name: Tree | None
    values: tuple[Tree, ...]


def same(gold: str, pred: str, tolerance: float = 0.0) -> bool:
    """Whether two answers mean the same.

    Args:
      gold, pred: answers.
      tolerance: by how much single numbers may differ, relative to the gold one.
    """
    return _same_answer(gold, pred, _Rule(), tolerance)


def same_written(gold: str, pred: str) -> bool:
    """Whether two answers are written alike; fractions must be in lowest terms."""
    return _same_answer(gold, pred, _Rule(_alike, written=True))


def _same_answer(gold: str, pred: str, rule: _Rule, tolerance: float = 0.0) -> bool:
    if gold == pred and gold.isdecimal():  # the usual case, settled at once
        return True
    left, right = (lexer.trimmed(lexer.read(text)) for text in (gold, pred))
    if not lexer.speaks(left) or not lexer.speaks(right):
        return False
    comma = _COMMA.fullmatch(pred.strip(" $."))
    if comma and _POINT.fullmatch(lexer.key(left)):  # 2,74 for 2.74
        right = lexer.read(comma[0].replace(",", "."))
    if _same_tokens(left, right, rule, tolerance):
        return True
    choice = lexer.chosen(right)  # `(C) 42` is C, and 42
    if choice and _CHOICE.fullmatch(lexer.key(left)):
        return _CHOICE.fullmatch(lexer.key(left))[1] == choice[0]
    return choice is not None and _same_tokens(left, choice[1], rule, tolerance)


def _same_tokens(gold: Tokens, pred: Tokens, rule: _Rule, tolerance: float) -> bool:
    """Whether answers are one in text or in meaning."""
    if _same_text(gold, pred):
        return True
    left, right = formula.of_tokens(gold), formula.of_tokens(pred)
    if left is None or right is None:
        return False
    if tolerance and not {"list", "tuple", "set", "interval"} & {left[0], right[0]}:
        near = functools.partial(numeric.same, tolerance=tolerance)
        sides = functools.partial(numeric.same, tolerance=2 * tolerance)
        rule = rule._replace(scalars=near, sides=sides)
    return _same(*_with_one_notation(left, right), rule)


def _same_text(gold: Tokens, pred: Tokens) -> bool:
    """Whether answers are one text. The case of words does not count, nor (B) for B."""
    left, right = (_CHOICE.sub(r"\1", lexer.key(side)) for side in (gold, pred))
    folds = all(
        token.kind not in (lexer.LETTER, lexer.FUNCTION)
        and not (token.kind == lexer.WORD and token.text.isupper())
        for token in gold
    )
    return left == right or (folds and left.lower() == right.lower())


def _with_one_notation(gold: Tree, pred: Tree) -> tuple[Tree, Tree]:
    """Where one side writes x', the other's dx/dt is x' too."""
    names = {
        n[1] for tree in (gold, pred) for n in nodes(tree) if n[0] in ("sym", "apply")
    }
    if any(name.startswith("D") and name.endswith("|") for name in names):
        short = {name: name.partition("|")[0] + "|" for name in names if "|" in name}
        gold, pred = (_substituted(tree, short) for tree in (gold, pred))
    return gold, pred


def _substituted(tree: Tree, names: dict[str, str]) -> Tree:
    """The tree with other names for some of its letters and functions."""
    if tree and tree[0] in ("sym", "apply"):
        tree = (tree[0], names.get(tree[1], tree[1]), *tree[2:])
    return tuple(_substituted(p, names) if isinstance(p, tuple) else p for p in tree)


# ---- scalars as they are written


def _alike(gold: Tree, pred: Tree) -> bool:
    """Whether two scalars are one exact number in lowest terms, or one formula."""
    left, right = values.exact(gold), values.exact(pred)
    if left is not None and right is not None:
        return left == right and all(map(_is_reduced, (gold, pred)))
    return _bare(gold) == _bare(pred)


def _is_reduced(number: Tree) -> bool:
    """Whether no fraction in an exact number could be cancelled."""
    quotients = (node for node in nodes(number) if node[0] == "div")
    terms = ([values.exact(part) for part in node[1:]] for node in quotients)
    return all(
        math.gcd(top.numerator, under.numerator) == 1
        for top, under in terms
        if top.denominator == under.denominator == 1
    )


def _bare(tree: Tree) -> Tree:
    """The tree without how its numbers are written, and without degree signs."""
    if tree and tree[0] == "num":
        return tree[:2]
    if tree and tree[0] == "deg":
        return _bare(tree[1])
    return tuple(_bare(part) if isinstance(part, tuple) else part for part in tree)


# ---- lists


def _same(gold: Tree, pred: Tree, rule: _Rule) -> bool:
    """Whether two trees of any kind mean the same."""
    if regions.is_continuous(gold) or regions.is_continuous(pred):
        left, right = regions.read(gold), regions.read(pred)
        equal = functools.partial(_same_value, rule=rule)
        return bool(left and right) and regions.same(left, right, equal)
    gold, pred = map(_as_tuple, (gold, pred))
    if {gold[0], pred[0]} == {"rel", "list"}:  # `p = 3, q = 2` for (p, q) = (3, 2)
        gold, pred = (_value(tree, rule) for tree in (gold, pred))
    apart = {gold[0], pred[0]} == {"tuple", "list"}  # `1, 2` for (1, 2), in this order
    members = [[*tree[1]] if apart else _listed(tree) for tree in (gold, pred)]
    left, right = ([_thing(tree, rule) for tree in side] for side in members)
    names = _common_name(left), _common_name(right)
    if all(names) and names[0] != names[1]:
        return False
    left, right = (
        [thing._replace(name=None) for thing in side] if name else side
        for name, side in zip(names, (left, right))
    )
    if not left or not right:
        return left == right
    if len(left) == 1:  # `3/4 or 0.75` names one number
        return all(_same_thing(left[0], thing, rule) for thing in right)
    if apart or rule.written or (left[0].name is None) != (right[0].name is None):
        pairs = zip(left, right)
        return len(left) == len(right) and all(_same_thing(*p, rule) for p in pairs)
    return len(left) <= len(right) <= 2 * len(left) and _paired(left, right, rule)


def _paired(gold: list[_Thing], pred: list[_Thing], rule: _Rule) -> bool:
    """Whether each of gold is in pred; what pred says twice gold need not."""
    left = list(pred)
    for thing in gold:
        found = next((other for other in left if _same_thing(thing, other, rule)), None)
        if found is None:
            return False
        left.remove(found)
    repeats = any(_same_thing(*pair, rule) for pair in itertools.combinations(gold, 2))
    return not left or (
        not repeats
        and all(any(_same_thing(thing, o, rule) for thing in gold) for o in left)
    )


def _listed(tree: Tree) -> list[Tree]:
    """The members of a list or a set; what holds a ± is several."""
    items = tree[1] if tree[0] in ("list", "set") else (tree,)
    return [variant for item in items for variant in trees.variants(item)]


def _value(tree: Tree, rule: _Rule) -> Tree:
    """(3, 2) of `(p, q) = (3, 2)`; another tree as it is."""
    stated = relations.read(tree, rule.sides)
    return stated.values[0] if stated else tree


def _common_name(things: Sequence[_Thing]) -> Tree | None:
    """The name that all of several things share, or that the first alone has."""
    first, *rest = things or [None]
    names = {thing.name for thing in rest}
    return first.name if names in ({first and first.name}, {None}) else None


def _thing(tree: Tree, rule: _Rule, of_many: bool = False) -> _Thing:
    return _Thing(tree, *(relations.read(tree, rule.sides, of_many) or (None, (tree,))))


def _same_thing(gold: _Thing, pred: _Thing, rule: _Rule) -> bool:
    """Whether two things are one; a name that one side leaves out does not count."""
    related = [thing.tree[0] == "rel" for thing in (gold, pred)]
    if related == [False, True]:
        pred = _thing(pred.tree, rule, of_many=True)
    left, right = (
        _with_one_argument(gold, pred) if gold.name and pred.name else (gold, pred)
    )
    if not (left.name and right.name) or left.name == right.name:
        pairs = itertools.product(left.values, right.values)
        if any(_same_value(*pair, rule) for pair in pairs):
            return True
    return all(related) and not rule.written and relations.same(gold.tree, pred.tree)


def _with_one_argument(gold: _Thing, pred: _Thing) -> tuple[_Thing, _Thing]:
    """f(x) = 2x and f(n) = 2n with the same letter."""
    arguments = [relations.argument(thing.name) for thing in (gold, pred)]
    free = [
        thing.name[0] == "apply" or argument in trees.letters(thing.values)
        for thing, argument in zip((gold, pred), arguments)
    ]
    if None in arguments or not all(free):
        return gold, pred
    return tuple(
        _Thing(thing.tree, *_substituted((thing.name, thing.values), {argument: "·"}))
        for thing, argument in zip((gold, pred), arguments)
    )


# ---- values


def _same_value(gold: Tree, pred: Tree, rule: _Rule) -> bool:
    """Whether two values of any kind are one."""
    gold, pred = map(_as_tuple, (gold, pred))
    kinds = gold[0], pred[0]
    if "rel" in kinds:
        return rule.written and _bare(gold) == _bare(pred)
    if "quantity" in kinds:
        bare = [tree[1] if tree[0] == "quantity" else tree for tree in (gold, pred)]
        found = [
            tree[2] if tree[0] == "quantity" else units.OF_SIGNS.get(tree[0])
            for tree in (gold, pred)
        ]
        return units.agree(*found) and _same_value(*bare, rule)
    if kinds == ("tuple", "tuple"):
        pairs = list(itertools.zip_longest(gold[1], pred[1]))
        return all(all(pair) and _same(*pair, rule) for pair in pairs)
    if {"list", *SETS} & {*kinds}:
        return _same(gold, pred, rule)
    if "matrix" in kinds:
        return set(kinds) == {"matrix"} and _same_matrix(gold[1], pred[1], rule)
    if "ratio" in kinds:
        return _same_ratio(gold, pred, rule)
    if _COMPARED_WHOLE & {*kinds}:
        return gold == pred
    return _same_scalar(gold, pred, rule)


def _same_scalar(gold: Tree, pred: Tree, rule: _Rule) -> bool:
    """50% is 1/2, and it is 50 where the other side has no percent sign."""
    gold, pred = map(_with_share_outside, (gold, pred))
    if {gold[0], pred[0]} == {"percent", "deg"}:
        return False
    shares = [tree[0] == "percent" for tree in (gold, pred)]
    bare = [tree[1] if share else tree for tree, share in zip((gold, pred), shares)]
    if rule.scalars(*bare):
        return True
    return shares[0] != shares[1] and not rule.written and rule.scalars(gold, pred)


def _with_share_outside(tree: Tree) -> Tree:
    """-(50%) as (-50)%."""
    if tree[0] == "neg" and tree[1][0] == "percent":
        return ("percent", ("neg", tree[1][1]))
    return tree


def _as_tuple(tree: Tree) -> Tree:
    """A column of numbers as the point that it is, once its arithmetic is done."""
    tree = matrices.calculated(tree) or tree
    if tree[0] == "matrix" and len(tree[1]) > 1 and len(tree[1][0]) == 1:
        return ("tuple", tuple(row[0] for row in tree[1]))
    return tree


def _same_matrix(gold: matrices.Rows, pred: matrices.Rows, rule: _Rule) -> bool:
    if (len(gold), len(gold[0])) != (len(pred), len(pred[0])):
        return False
    cells = (zip(*rows) for rows in zip(gold, pred))
    return all(_same_scalar(*pair, rule) for row in cells for pair in row)


def _same_ratio(gold: Tree, pred: Tree, rule: _Rule) -> bool:
    """3:1 is 6:2 and 3; but not what is not in lowest terms, as 9:24 in the morning."""
    if gold[0] == pred[0] and _same(("tuple", gold[1]), ("tuple", pred[1]), rule):
        return True
    terms = [values.exact(item) for item in gold[1]] if gold[0] == "ratio" else []
    common = None not in terms and math.gcd(*(int(term) for term in terms)) > 1
    if rule.written or common:
        return False
    quotients = []
    for tree in (gold, pred):
        if tree[0] == "ratio" and len(tree[1]) == 2:
            tree = ("div", *tree[1])
        if tree[0] in trees.COMPOSED:
            return False
        quotients.append(tree)
    return rule.scalars(*quotients)
