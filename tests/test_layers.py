"""Who may import whom: a folder imports from those before it in the list alone."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1] / "hapo_jax"

# The lowest first. A module of the root stands for itself.
LAYERS = (
    "system",  # the machine: errors, files, signals, processes, devices
    "algo",  # the papers: pure functions, arrays in, arrays out
    "tasks",  # problems and verifiers; never imports jax
    "model",  # the policy, its weights, tokenizer and layouts
    "grading",  # processes that grade; never imports jax
    "rollout",  # prompts to a scored batch
    "learner",  # a batch to new parameters
    "config",  # every setting, the methods, what is refused
    "runs",  # a run's folder, records and checkpoints
    "assembly",  # from a config to a run
    "run_programs",
    "opening",
    "evaluation",
    "cli",
    "doctor",  # silent failures of a run
    "session",  # a run while it goes on
    "replay",  # a recorded step under another method
    "planning",
    "plain",
    "train",
    "sft",
    "evaluate",
    "plan",
    "sweeps",  # many runs
    "comparison",  # of what they gave
    "analysis",  # of their records, token by token
    "microscope",  # a run down to each token, in a browser
)
# Processes that grade import these, and an accelerator belongs to one process.
WITHOUT_JAX = ("tasks", "grading")


def imports():
    """(file, its layer, the layer that it imports, what)."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "hapo_jax":
                for alias in node.names:
                    yield path, parts[0], alias.name, alias.name
            elif isinstance(node, ast.ImportFrom) and node.module:
                first, _, rest = node.module.partition(".")
                if first == "hapo_jax":
                    for alias in node.names:
                        yield path, parts[0], rest.split(".")[0], f"{rest}.{alias.name}"


def test_every_module_has_a_layer():
    found = {p.stem if p.suffix else p.name for p in ROOT.iterdir()}
    assert found - {"__init__", "__pycache__"} == set(LAYERS)
    assert len(list(ROOT.glob("*.py"))) <= 11  # with __init__.py


def test_nobody_imports_from_a_higher_layer():
    back = [
        f"{path.relative_to(ROOT)} imports {what}"
        for path, own, other, what in imports()
        if other in LAYERS and own in LAYERS and LAYERS.index(other) > LAYERS.index(own)
    ]
    assert not back, "\n".join(back)


@pytest.mark.parametrize("folder", WITHOUT_JAX)
def test_who_grades_does_not_import_jax(folder):
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            wrong = {n for n in names if n.split(".")[0] in ("jax", "flax", "optax")}
            assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def modules(path):
    """Modules of the package that a file imports when it is imported."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            if not node.module.startswith("hapo_jax"):
                continue
            for alias in node.names:
                whole = pathlib.Path(*f"{node.module}.{alias.name}".split("."))
                file = ROOT.parent / whole.with_suffix(".py")
                module = ROOT.parent / pathlib.Path(*node.module.split("."))
                yield file if file.exists() else module.with_suffix(".py")


def test_no_circle():
    """No module is imported, by way of others, by what it imports itself."""
    graph = {path: set(modules(path)) for path in ROOT.rglob("*.py")}
    state = {}

    def visit(path, trail):
        if state.get(path) == "done":
            return
        circle = [p.name for p in trail[trail.index(path) :]] if path in trail else []
        assert not circle, " → ".join(circle)
        for other in graph.get(path, ()):
            visit(other, [*trail, path])
        state[path] = "done"

    for path in graph:
        visit(path, [])


# Where two modules of one name meet in a file.
BOTH = {"learner_shapes", "rollout_shapes"}


def test_a_module_is_called_by_its_name():
    """Or by that and `_lib`, where a variable has the name."""
    root = ROOT.parent
    folders = ("hapo_jax", "tests", "examples", "benchmarks", "configs", "docs")
    wrong = []
    for path in sorted(file for f in folders for file in (root / f).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                if not node.module.startswith("hapo_jax"):
                    continue
                wrong += [
                    f"{path.relative_to(root)}: {a.name} as {a.asname}"
                    for a in node.names
                    if a.asname not in {None, f"{a.name}_lib", *BOTH}
                ]
    assert not wrong, "\n".join(wrong)
