"""Arithmetic of matrices whose cells are trees."""

import fractions
import functools

from hapo_jax.tasks.answers import trees
from hapo_jax.tasks.answers.trees import Tree

Rows = tuple[tuple[Tree, ...], ...]
_MOST = 3  # matrices in one formula; the cells of their product grow with each
_ONE: Tree = ("num", fractions.Fraction(1), "exact")


def calculated(tree: Tree) -> Tree | None:
    """One matrix for a sum or a product with some; None where that is undefined.

    A tree without matrices comes back as it is.
    """
    kind, *parts = tree
    count = sum(node[0] == "matrix" for node in trees.nodes(tree))
    if kind == "matrix" or count == 0:
        return tree
    if count > _MOST:
        return None
    if kind == "neg":
        kind, parts = "mul", [("neg", _ONE), parts[0]]
    elif kind == "div" and not any(
        node[0] == "matrix" for node in trees.nodes(parts[1])
    ):
        kind, parts = "mul", [("div", _ONE, parts[1]), parts[0]]
    if kind not in ("add", "mul"):
        return None
    left, right = map(calculated, parts)
    if left is None or right is None:
        return None
    if left[0] == right[0] == "matrix":
        rows = _sum(left[1], right[1]) if kind == "add" else _product(left[1], right[1])
        return rows and ("matrix", rows)
    if kind == "add":
        return None
    scalar, matrix = (left, right) if right[0] == "matrix" else (right, left)
    return (
        "matrix",
        tuple(tuple(("mul", scalar, cell) for cell in row) for row in matrix[1]),
    )


def _sum(left: Rows, right: Rows) -> Rows | None:
    if (len(left), len(left[0])) != (len(right), len(right[0])):
        return None
    return tuple(
        tuple(("add", *cells) for cells in zip(*rows)) for rows in zip(left, right)
    )


def _product(left: Rows, right: Rows) -> Rows | None:
    if len(left[0]) != len(right):
        return None
    columns = tuple(zip(*right))
    return tuple(tuple(_dot(row, column) for column in columns) for row in left)


def _dot(row: tuple[Tree, ...], column: tuple[Tree, ...]) -> Tree:
    terms = (("mul", *pair) for pair in zip(row, column))
    return functools.reduce(lambda left, right: ("add", left, right), terms)
