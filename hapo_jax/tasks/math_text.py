r"""Mathematical answers as text: finding the one in a completion, and its one spelling.

`find` takes a single answer, whatever else a completion lists: in this order

  1. what follows the last `Answer:` within the last 300 characters,
  2. the last `\boxed{...}`, or the last boxes where nothing but `and`, commas and
     dollar signs stands between them, which are one list,
  3. what follows the last `####`,
  4. where none of these marks occurs, the last formula or number of the text.

Costs are bounded before any pattern with backtracking runs: answers are cut out with
scans linear in the completion and are None above `MAX_CHARACTERS`.
"""

import re
from collections.abc import Iterator

TAIL_CHARACTERS = 300
# The longest gold answers of MATH, OlympiadBench and Minerva have about 200.
MAX_CHARACTERS = 1_000

_ANSWER_LINE = re.compile(r"answer\s*:\s*([^\n]+)", re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)(?:\{| +\w)")
_BARE_BOX = re.compile(r"\\(?:boxed|fbox) +(\w)")  # TeX's \boxed 7
_MOST_BOXES = 20  # a list of more is none
# What may stand between boxes of one list, once markup is gone.
_LISTING = re.compile(
    r"(?:[\s$,;.&]|\\[()\[\]]|\\q?quad|\\text\s*\{[\s,]*(?:and|or)\s*\}|and|or)*"
)
_SPECIAL_TOKEN = re.compile(r"<\|\w{1,40}\|>")
_HOPE = re.compile(r"I hope (?:it|this) is correct", re.IGNORECASE)
_FORMULA = re.compile(
    r"\$\$([^$]{1,400})\$\$|(?<![\\\d])\$([^$\n]{1,400})(?<!\\)\$"
    r"|\\\(([^\n]{1,400}?)\\\)|\\\[(.{1,400}?)\\\]",
    re.DOTALL,
)
_NUMBER = re.compile(
    r"(?<![\w.,\\])(?:(?<![)\]}])[-−])?\$?(?:\d{1,3}(?:[ ,]\d{3})+(?!\d)|\d+(?:,\d+)?)?"
    r"(?:(?<=\d)|(?=\.\d))(?:\.\d+)?(?:/\d+)?(?:\s?\\?%)?"
)
_FONT = re.compile(r"\\[a-zA-Z]+(?:\s*\{[^{}]*\})?")
_WORD = re.compile(r"(?!(?:and|or)\b)[A-Za-z]{2,}")
_MATHEMATICS = re.compile(r"[\d\\$=]")
_DENIAL = r"(?:not|never|neither|nor|isn't|wrong|false|incorrect|unless|except)"
_DENIED = re.compile(rf"\b{_DENIAL}\b", re.IGNORECASE)
# Directly before a number in a sentence: not the answer, or not the only one.
_OPEN = re.compile(rf"\b(?:{_DENIAL}|or)[\s$\\(]*$", re.IGNORECASE)
_BARE_CHARACTERS = 100  # the longest text that is read as one formula
_PROSE_WORDS = 3  # from so many on it is a sentence: `The largest $n$ is 34`


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
    marked = False
    for candidate in _marked(completion):
        marked = True
        if candidate is not None and speaks(candidate):
            return candidate if len(candidate) <= MAX_CHARACTERS else None
    return _closing(completion) if unmarked and not marked else None


def unboxed(text: str) -> str | None:
    """The content of the last box or boxes; the text itself if no box opens in it."""
    return _last_boxes(text) if _BOX.search(text) else text.strip()


def speaks(text: str) -> bool:
    """Whether there is a letter or a digit in it."""
    return any(character.isalnum() for character in text)


def denied(gold: str, pred: str) -> bool:
    """Whether pred takes something back: `not 42`, where gold does not."""
    return _DENIED.search(pred) is not None and _DENIED.search(gold) is None


def _marked(completion: str) -> Iterator[str | None]:
    """What stands at each kind of mark that occurs; None where it cannot be read."""
    lines = _ANSWER_LINE.findall(completion[-TAIL_CHARACTERS:])
    if lines:
        yield _last_boxes(lines[-1]) if _BOX.search(lines[-1]) else _said(lines[-1])
    elif _ANSWER_LINE.search(completion):
        yield None  # out of reach, but an answer was given there
    if _BOX.search(completion):
        yield _last_boxes(completion)
    _, mark, rest = completion.rpartition("####")
    if mark:
        yield _said(rest.split("\n", 1)[0])


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


def _words(text: str) -> int:
    """How many words stand outside of LaTeX."""
    return len(_WORD.findall(_FONT.sub(" ", _HOPE.split(text)[0])))


def _said(line: str) -> str:
    """A line as an answer: all of it, or of a sentence the last formula or number."""
    line = line.strip()
    held = _closing(line) if _words(line) >= _PROSE_WORDS else None
    return held or line


def _closing(text: str) -> str | None:
    """The last formula or number of a text, or all of it if it is just that.

    None if it is denied or one of two: `it is not 42`, `41 or 42`.
    """
    tail = _HOPE.split(_SPECIAL_TOKEN.sub("\n", text[-MAX_CHARACTERS:]))[0].strip()
    if len(tail) <= _BARE_CHARACTERS and "\n" not in tail and _words(tail) <= 1:
        return tail if _MATHEMATICS.search(tail) else None
    formulas = [m for m in _FORMULA.finditer(tail) if speaks(m.group())]
    numbers = [m for m in _NUMBER.finditer(tail) if m.group()]
    last = max(
        formulas[-1:] + numbers[-1:], key=lambda m: (m.end(), -m.start()), default=None
    )
    if last is None or _OPEN.search(tail[max(0, last.start() - 30) : last.start()]):
        return None
    return last.group().strip()


# ---- one spelling -------------------------------------------------------------------


def _ungrouped(match: re.Match) -> str:
    """1,234,567 without its separators."""
    return re.sub(r"\D", "", match.group(1))


# Applied in order. The habits are those of the answer files of MATH, GSM8K, Minerva
# and OlympiadBench, and of models that answer them.
_CLEANING = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"<\|\w{1,40}\|>", " "),
        (r"(?i)\.?\s*I hope (?:it|this) is correct\b.*$", ""),  # Minerva's prompt asks
        (r"\*\*", "^"),  # Python's power; bold marks around the answer are gone by now
        (r"\\\\\[[^\]]*\]", r"\\\\"),  # \\[2pt] between the rows of a matrix
        # \\frac, escaped once too often
        (r"\\\\(?=(?:[dtc]?frac|sqrt|text|pi|cdot|times|[lg]eq?)(?![a-z]))", r"\\"),
        (r",\s*\\!\s*", ","),
        (r"\\!|\\(?:left|right|displaystyle)(?![a-zA-Z])", ""),
        (
            r"\\\$|\$|(?<!\\)\\[()\[\],;: ]|\\q?quad(?![a-zA-Z])|~|\s",
            " ",
        ),  # math on, off, space
        (r"[−–]", "-"),
        (r"[€£¥₹]|\\?\"", " "),
        (r"\\([lg])e([a-z])(?=\\[lg]e)", r"\\\1e \2"),  # \lex\le, its spaces lost
        (r"\\%|(?<=\d)\s*(?:percent|pct)\b", "%"),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it)|mbox)\s*\{([^{}]*)\}", r" \1 "),
        (r"\^\s*(?:\\circ\b|\{\s*\\circ\s*\})|\\degree(?![a-zA-Z])|°", " "),
        (
            r"(?i)^\s*(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+)?(?:final\s+)?"
            r"answer\s*(?:is|:|=)?\s+",
            "",
        ),
        # 1,234,567, but not the second half of (12,345)
        (
            r"(?<![\d.,(\[])(?<![(\[]-)([1-9]\d{0,2}(?:(?:,|\{,\}| )\d{3})+)(?!\d)",
            _ungrouped,
        ),
        (r"^\s*(-?\d+) (\d+)/(\d+)\s*$", r"\1\\frac{\2}{\3}"),  # 1 1/4
        (r"\\frac\s*(\w)\s*(?=[\w{])", r"\\frac{\1}"),
        (r"(\\frac\s*\{[^{}]{1,100}\})\s*(\w)", r"\1{\2}"),
        (r"\\sqrt\s*\{\}\s*(?=\{)", r"\\sqrt"),
        (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
        (r"_\{(\w)\}", r"_\1"),
        (r">=|\\geqslant|\\geq?(?![a-zA-Z])", r"\\ge "),
        (r"<=|\\leqslant|\\leq?(?![a-zA-Z])", r"\\le "),
        (r"!=|\\neq?(?![a-zA-Z])", r"\\ne "),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"(\d)[eE]([+-]?\d{1,3})\b", r"\1\\times 10^{\2}"),
        (
            r"(?<![\d.])0+(?=\d)|(?<=\d)\.0*(?![\d.]|0*\\overline)|(\.\d*[1-9])0+(?!\d)",
            r"\1",
        ),
        (r"(?<!\d)\.(?=\d)", "0."),
        (r"^\s*\+(?=\s*\d)|^\s*[a-zA-Z]\s*\\in\b", ""),
        (r" +", " "),
    )
)

# A bare number or fraction and words behind it. Words that change the value are no
# units, and neither is a single letter, which may be a variable.
_UNIT = re.compile(
    r"(-?(?:[\d./]+|\\frac\{\d+\}\{\d+\}))"
    r"((?: [A-Za-z]{2,}\.?)+| (?:k?m|cm|mi|ft|k?g|k?J|mol)/(?:s|h|hr|min|c?m|K|k?g|L))"
    r"(?:\s*\^\s*\{?[23]\}?)?"
)
_NO_UNITS = frozenset(
    "and|or|not|mod|base|percent|pct|dozen|hundred|thousand|million|billion|trillion|"
    "plus|minus|times|over|by|to|through|squared|cubed|factorial|half|halves|thirds|"
    "quarters|tenth|tenths|hundredth|hundredths|thousandth|thousandths|dozens|hundreds|"
    "thousands|millions|billions|trillions|point|below|inverse|no|if|but|otherwise|"
    "sin|cos|tan|log|ln|exp|sqrt|pi".split("|")
)
_POINT, _COMMA = re.compile(r"-?\d+\.\d+"), re.compile(r"-?\d+,\d+")
# x = ..., x_1 = ..., f(x) = ..., with one equals sign and one value
_ASSIGNMENT = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([a-z]\))?=([^=,;]+)")


_LESS, _SIDE = r" ?(<|\\le) ?", r"([^<>=]+?)"
_CHAIN = re.compile(rf"{_SIDE}{_LESS}[a-z]{_LESS}{_SIDE}")
_BELOW = re.compile(rf"[a-z]{_LESS}{_SIDE}|{_SIDE} ?(>|\\ge) ?[a-z]")
_ABOVE = re.compile(rf"[a-z] ?(>|\\ge) ?{_SIDE}|{_SIDE}{_LESS}[a-z]")
_INEQUALITY = re.compile(r"[<>]|\\[lg]e ")
_ALTERNATIVES = re.compile(r",? (?:and|or) (?=[-(\d\\]|[a-z] ?=)")


def as_intervals(text: str) -> str:
    r"""`1 < x \le 2 or x > 4` as `(1,2]\cup(4,\infty)`; another text as it is."""
    if not _INEQUALITY.search(text):
        return text
    intervals = [_interval(part.strip()) for part in re.split(r"\bor\b", text)]
    return r"\cup".join(intervals) if all(intervals) else text


def _interval(text: str) -> str:
    """The interval that an inequality in one letter describes, or an empty text."""
    if match := _CHAIN.fullmatch(text):
        low, first, second, high = (group.strip() for group in match.groups())
    elif match := _BELOW.fullmatch(text):
        second, high = match.group(1, 2) if match[1] else match.group(4, 3)
        low, first = r"-\infty", "<"
    elif match := _ABOVE.fullmatch(text):
        first, low = match.group(1, 2) if match[1] else match.group(4, 3)
        high, second = r"\infty", "<"
    else:
        return ""
    opening = "(" if first in "<>" else "["
    return f"{opening}{low.strip()},{high.strip()}{')' if second in '<>' else ']'}"


def clean(text: str) -> str:
    """An answer's text in one spelling, still LaTeX that math-verify reads.

    Delimiters, markdown, sizes, fonts, degrees, units and the words `the answer is` go;
    numbers and fractions get one form. Percent signs stay: they carry value.
    """
    text = text.strip().strip("*_ ")
    for pattern, replacement in _CLEANING:
        text = pattern.sub(replacement, text)
    text = text.strip().rstrip(".,;: *")
    unit = _UNIT.fullmatch(text)
    if unit and _NO_UNITS.isdisjoint(unit.group(2).lower().split()):
        return unit.group(1)
    return text if _INEQUALITY.search(text) else _ALTERNATIVES.sub(", ", text)


def same(gold: str, pred: str) -> bool:
    """Whether two cleaned answers are one text; `x = 5` equals `5`, but not `y = 5`."""
    gold, pred = key(as_intervals(gold)), key(as_intervals(pred))
    if gold == pred:
        return True
    if _POINT.fullmatch(gold) and _COMMA.fullmatch(pred):  # 2,74 for 2.74
        return gold == pred.replace(",", ".")
    gold_value, pred_value = _ASSIGNMENT.fullmatch(gold), _ASSIGNMENT.fullmatch(pred)
    if pred_value and not gold_value:
        return pred_value.group(1) == gold
    if gold_value and not pred_value:
        return gold_value.group(1) == pred
    return False


def key(text: str) -> str:
    """The cleaned text without spaces, a last percent sign and the case of a word.

    Spaces between digits stay, so that `4 2` does not become 42.
    """
    text = re.sub(r"(?<!\d) | (?!\d)", "", text).removesuffix("%")
    text = re.sub(r"^\(([A-Za-z])\)$", r"\1", text)  # a choice, (B)
    return text.lower() if len(text) > 1 and text.isalpha() else text
