r"""Gold answers of the data sets, their kinds, and how rewrites of them are written.

A rewrite has a name that says when it applies, and gives other spellings of a gold
answer, or none. What it applies to is decided by the gold answer's text alone, not by
what the package reads in it.

    whole    a pattern that all of the answer must match, and templates of its groups
    inside   a pattern to be replaced wherever it occurs, by each replacement in turn
    others   functions
"""

import re
from collections.abc import Callable, Iterable, Iterator

from hapo_jax.tasks import math_sets, readers
from tests import real_data

Rewrite = Callable[[str], Iterable[str]]

WORDS = re.compile(r"\\(?:text|mbox|textnormal)\s*\{[^{}]*\}")
COMMAND = re.compile(r"\\[a-zA-Z]+")
NAMED_LETTERS = re.compile(r"where|np\.|\\begin|\\text|\d[eE]-?\d|[A-Z]{2}")


def unique() -> dict[str, str]:
    """All gold answers of the sets -> a problem's id; raises if a file is missing."""
    found: dict[str, str] = {}
    for known in math_sets.SETS.values():
        for file in known.files.values():
            for _, row in readers.rows(real_data.FOLDER / file):
                found.setdefault(row["answer"], row["id"])
    return found


def bare(gold: str) -> str:
    """Without the dollar signs that some sets put around formulas, and a last stop."""
    text = gold.replace("\\$", "\0").replace("$", "").replace("\0", "\\$")
    return text.strip().removesuffix(".").removesuffix(",").strip()


def whole(pattern: str, *templates: str, unless: str = "(?!)") -> Rewrite:
    """Templates (`\\1`) of what the whole answer matches."""
    compiled, other = re.compile(pattern), re.compile(unless)

    def rewrite(gold: str) -> Iterator[str]:
        match = compiled.fullmatch(bare(gold))
        if match and not other.search(gold):
            yield from (match.expand(template) for template in templates)

    return rewrite


def inside(pattern: str, *replacements: str, unless: str = "(?!)") -> Rewrite:
    """The answer with a pattern replaced, where that changes it."""
    compiled, other = re.compile(pattern), re.compile(unless)

    def rewrite(gold: str) -> Iterator[str]:
        if not other.search(gold):
            changed = (
                compiled.sub(replacement, bare(gold)) for replacement in replacements
            )
            yield from (text for text in changed if text != bare(gold))

    return rewrite


def has_words(gold: str) -> bool:
    return bool(WORDS.search(gold) or NAMED_LETTERS.search(COMMAND.sub("", gold)))


def is_scalar(gold: str) -> bool:
    """One number or formula: nothing is listed, related, measured or said."""
    other = (
        r"[,;=<>:\[\]$%&]|\\(?:leq?|geqslant|in|cup|begin|pm|circ|\{|approx)(?![a-z])"
    )
    return not (
        has_words(gold)
        or re.search(rf"{other}|_\{{?\d|\d\s+\d", gold)
        or gold in "ABCDE"
    )


def items(gold: str) -> list[str]:
    """The members of a list of scalars, else nothing."""
    text = bare(gold)
    other = r"[()\[\]=<>:_]|\\leq?(?![a-z])|\\begin|\\pm|,\\!|\{,\}|,\d{3}(?!\d)"
    if has_words(text) or re.search(other, text) or gold.count("$") % 2:
        return []
    text = text.removeprefix("\\{").removesuffix("\\}")
    parts = [part.strip() for part in re.split(r",(?:\\,|\\;)?", text)]
    return parts if len(parts) > 1 and all(parts) else []


def letters(gold: str) -> list[str]:
    """The letters of a formula that stand for values."""
    text = COMMAND.sub(" ", bare(gold))
    if has_words(gold) or re.search(
        r"\\[a-z]+\{[a-z]|[a-zA-Z]\([a-z]\) ?=", bare(gold)
    ):
        return []
    return sorted(set(re.findall(r"[a-zA-Z]", text)) - set("eidfghuIUED"))


def matrix(gold: str) -> list[list[str]]:
    """The rows of a matrix that is all of the answer."""
    found = re.fullmatch(r"\\begin\{pmatrix\}(.*)\\end\{pmatrix\}", bare(gold))
    if not found or "phantom" in gold:
        return []
    return [[cell.strip() for cell in row.split("&")] for row in found[1].split("\\\\")]


def interval(gold: str) -> tuple[str, str, str, str] | None:
    """Bracket, ends and bracket of one interval."""
    end = r"([^(),\[\]]+?)"
    found = re.fullmatch(
        rf"([(\[]){end},{end}([)\]])", re.sub(r"\\left|\\right", "", bare(gold))
    )
    if not found or not re.search(r"[\[\]]|infty", gold):
        return None
    opening, low, high, closing = (part.strip() for part in found.groups())
    return opening, low, high, closing
