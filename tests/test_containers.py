"""Containers are filled by name: a field put in the middle must shift nothing."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "hapo_jax"
# The verifiers' tuples are their own, and some came over a socket. `plain.py` is one
# page that declares what it fills and shares it with nobody.
OTHERS = {PACKAGE / "tasks", PACKAGE / "plain.py"}


def trees():
    for path in sorted([*PACKAGE.rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]):
        if not OTHERS & {path, *path.parents}:
            yield path.relative_to(ROOT), ast.parse(path.read_text())


def containers() -> set[str]:
    """Names of the NamedTuples and dataclasses."""
    return {
        node.name
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(
            "NamedTuple" in ast.unparse(x) or "dataclass" in ast.unparse(x)
            for x in [*node.bases, *node.decorator_list]
        )
    }


def splats(tree: ast.AST, names: set[str]) -> list[int]:
    """Lines that fill a container of these names from a starred argument."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).split(".")[-1] in names | {"cls", "_make"}
        and any(isinstance(arg, ast.Starred) for arg in node.args)
    ]


def test_no_container_is_filled_from_a_starred_argument():
    names = containers()
    assert {"TokenRecord", "RolloutBatch", "Programs", "Packed", "Slots"} <= names
    found = {str(path): splats(tree, names) for path, tree in trees()}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("batch.Slots(*(1,) * 8, column=2)", [1]),
        ("x = 0\nSlots(1, *x)", [2]),
        ("Slots(**x)\nother(*x)", []),
    ],
)
def test_what_counts_as_such(text, lines):
    assert splats(ast.parse(text), {"Slots"}) == lines


def test_programs_do_not_import_their_callers():
    """Programs know nothing of who calls them."""
    for name in ("batch", "requests", "sampler", "slots", "programs"):
        text = (PACKAGE / "rollout" / f"{name}.py").read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                imported = {f"{node.module}.{a.name}" for a in node.names}
                imported.add(node.module)
                above = {"hapo_jax.rollout.schedule", "hapo_jax.rollout.queue"}
                assert not imported & above, (name, imported & above)
