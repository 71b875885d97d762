r"""Finding the answer in a completion.

`find` takes a single answer, whatever else a completion lists: in this order

  1. what follows the last `Answer:` within the last 300 characters,
  2. the last `\boxed{...}`, or the last boxes where nothing but `and`, commas and
     dollar signs stands between them, which are one list,
  3. what follows the last `####`,
  4. where none of these marks occurs, what follows the last `answer is`, or else the
     last formula or number of the text.

A formula is taken whole or not at all. Where a model thinks aloud, only what follows
`</think>` is looked at, unless nothing does.

Costs are bounded before any pattern with backtracking runs: answers are cut out with
scans linear in the completion and are None above `MAX_CHARACTERS`.
"""

import re
from collections.abc import Iterator

from hapo_jax.tasks import thoughts
from hapo_jax.tasks.answers import formula, lexer, spelling, units

TAIL_CHARACTERS = 300
# The longest gold answers of MATH, OlympiadBench and Minerva have about 200.
MAX_CHARACTERS = 1_000

_ANSWER_LINE = re.compile(r"answer[ \t*_]*:[\s*_]*(?=[^\s*_])", re.IGNORECASE)
_ANSWER_IS = re.compile(r"\banswer (?:is|was)\b[\s:*_]*(?=[^\s:*_])", re.IGNORECASE)
# A line, or a sentence, and the brackets that may go on over several.
_BRACKETS = r"\\begin\b|\\end\b|\\\\|\\[\[\](){}]|\$\$|[{}]"
_LINE = re.compile(rf"(?P<end>\n)|{_BRACKETS}")
_STOP = r"(?<!\\)(?<!\bi\.e)(?<!\be\.g)[.!?](?=\s|$)"
_SENTENCE = re.compile(rf"(?P<end>\n|{_STOP})|{_BRACKETS}")
_DEPTH = {r"\begin": 1, r"\end": -1, r"\[": 1, r"\]": -1, r"\(": 1, r"\)": -1}
_DEPTH |= {"{": 1, "}": -1}
_BOX = re.compile(r"\\(?:boxed|fbox)(?:\{| +\w)")
_BARE_BOX = re.compile(r"\\(?:boxed|fbox) +(\d+|\w)")  # TeX's \boxed 7
_MOST_BOXES = 20  # a list of more is none
# What may stand between boxes of one list, once markup is gone.
_LISTING = re.compile(
    r"(?:[\s$,;.&]|\\[()\[\]]|\\q?quad|\\text\s*\{[\s,]*(?:and|or)\s*\}|and|or)*"
)
_SPECIAL_TOKEN = re.compile(r"<\|\w{1,40}\|>")
_CALCULATED = re.compile(r"<<[^<>\n]{0,100}>>")  # GSM8K's notes for a calculator
_HOPE = re.compile(r"\.?\s*I hope (?:it|this) is correct", re.IGNORECASE)
_COMMAND = re.compile(r"\\[a-zA-Z]+\s*(?:\{[^{}]*\})?")
_WORD = re.compile(r"(?!(?:and|or)\b)[A-Za-z]{2,}")
_MATHEMATICS = re.compile(r"[\d\\$=^∞√π∅½]")
_VALUE = re.compile(r"[\d=∞√π∅½]|\\[a-zA-Z(\[]|\$[^\s$]")
_SHORT = re.compile(
    r"[A-Za-z]|[A-Z](?:(?:,| and|) ?[A-Z]){1,4}|.*[-+*/(\[\d\\$=^∞√π∅½].*"
)  # `is`, then this
# Directly before a formula in a sentence: not the answer, or not the only one.
_OPEN = re.compile(
    r"\b(?:not|never|neither|nor|isn't|wrong|false|incorrect|unless|except|or)[\s$\\(]*$",
    re.IGNORECASE,
)
_BARE_CHARACTERS = 100  # the longest text that is read as one formula
_PROSE_WORDS = 3  # from so many on it is a sentence: `The largest $n$ is 34`
# What may follow an answer without being part of it.
_ASIDE = re.compile(
    r"(?<=\S)(?: \((?=[^()]*[A-Za-z]{2})[^()\d$\\]{1,200}\)\.?$"
    r"|,? (?:i\.e\.|which|because|since|as|that is)[ ,].*)"
)
_LABEL = re.compile(r"^[A-Za-z]+[:.]\s+")  # A: 7
_SENTENCE_END = re.compile(rf"{_STOP}|\n")
_IS = re.compile(r"\b(?:is|are|equals|was|were|be)\b")
# The pieces of a text among which formulas are looked for.
_PIECE = re.compile(
    r"(?P<formula>\$\$[^$]{1,400}\$\$|(?<![\\\d])\$(?=\S)[^$\n]{1,400}?(?<=\S)\$(?!\d)"
    r"|\\\([^\n]{1,400}?\\\)|\\\[[\s\S]{1,400}?\\\])"
    r"|(?P<space>[ \t]+)"
    r"|(?P<part>\\(?:text\w*|mbox|mathrm|operatorname)\s*\{[^{}\n]{0,200}\}"
    r"|\\(?:begin|end)\s*\{[a-z]+\*?\}(?:\{[clr| ]*\})?|\\[A-Za-z]+|\\[^\n]"
    r"|\d+(?:[ ,]\d{3}(?!\d))*(?:\.\d+)?|\.\d+|[²³¹⁰-⁹½⅓⅔¼¾₀-₉α-ωΑ-Ω])"
    r"|(?P<word>[A-Za-z]+(?:['’-][A-Za-z]+)*)"
    r"|(?P<end>[.!?:]+(?=\s|$)|\n)"
    r"|(?P<joint>[,;])"
    r"|(?P<sign>[^\w\s\"“”#@]|_)"
    r"|(?P<other>[\s\S])"
)
_NO_BEGINNING = frozenset("!%&')*/:<=>]^_|}~°¢×÷·≤≥≠≈∈∪²³")
# Letters behind or before these belong to a formula: 2xy, x_1, AB = 9.
_SIGN_BEFORE = re.compile(r"[-+*/=<>]\s*$|[\d)}^_]$")
_SIGN_BEHIND = re.compile(r"\s*[-+*/=<>^]|[\d_]")
_ARTICLE = re.compile(r"\s[A-Za-z]")
_MOST_LETTERS = 4  # of such a run
_FUNCTIONS = {*spelling.FUNCTIONS, "pi", "sqrt", "infinity", "inf"}
_NAME = re.compile(r"[A-Za-z]{2,}$")  # before a digit: AZYUK2
_LONGEST_NAME = 20
_PARENTHESIS = re.compile(r"\\?[][(){}]")
_NEXT_WORD = re.compile(r"\s*([A-Za-z]+)")


def find(completion: str, *, unmarked: bool = True) -> str | None:
    r"""The completion's answer as written, or None; linear in the completion.

    A mark without a letter or a digit behind it counts as absent: `Answer: \[` on a
    line of its own leaves the choice to the box that follows. So does a last box that
    is not closed: the completion was cut off inside its answer. Where marks occur and
    all are empty there is no answer: none is sought elsewhere.

    Args:
      completion: of any length.
      unmarked: whether an answer without a mark counts, the fourth place above.
    """
    completion = thoughts.after(completion)
    marked = False
    for candidate in _marked(completion):
        marked = True
        if candidate is not None and speaks(candidate):
            return candidate if len(candidate) <= MAX_CHARACTERS else None
    return _unmarked(completion) if unmarked and not marked else None


def unboxed(text: str) -> str | None:
    """The content of the last box or boxes; the text itself if no box opens in it."""
    return _last_boxes(text) if _BOX.search(text) else text.strip()


def speaks(text: str) -> bool:
    """Whether it says anything: not so `$$`, `\\text{}` or `Answer: \\[`."""
    return lexer.speaks(lexer.read(text[:MAX_CHARACTERS]))


# ---- marks


def _marked(completion: str) -> Iterator[str | None]:
    """What stands at each kind of mark that occurs; None where it cannot be read."""
    tail = completion[-TAIL_CHARACTERS:]
    lines = list(_ANSWER_LINE.finditer(tail))
    if lines:
        line = _line(tail, lines[-1].end())
        yield line and (_last_boxes(line) if _BOX.search(line) else _said(line))
    elif _ANSWER_LINE.search(completion):
        yield None  # out of reach, but an answer was given there
    if _BOX.search(completion):
        yield _last_boxes(completion)
    _, mark, rest = completion.rpartition("####")
    if mark:
        yield _said(_line(rest, 0) or "")


def _line(text: str, start: int, ends: re.Pattern = _LINE) -> str | None:
    """A line, or more where a bracket is open at its end; None if it stays open.

    Args:
      text: around it.
      start: where it begins.
      ends: what may end it, among the brackets that it may hold.
    """
    depth, dollars = 0, False
    stop = start + MAX_CHARACTERS + 2
    for match in ends.finditer(text, start, stop):
        if match[0] == "$$":
            dollars = not dollars
        elif match.lastgroup == "end":
            if depth <= 0 and not dollars:
                return text[start : match.start()].strip()
        else:
            depth += _DEPTH.get(match[0], 0)
    rest = text[start:stop].strip()
    return rest if "\n" not in rest or (depth <= 0 and not dollars) else None


def _last_boxes(text: str) -> str | None:
    """Content of the last box, with those that are listed before it; None if open."""
    text = _BARE_BOX.sub(r"\\boxed{\1}", text)
    starts = [match.end() for match in _BOX.finditer(text)][-_MOST_BOXES:]
    found: list[str] = []
    left = len(text)
    for start in reversed(starts):
        end = _closing_brace(text, start)
        if end is None:
            break
        if end < left:  # or it is a box around the one before, and adds nothing
            if found and not _LISTING.fullmatch(text[end + 1 : left][:MAX_CHARACTERS]):
                break
            content = text[start:end].strip()
            if content not in found:
                found.insert(0, content)
        left = text.rfind("\\", 0, start)
    return ", ".join(found) if found else None


def _closing_brace(text: str, start: int) -> int | None:
    """Where the brace closes that opened before `start`; None if too far or never."""
    depth, place = 1, start
    end = min(len(text), start + MAX_CHARACTERS + 2)
    while place < end:
        character = text[place]
        if character == "\\":
            place += 1  # \{ and \} are brackets of the formula, not of the box
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return place
        place += 1
    return None


# ---- sentences


def _words(text: str) -> int:
    """How many words stand outside of LaTeX."""
    return len(_WORD.findall(_COMMAND.sub(" ", _HOPE.split(text)[0])))


def _said(line: str) -> str:
    """A line as an answer: all of it, or of a sentence the last formula."""
    line = _without_aside(_HOPE.split(line)[0].strip())
    measured = not line[:1].isalpha() and formula.read(line[:MAX_CHARACTERS])
    if _words(line) < _PROSE_WORDS or measured:  # `10 square feet`
        return line
    return _formula(line[-MAX_CHARACTERS:]) or line


def _without_aside(line: str) -> str:
    """3/4 of `3/4 (in lowest terms)` or `3/4, as wanted`, unless that takes it back."""
    aside = _ASIDE.search(line)
    if not aside or formula.read(line[:MAX_CHARACTERS]):
        return line
    rest = line[: aside.start()]
    words = re.findall("[a-z]+", aside[0].lower())
    return rest if formula.read(rest) and units.DENYING.isdisjoint(words) else line


def _unmarked(completion: str) -> str | None:
    """The answer of a completion without marks."""
    tail = _SPECIAL_TOKEN.sub("\n", completion[-MAX_CHARACTERS:])
    tail = _HOPE.split(tail)[0].strip()
    said = list(_ANSWER_IS.finditer(tail))
    if said:
        line = _line(tail, said[-1].end(), _SENTENCE)
        if line and not line.endswith(":") and speaks(line):
            held = _said(line)
            is_last = tail.endswith((line, f"{line}."))
            if held != line or _words(line) < _PROSE_WORDS or is_last:
                return held
    if len(tail) <= _BARE_CHARACTERS and "\n" not in tail and _words(tail) <= 1:
        return _LABEL.sub("", tail) if _MATHEMATICS.search(tail) else None
    return _formula(tail)


def _formula(text: str) -> str | None:
    """The last formula or number of a text: whole, if it ends its sentence.

    None if it is denied or one of two: `it is not 42`, `41 or 42 of them`.
    """
    text = _CALCULATED.sub("", text)
    sentences = [part for part in _SENTENCE_END.split(text) if speaks(part)]
    _, *said = _IS.split(sentences[-1]) if sentences else [""]
    value = said[-1].lstrip(" *").rstrip(" .,;*") if said else ""
    if _SHORT.fullmatch(value) and (formula.read(value) or value.isupper()):
        return value
    runs = [run for run in _runs(text) if _VALUE.search(text, *run[:2])]
    if not runs:
        return None
    start, stop, ends, member = runs[-1]
    start = start if ends else member
    if _OPEN.search(text[max(0, start - 30) : start]):
        return None
    behind = _NEXT_WORD.match(text, stop)
    if behind and behind[1].lower() in units.CHANGING:
        return None
    if behind and behind[1].lower() in units.FACTORS:
        stop = behind.end()
    return _balanced(text[start:stop])


def _runs(text: str) -> Iterator[tuple[int, int, bool, int]]:
    """Formulas: begin, end, whether the sentence ends there, last member's begin.

    What `and`, `or` and commas join is one formula, unless it has equals signs.
    """
    start, stop, member, joined, depth = None, 0, 0, False, 0
    for match in _PIECE.finditer(text):
        kind = _kind(text, match)
        if kind in ("part", "formula", "sign"):
            if joined and "=" in text[member:stop] + match[0]:
                yield start, stop, False, member
                start, joined = None, False
            if start is None and kind == "sign" and match[0] in _NO_BEGINNING:
                continue
            if start is None or joined:
                member = match.start()
            depth = 0 if start is None else depth
            depth += (match[0] in "([{") - (match[0] in ")]}")
            start = member if start is None else start
            stop, joined = match.end(), False
        elif kind == "joint":
            joined = start is not None and depth == 0
        elif kind != "space" and start is not None:
            yield start, stop, kind == "end", member
            start, joined = None, False
    if start is not None:
        yield start, stop, True, member


def _kind(text: str, piece: re.Match) -> str:
    """What a piece of text is to a formula; a word may be a part of one."""
    word = piece[0]
    if word[0].isdigit():
        name = _NAME.search(text, max(0, piece.start() - _LONGEST_NAME), piece.start())
        return "word" if name and name[0] not in _FUNCTIONS else "part"
    if piece.lastgroup != "word":
        return piece.lastgroup
    if word in ("and", "or"):
        return "joint"
    if word in _FUNCTIONS:
        return "part"
    before = text[max(0, piece.start() - 3) : piece.start()]
    touched = _SIGN_BEFORE.search(before) or _SIGN_BEHIND.match(text, piece.end())
    if len(word) == 1:
        article = word in "aAI" and _ARTICLE.match(text, piece.end())
        unit = before.rstrip()[-1:].isdigit() and before.endswith(" ")  # `5 m`
        return "word" if article or (unit and not touched) else "part"
    short = len(word) <= _MOST_LETTERS and word.lower() not in lexer.ENGLISH
    difference = set(word[1::2]) == {"-"}  # a-b
    return "part" if touched and (short or difference) else "word"


def _balanced(text: str) -> str | None:
    """A formula without what belongs to its sentence; None if a bracket is missing."""
    text = text.strip(" \t,;:*").rstrip("+-*/=<>^_~&")
    signs = [match[0][-1] for match in _PARENTHESIS.finditer(text)]
    depth = sum(1 if sign in "([{" else -1 for sign in signs)
    while text and depth < 0 and text[-1] in ")]":  # (so it is 5)
        text, depth = text[:-1].rstrip(), depth + 1
    while text and depth > 0 and text[0] in "([":
        text, depth = text[1:].lstrip(), depth - 1
    return text if text and depth == 0 else None
