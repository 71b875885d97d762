"""Finding the program in a completion: the last fenced block, of Python if any is.

Fences are Markdown's: a line of three or more backticks or tildes, perhaps indented
and with a language. A line with a language opens a block and never closes one; what
closes is a bare line of the same sign, at least as long. A block that nothing closes
ends where the next begins, or with the text. Fences around a whole answer in Markdown
are no block.
"""

import re
from typing import NamedTuple

from hapo_jax.tasks import thoughts

_FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,})([^\n]*)$", re.MULTILINE)
_LANGUAGE = re.compile(r"[\s{.]*([\w+#-]*)")
_PYTHON = ("python", "python3", "py", "py3")
_MARKDOWN = ("markdown", "md")


class _Block(NamedTuple):
    """Attributes:
    is_python: whether its fence says so.
    code: its content, indented as its fence is not.
    """

    is_python: bool
    code: str


def find(completion: str) -> str:
    """The last block that is not blank, of those marked as Python if there are any.

    All of the completion without its thoughts where there are no fences; a blank text
    where all blocks are blank. Linear in the completion.
    """
    text = thoughts.after(completion)
    blocks = _blocks(text)
    if not blocks:
        return text
    said = [block for block in blocks if block.code.strip()]
    marked = [block for block in said if block.is_python]
    return (marked or said or blocks)[-1].code


def _blocks(text: str) -> list[_Block]:
    """All fenced blocks, in their order."""
    found: list[_Block] = []
    opened: re.Match | None = None
    wrappers: list[str] = []

    def close(end: int) -> None:
        code = text[opened.end() + 1 : end]
        language = _language(opened)
        found.append(_Block(language in _PYTHON, _outdented(code, opened[1])))

    for fence in _FENCE.finditer(text):
        sign, rest = fence[2], fence[3].strip()
        if sign[0] == "`" and "`" in rest:
            continue  # code within a line
        if opened and not (sign.startswith(opened[2]) and _fits(fence, opened)):
            continue  # another sign, shorter, or further in: part of the program
        if opened:
            close(fence.start())
            opened = None
            if not rest:
                continue
        if not rest and wrappers and sign.startswith(wrappers[-1]):
            wrappers.pop()
        elif _language(fence) in _MARKDOWN:
            wrappers.append(sign)
        else:
            opened = fence
    if opened:
        close(len(text))
    return found


def _fits(fence: re.Match, opened: re.Match) -> bool:
    """Whether a fence is not more than three spaces further in, as Markdown has it."""
    return len(fence[1]) <= len(opened[1]) + 3


def _language(fence: re.Match) -> str:
    return _LANGUAGE.match(fence[3])[1].lower()


def _outdented(code: str, indent: str) -> str:
    """The code without the indentation of its fence, as in an item of a list."""
    if not indent:
        return code
    lines = code.splitlines(keepends=True)
    width = len(indent)
    return "".join(
        line[min(width, len(line) - len(line.lstrip(" \t"))) :] for line in lines
    )
