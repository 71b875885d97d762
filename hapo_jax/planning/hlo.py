"""The text of a compiled program (HLO) as instructions; `counts.py` counts them."""

import math
import re
from typing import NamedTuple

_ITEM_BYTES = {
    "pred": 1,
    "bf16": 2,
    **{f"{kind}{bits}": bits // 8 for kind in "suf" for bits in (8, 16, 32, 64)},
    "s4": 0.5,
    "u4": 0.5,
    "c64": 8,
    "c128": 16,
}
ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^{}]*)\})?")
NAME = re.compile(r"%([\w.\-]+)")


class Array(NamedTuple):
    """One array of an instruction's result; `hbm` unless it stays on the chip."""

    dtype: str
    shape: tuple[int, ...]
    hbm: bool

    @property
    def nbytes(self) -> float:
        """Bytes, without the padding of its layout."""
        return math.prod(self.shape) * _ITEM_BYTES.get(self.dtype, 0)


class Instruction(NamedTuple):
    """One line of the program; `rest` is what stands behind the operands."""

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    arguments: str
    rest: str
    root: bool

    def attribute(self, key: str) -> str | None:
        """The name behind `key=%`."""
        found = re.search(rf"\b{key}=%([\w.\-]+)", self.rest)
        return found and found.group(1)


Computation = dict[str, Instruction]


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """The computations of a program's text, by name, and the name of the entry."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            header = re.match(r"(ENTRY )?%([\w.\-]+)", line)
            if header:
                current = computations.setdefault(header.group(2), {})
                entry = header.group(2) if header.group(1) else entry
        elif current is not None and " = " in line:
            instruction = _instruction(line)
            current[instruction.name] = instruction
    return computations, entry


def _instruction(line: str) -> Instruction:
    left, right = line.strip().split(" = ", 1)
    end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    shapes, right = right[:end], right[end:].lstrip()
    opcode, _, _ = right.partition("(")
    begin = len(opcode)
    close = _closing(right, begin)
    arguments = right[begin + 1 : close]
    results = tuple(
        Array(
            dtype,
            tuple(int(n) for n in dims.split(",") if n),
            "S(" not in (layout or ""),
        )
        for dtype, dims, layout in ARRAY.findall(re.sub(r"/\*.*?\*/", "", shapes))
    )
    return Instruction(
        name=NAME.search(left).group(1),
        opcode=opcode,
        results=results,
        operands=tuple(NAME.findall(arguments)),
        arguments=arguments,
        rest=right[close + 1 :],
        root=left.startswith("ROOT"),
    )


def _closing(text: str, start: int) -> int:
    """Index of the parenthesis that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    raise AssertionError(f"no closing parenthesis: {text[:200]}")
