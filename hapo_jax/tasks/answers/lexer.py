r"""Mathematical text as tokens, each in one spelling.

`\dfrac` and `\tfrac` are one token, `×`, `\cdot` and `*` another; spaces, sizes, fonts
and dollar signs are none. What stands upright (`\text{...}`) and what is English are
words, never a product of letters. What is not known, or not visible, is a token that no
reader accepts. `formula.py` reads the tokens.
"""

import functools
import re
from typing import NamedTuple

from hapo_jax.tasks.answers import spelling

# Kinds of tokens. A mark is an operator, a bracket or a command.
NUMBER, LETTER, WORD, FUNCTION, MARK, UNKNOWN = (
    *("number", "letter", "word", "function", "mark", "unknown"),
)


class Token(NamedTuple):
    """Attributes:
    kind: one of the above.
    text: in its one spelling; numbers have no separators and no idle zeros.
    gap: whether a space stands before it.
    """

    kind: str
    text: str
    gap: bool = False


# Runs of two and three letters that are English among formulas: anywhere, or where they
# stand apart, or behind a number. Longer runs are, unless a sign touches them.
ENGLISH = frozenset(
    "and or not yes odd the for all any are one two six ten but nor per red none mod "
    "when where pct usd mph kph true false even".split()
)
_APART = frozenset("if is no of to so".split())
_UNITS = frozenset("in ft cm mm km kg mi oz lb hr min sec deg sq USD".split())
_BEHIND_UNIT = re.compile(r"\s*(?:$|[.,;)\]}:$^/]|\\[)\]}]|\s[A-Za-z\\])")
_IN = re.compile(r"\s*(?:[\[({]|\\[{m])")  # x in [0, 1]
_TOUCHES_BEFORE, _TOUCHES_BEHIND = frozenset("0123456789{^+-*/"), frozenset("}^_+-*/")

_SPECIAL_TOKEN = re.compile(r"<\|\w{1,40}\|>")
_DOUBLE_COMMAND = re.compile(r"(?<!\\)\\\\[a-zA-Z]")
_SINGLE_COMMAND = re.compile(r"(?<!\\)\\[a-zA-Z]")
# Lines under one another, without conditions: a list of them.
_LINES = re.compile(
    r"\\(?:begin|end)\s*\{(?:aligned|align|gathered|split|cases)\*?\}(?!.*matrix)",
    re.DOTALL,
)
_JOINING = frozenset(", ; : . = < > | & \\\\ \\quad \\le \\ge \\ne \\in \\cup".split())
_CALLED = frozenset(("abs", "floor", "ceil"))
_CHOICES = frozenset("ABCDEFGHIJ")
_HEDGES = frozenset(("or", "and", "not", "nor", "is", "isn"))
_SPEAKING = frozenset(("\\infty", "\\empty", *(f"\\mathbb{{{n}}}" for n in "RZNQC")))
_BRACE = re.compile(r"\\.|[{}]")
_LONE_SCRIPT = re.compile(r"([_^])\{(\w)\}")
_OPENING = frozenset(
    ("so", "thus", "hence", "therefore", ",", "the", "final", "correct")
)
_LONGEST_OPENING = 6  # tokens: `So, the final answer is`
_PUNCTUATION = frozenset((MARK, sign) for sign in (".", ",", ";", ":", "?"))
# 1,234,567. A comma or a space alone does not join what may be a pair, (12,345).
_JOINT = re.compile(r"(?<=\d)(?:\{,\}|,\s?\\!\s?|\\[,!]\s?)(?=\d{3}(?!\d))")
_SIGN_IN_BRACES = re.compile(r"\{\s*([-+=,:])\s*\}")  # {-}3
_GROUPED = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:(?:,|\\ | )\d{3})+(?!,?\d)")
_RATE = re.compile(
    r"\s*(k?m|cm|mm|mi|ft|k?g|k?J|mol|L|gal)/(s|h|hr|min|sec|c?m|K|k?g|L|mol)"
    r"(?![A-Za-z])"
)
_HALF_DAY = re.compile(r"([ap])(?:\.\s?m\.?|m(?![a-z]))", re.IGNORECASE)
_SIGNS = {"**": "^", "<=": "\\le", ">=": "\\ge", "!=": "\\ne", "==": "=", ":=": "="}
_SIGNS |= {"\\%": "%", "\\$": "$", "\\|": "|"}
# What the scanner looks for, in this order; each has a method of `_Scanner`.
_ITEM = re.compile(
    "|".join(
        f"(?P<{name}>{pattern})"
        for name, pattern in {
            "space": r"(?:\s|[~$]|\\[,;:! ]|\\[()\[\]]|\\(?:left|right)\s*\."
            r"|\{\s*\}|\\(?:text)?color\s*\{\w+\}|\\[hv]space\*?\s*\{[^{}]*\}"
            r"|\\phantom\s*(?:[-−]|\{\s*[-−+]?\s*\}))+",
            "escape": rf"\\(?=\\(?:{'|'.join(spelling.COMMANDS)})(?![a-zA-Z]))",
            "row": r"\\\\(?:\s*\[[^\]\\]{0,20}\])?|\\cr(?![a-zA-Z])",
            "matrix": r"\\(?:begin|end)\s*\{(?:[pbB]?matrix|smallmatrix|array)\*?\}"
            r"(?:\s*\{[clr| ]*\})?",
            "numbers": r"\\mathbb\s*(?:\{\s*[RZNQC]\s*\}|[RZNQC](?![a-zA-Z]))",
            "degree": r"(?:\^\s*)?\\circ(?![a-zA-Z])|\^\s*\{\s*\\circ\s*\}"
            r"|\^\s*\{\s*\\(?:text|mathrm)\s*\{\s*o\s*\}\s*\}",
            "primes": r"\^\s*\\prime(?![a-zA-Z])|\^\s*\{(?:\s*\\prime)+\s*\}",
            "upright": rf"\\(?:{'|'.join(spelling.UPRIGHT)})\*?\s*\{{",
            "recurring": r"\d*\.\d*\\(?:overline|bar|dot)\s*\{?\s*\d+\s*\}?"
            r"|\d*\.\d*?(?P<digit>\d)(?P=digit){2,}(?:\.\.\.|\\[lc]?dots(?![a-z]))",
            "number": r"(?:\d+\.(?=\s*[-+/*^)\]}])|\d+(?:\.\d+)?|\.\d+)"
            r"(?:[eE][-+]?\d{1,3}(?![\da-zA-Z]))?",
            "command": r"\\[a-zA-Z]+",
            "library": r"(?:np|numpy|math|sympy)\.(?=[a-z])",
            "run": r"[A-Za-z]+",
            "sign": r"\*\*|<=|>=|!=|==|:=|\.\.+|\\[{}|%$]|[!%'-/:-@\[\]^_{|}&°€£¥₹¢]",
            "other": r"[\s\S]",
        }.items()
    )
)


@functools.lru_cache(maxsize=1_024)  # a group's completions share their gold answer
def read(text: str) -> tuple[Token, ...]:
    """The tokens of an answer; linear in it but for nested upright text."""
    text = _SPECIAL_TOKEN.sub(" ", text).strip().strip("*_ ")
    if _DOUBLE_COMMAND.search(text) and not _SINGLE_COMMAND.search(text):
        text = text.replace("\\\\", "\\")  # as in JSON that was escaped twice
    if _LINES.search(text) and not ("cases" in text and "&" in text):
        text = _LINES.sub(" ", text).replace("&", " ")
    text = _SIGN_IN_BRACES.sub(r"\1", _JOINT.sub("", text))
    return _with_joints(_Scanner(spelling.in_latex(text), upright=False).tokens())


def _with_joints(tokens: list[Token]) -> tuple[Token, ...]:
    """The tokens, with `\\quad` as a line's end where it stands between answers."""
    found = []
    for before, token, behind in zip((None, *tokens), tokens, (*tokens[1:], None)):
        if token.text != "\\quad":
            found.append(token)
        elif not any(
            side is None or side.kind == WORD or side.text in _JOINING
            for side in (before, behind)
        ):
            found.append(token._replace(text="\\\\"))
    return tuple(found)


class _Scanner:
    """One pass over a text, or over the content of `\\text{...}`, which is upright."""

    def __init__(self, text: str, upright: bool):
        self.text, self.upright = text, upright
        self.place, self.depth, self.gap = 0, 0, upright
        self.found: list[Token] = []

    def tokens(self) -> list[Token]:
        while match := _ITEM.match(self.text, self.place):
            self.start, self.place = self.place, match.end()
            getattr(self, f"_{match.lastgroup}")(match[0])
        return self.found

    def _add(self, kind: str, text: str) -> None:
        self.found.append(Token(kind, text, self.gap))
        self.gap = False

    def _follows(self, *kinds: str) -> bool:
        return bool(self.found) and self.found[-1].kind in kinds

    def _space(self, text: str) -> None:
        self.gap = True

    def _escape(self, text: str) -> None:
        """The first backslash of two before `frac`, where no row of a matrix ends."""

    def _row(self, text: str) -> None:
        self._add(MARK, "\\\\")

    def _matrix(self, text: str) -> None:
        self._add(MARK, "\\begin" if text.startswith("\\begin") else "\\end")

    def _numbers(self, text: str) -> None:
        self._add(MARK, f"\\mathbb{{{text.rstrip(' }')[-1]}}}")

    def _degree(self, text: str) -> None:
        self._add(MARK, "°")

    def _primes(self, text: str) -> None:
        for _ in range(text.count("prime")):
            self._add(MARK, "'")

    def _upright(self, text: str) -> None:
        end = _closing(self.text, self.place)
        self.found += _Scanner(self.text[self.place : end], upright=True).tokens()
        self.place, self.gap = end + 1, True

    def _recurring(self, text: str) -> None:
        number = re.match(r"[\d.]*", text)[0].removesuffix("...")
        whole, _, places = number.partition(".")
        if "dots" in text or "..." in text:  # 0.1666...
            period = places[-1]
            places = places.rstrip(period)
        else:
            period = re.sub(r"\D", "", text[len(number) :])
        self._add(NUMBER, f"{whole.lstrip('0') or '0'}.{places}({period})")

    def _number(self, text: str) -> None:
        group = _GROUPED.match(self.text, self.start)
        if group and self.depth == 0:
            fraction = re.compile(r"(?:\.\d+)?").match(self.text, group.end())
            text = re.sub(r"\D", "", group[0]) + fraction[0]
            self.place = fraction.end()
        clock = self.found and self.found[-1].text == ":" and re.fullmatch("0\\d", text)
        self._add(NUMBER, text if clock else _spelt(text))
        if rate := _RATE.match(self.text, self.place):
            for kind, part in ((WORD, rate[1]), (MARK, "/"), (WORD, rate[2])):
                self._add(kind, part)
            self.place = rate.end()

    def _command(self, text: str) -> None:
        name = text[1:]
        if name.startswith(("quad", "qquad")):  # also `\\quadx`, a space lost
            short = "qquad" if name.startswith("qq") else "quad"
        elif name in spelling.COMMANDS or len(name) < 3:
            short = name
        else:  # `\\lex\\le`
            short = name[:-1]
        self.place = self.start + 1 + len(short)
        if "quad" in short:
            self._add(MARK, "\\quad")
        elif short in spelling.LOOKS or short in spelling.UPRIGHT:
            pass
        elif short in spelling.FUNCTIONS:
            self._add(FUNCTION, spelling.FUNCTIONS[short])
        elif short in spelling.LETTERS:
            self._add(LETTER, spelling.LETTERS[short])
        elif short in ("max", "min"):
            self._add(WORD, short)
        elif short in spelling.MARKS:
            self._add(MARK, spelling.MARKS[short])
        else:
            self.place = self.start + len(text)
            self._add(UNKNOWN, text)

    def _library(self, text: str) -> None:
        self.gap = True

    def _run(self, run: str) -> None:
        """Letters in a row: a word, a function's name, or each for itself."""
        half = _HALF_DAY.match(self.text, self.start)
        if half and ("." in half[0] or self._follows(NUMBER)):
            self.place = half.end()
            self._add(WORD, half[1].lower() + "m")
        elif run in spelling.FUNCTIONS and not (self.upright and run == "exp"):
            self._add(FUNCTION, spelling.FUNCTIONS[run])
        elif self.upright:
            self._add(WORD, run)
        elif run in _CALLED and self.text.startswith("(", self.place):
            self._add(FUNCTION, run)
        elif run == "in" and self.gap and _IN.match(self.text, self.place):
            self._add(MARK, "\\in")
        elif run in spelling.SPELT_OUT:
            mark = spelling.SPELT_OUT[run]
            self._add(MARK if mark in spelling.NAMES else LETTER, mark)
        elif self._is_word(run):
            self._add(WORD, run)
        elif run[:-1] in spelling.FUNCTIONS and run[-1] in "abnuxyz":  # sinx, lnx
            self._add(FUNCTION, spelling.FUNCTIONS[run[:-1]])
            self._add(LETTER, run[-1])
        else:
            for letter in run:
                self._add(LETTER, letter)

    def _is_word(self, run: str) -> bool:
        """Whether letters among formulas are English and not a product."""
        before, behind = self.text[: self.start][-1:], self.text[self.place :][:1]
        if len(run) > 3:
            touched = before in _TOUCHES_BEFORE or behind in _TOUCHES_BEHIND
            product = run.islower() and touched
            return not product and run[:-1] not in spelling.FUNCTIONS
        if run.lower() in _APART and (self.gap or not self.found):
            return not behind.strip(" ,;:.")
        if run in _UNITS and (self.gap or self._follows(NUMBER)):
            return bool(self.found and _BEHIND_UNIT.match(self.text, self.place))
        alone = len(run) == 3 and run.istitle() and run == self.text.strip(" .")  # May
        return alone or run.lower() in ENGLISH

    def _sign(self, text: str) -> None:
        text = _SIGNS.get(text, text)
        if text == "." and self._follows(WORD):
            self.gap = True  # of an abbreviation
            return
        self.depth += (text in ("(", "[", "\\{")) - (text in (")", "]", "\\}"))
        self._add(UNKNOWN if text.startswith("..") else MARK, text)

    def _other(self, text: str) -> None:
        mark = spelling.MARKS.get(text)
        self._add(MARK if mark else UNKNOWN, mark or text)


def _spelt(number: str) -> str:
    """Without idle zeros and points: 1.50e+3 as 1.5e3, .5 as 0.5, 007 as 7."""
    number, _, power = number.lower().partition("e")
    whole, _, places = number.partition(".")
    places = places.rstrip("0")
    spelt = (whole.lstrip("0") or "0") + (f".{places}" if places else "")
    return f"{spelt}e{int(power)}" if power else spelt


def _closing(text: str, place: int) -> int:
    """Where the brace closes that opened before `place`; the end if it does not."""
    depth = 1
    for match in _BRACE.finditer(text, place):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return len(text)


def trimmed(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
    """The tokens without punctuation around them, and without `The answer is`."""
    tokens = _without_punctuation(tokens)
    words = [token.text.lower() for token in tokens[:_LONGEST_OPENING]]
    if "answer" not in words:
        return tokens
    place = words.index("answer")
    if not _OPENING.issuperset(words[:place]):
        return tokens
    rest = tokens[place + 1 :]
    if rest and rest[0].text.lower() in ("is", ":", "="):
        rest = rest[1:]
    return _without_punctuation(rest)


def _without_punctuation(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
    first, last = 0, len(tokens)
    while first < last and tokens[first][:2] in _PUNCTUATION:
        first += 1
    while first < last and tokens[last - 1][:2] in _PUNCTUATION:
        last -= 1
    return tokens[first:last]


def chosen(tokens: tuple[Token, ...]) -> tuple[str, tuple[Token, ...]] | None:
    """The letter and what follows of `(C) 42` or `C. 42`: a choice with its content."""
    opened = bool(tokens) and tokens[0].text == "("
    letter, sign, *rest = (*tokens[opened:], None, None)
    rest = tuple(rest[:-2])
    ends = (")",) if opened else (")", ".", ":")
    if not speaks(rest) or letter.text not in _CHOICES or sign.text not in ends:
        return None
    if not rest[0].gap or any(t.text in _CHOICES or t.text in _HEDGES for t in rest):
        return None
    return letter.text, rest


def speaks(tokens: tuple[Token, ...]) -> bool:
    """Whether there is anything but signs and brackets among the tokens."""
    return any(token.kind != MARK or token.text in _SPEAKING for token in tokens)


def key(tokens: tuple[Token, ...]) -> str:
    """The text of tokens, alike for what differs in looks alone.

    Numbers that stand side by side stay two: `4 2` is not 42.
    """
    parts = []
    for before, token in zip((None, *tokens), tokens):
        if before and before.kind == token.kind == NUMBER:
            parts.append(" ")
        named = token.kind == LETTER
        parts.append(token.text.removeprefix("\\") if named else token.text)
    return _LONE_SCRIPT.sub(r"\1\2", "".join(parts))
