r"""Trees of mathematical answers: tuples of a kind and its parts.

Scalars:

    num value kind     an exact, decimal or recurring number
    const pi|e|i, inf, sym name, apply name arguments
    neg x, pm x (plus or minus x), mp x, add x y, mul x y, div x y, pow x y, root n x
    fact x, binom n k, abs x, floor x, ceil x, call function x, log base x
    deg x, percent x, big sum|prod variable from to body

and what is made of them:

    list items joint, tuple items, set items, interval low high closed closed
    such condition (a set), union a b, minus a b, numbers R|Z|..., matrix rows
    rel operators sides, ratio items, time items, based digits base
    quantity x unit, name text
"""

import itertools
from collections.abc import Iterator
from typing import Any

Tree = tuple[Any, ...]

SETS = ("interval", "set", "such", "union", "minus", "numbers")
# Kinds that one cannot calculate with.
COMPOSED = (*SETS, "tuple", "list", "rel", "ratio", "time", "based", "quantity", "name")
_MAX_SIGNS = 4  # of ± in one answer, which has up to 2^4 values then


def nodes(tree: Tree) -> Iterator[Tree]:
    """The tree and all trees in it."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if node and isinstance(node[0], str):
            yield node
        stack += [part for part in node if isinstance(part, tuple)]


def letters(tree: Tree) -> set[str]:
    """The letters that stand for values in a tree."""
    return {node[1] for node in nodes(tree) if node[0] == "sym"}


def variants(tree: Tree) -> list[Tree]:
    """The tree for each choice of its signs; those of ± and ∓ go together."""
    signs = [node[0] for node in nodes(tree) if node[0] in ("pm", "mp")]
    if not signs or len(signs) > _MAX_SIGNS:
        return [tree]
    if "mp" in signs:
        choices = [("+",) * len(signs), ("-",) * len(signs)]
    else:
        choices = [*itertools.product("+-", repeat=len(signs))]
    return [_chosen(tree, iter(choice)) for choice in choices]


def _chosen(tree: Tree, signs: Iterator[str]) -> Tree:
    """The tree with a sign for each ±."""
    if tree and tree[0] in ("pm", "mp"):
        negative = (next(signs) == "-") == (tree[0] == "pm")
        inner = _chosen(tree[1], signs)
        return ("neg", inner) if negative else inner
    return tuple(_chosen(p, signs) if isinstance(p, tuple) else p for p in tree)
