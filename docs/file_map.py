"""Makes docs/files.md from the first lines of docstrings: `python docs/file_map.py`."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
_HEAD = """# Every file, in one line

Made from the files by `python docs/file_map.py > docs/files.md`. Start with
`hapo_jax/plain.py`, the method, and go on with `hapo_jax/train.py`, a run.
`tests/` mirrors `hapo_jax/`.
"""


def page() -> str:
    """The page as Markdown."""
    lines = [_HEAD]
    folder = None
    for top in ("hapo_jax", "configs", "examples", "benchmarks"):
        paths = (ROOT / top).rglob("*.py")
        for path in sorted(paths, key=lambda p: (p.parent.parts, p.name)):
            words = first_line(path)
            if not words:
                continue
            if path.parent != folder:
                folder = path.parent
                lines.append(f"\n## {folder.relative_to(ROOT)}/\n")
                lines.append("| file | what |\n|---|---|")
            lines.append(f"| `{path.name}` | {words} |")
    return "\n".join(lines) + "\n"


def first_line(path: pathlib.Path) -> str:
    """The first paragraph of a module's docstring, in one line."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
