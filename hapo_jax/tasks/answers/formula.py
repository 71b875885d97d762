r"""Mathematical answers as trees: read whole, or not at all.

What is not in the grammar of `_Reader` is no formula: words that are no units, dots,
arrows, signs of unknown meaning, numbers side by side. Such answers are compared as
texts alone. `trees.py` says what the trees are.
"""

import fractions
import functools
import re
from typing import NoReturn

from hapo_jax.tasks.answers import lexer, spelling, trees, units
from hapo_jax.tasks.answers.lexer import FUNCTION, LETTER, MARK, NUMBER, WORD, Token
from hapo_jax.tasks.answers.trees import SETS, Tree

_MAX_NESTING = 60
_MAX_TOKENS = 400  # gold answers have up to 130; trees are walked by recursion
_RELATIONS = ("=", "<", ">", "\\le", "\\ge", "\\ne", "\\approx", "\\in")
_SIGNS = ("+", "-", "\\pm", "\\mp")
_FACTORS = (
    *("(", "[", "{", "\\frac", "\\sqrt", "\\binom", "\\lfloor", "\\lceil", "\\infty"),
    *("\\bar", "\\hat", "\\tilde", "\\dot", "\\ddot", "\\angle", "\\triangle"),
    *("\\begin", "\\sum", "\\prod"),
)
_IS = frozenset(("is", "are", "equals"))
_TO = frozenset(("to",))
_JOINTS = frozenset(("and", "or"))
# Words before an answer that say nothing.
_FILLERS = frozenset(
    "so thus hence therefore then answer final the approximately about exactly roughly "
    "only we get have".split()
)
_PHRASES = {
    "all real numbers": ("numbers", "R"),
    "all reals": ("numbers", "R"),
    "empty set": ("set", ()),
    "infinity": ("inf",),
}
_CALLED = frozenset("fg")  # f(x + 1) is no product, n(n + 1) is one
_UNIT_LETTERS = frozenset("mgshLlNJWVAKCF")  # where upright and behind a number
_CURRENCIES = ("$", "€", "£", "¥", "₹", "¢")
_DIFFERENTIAL = re.compile(r"(?:d|partial)(?:\^(\d))?([A-Za-z]+(?:_\w|_\{\w+\})?)")
_INVERSE = ["^", "{", "-", "1", "}", "("]
_VARIABLE = re.compile(r"(?:d|partial)([A-Za-z]+)(?:\^(\d))?")


class Unread(Exception):
    """A text is no formula, or is not understood whole."""


def read(text: str) -> Tree | None:
    """The tree of an answer; None if it is not understood whole."""
    return of_tokens(lexer.trimmed(lexer.read(text)))


@functools.lru_cache(maxsize=1_024)  # a group's completions share their gold answer
def of_tokens(tokens: tuple[Token, ...]) -> Tree | None:
    """The same of an answer's tokens."""
    letters = "".join(token.text for token in tokens if token.kind == LETTER)
    if not 0 < len(tokens) <= _MAX_TOKENS:
        return None
    if len(letters) == len(tokens) > 1 and letters.isupper():
        return None  # letters for points or choices, and no product: CD is not DC
    try:
        return _Reader(list(tokens)).answer()
    except (Unread, ZeroDivisionError):
        return None


class _Reader:
    """Reads tokens from left to right; each method reads what it is named after."""

    def __init__(self, tokens: list[Token]):
        self.tokens, self.at = tokens, 0
        self.depth = 0
        self.closes: tuple[str, ...] = ()  # signs that close rather than open or divide

    def kind(self, ahead: int = 0) -> str:
        place = self.at + ahead
        return self.tokens[place].kind if place < len(self.tokens) else ""

    def text(self, ahead: int = 0) -> str:
        place = self.at + ahead
        return self.tokens[place].text if place < len(self.tokens) else ""

    def sees(self, *marks: str) -> bool:
        return self.kind() == MARK and self.text() in marks

    def next(self) -> str:
        if self.at == len(self.tokens):
            raise Unread
        self.at += 1
        return self.tokens[self.at - 1].text

    def take(self, *marks: str) -> str:
        """The next mark if it is one of these, else an empty text."""
        return self.next() if self.sees(*marks) else ""

    def need(self, *marks: str) -> str:
        return self.take(*marks) or _refuse()

    def takes_word(self, words: frozenset[str]) -> str:
        found = self.kind() == WORD and self.text().lower() in words
        return self.next().lower() if found else ""

    # ---- answers

    def answer(self) -> Tree:
        groups, joint = [[self.element()]], ","
        while self.at < len(self.tokens):
            if self.take(";"):
                groups.append([])
            else:
                joint = self.joint(joint)
            groups[-1].append(self.element())
        if len(groups) > 1 and max(map(len, groups)) > 1:
            return ("list", tuple(("list", tuple(g), ",") for g in groups), ",")
        items = tuple(item for group in groups for item in group)
        return items[0] if len(items) == 1 else ("list", items, joint)

    def conditions(self) -> Tree:
        """What holds for the members of a set, up to its bracket."""
        items, joint = [self.element()], ","
        while not self.sees("\\}"):
            joint = self.joint(joint)
            items.append(self.element())
        return items[0] if len(items) == 1 else ("list", tuple(items), joint)

    def joint(self, known: str) -> str:
        """What joins two elements: a comma, a word, or both."""
        comma = self.take(",", "\\\\")
        word = self.takes_word(_JOINTS)
        return word or (known if comma else _refuse())

    def element(self) -> Tree:
        if self.depth == 0:
            self.take("\\approx", "=")
        operators, sides = [], [self.side()]
        while True:
            named = sides[-1][0] == "name"
            if operator := self.take(*_RELATIONS):
                operators.append(operator)
            elif self.takes_word(_IS) or (named and self.take(":")):
                operators.append("=")
            elif operators:
                return ("rel", tuple(operators), tuple(sides))
            else:
                return _refuse() if named else sides[0]
            sides.append(self.side())

    def side(self) -> Tree:
        related = self.at and self.tokens[self.at - 1].text in _RELATIONS
        words = []
        while (
            self.kind() == WORD and len(self.text()) > 1 and not self.is_joint_or_is()
        ):
            words.append(self.next())
        name = " ".join(words)
        if not units.DENYING.isdisjoint(name.lower().split()):
            raise Unread
        ends = self.at == len(self.tokens) or self.is_joint_or_is()
        named = self.sees(*_RELATIONS, ":") or self.text().lower() in _IS
        idle = _FILLERS.issuperset(name.lower().split())
        if words and not idle and (named or (related and ends)):
            return ("name", name)
        if ends and name.lower() in _PHRASES:
            return _PHRASES[name.lower()]
        if ends and name.lower() in spelling.NUMERALS:
            return _number(spelling.NUMERALS[name.lower()])
        if not idle:
            raise Unread
        if words:  # `The answer is`
            self.take(",", ":", "=") or self.takes_word(_IS)
        return self.value()

    def is_joint_or_is(self) -> bool:
        return self.kind() == WORD and self.text().lower() in _IS | _JOINTS

    def value(self) -> Tree:
        """A set, a ratio or a scalar, perhaps with a unit."""
        negative = self.sees("-") and self.text(1) in _CURRENCIES and self.take("-")
        unit = self.take(*_CURRENCIES)
        tree = self.sets()
        if (":" not in self.closes and self.sees(":")) or self.sees_to():
            tree = self.ratio(tree)
        based = self.text() == "base" and self.kind(1) == NUMBER
        if based and tree[0] == "num" and self.next():
            return ("based", str(tree[1]), self.next())
        words = [unit] if unit else []
        while self.kind() == WORD and not self.is_joint_or_is():
            words.append(self.next())
            if exponent := self.take("/", "^"):
                words.append(exponent)
                if exponent == "^":
                    words.append(self.exponent())
        words += [self.next()] if self.sees(*_CURRENCIES) else []
        tree = ("neg", tree) if negative else tree
        return _quantity(tree, tuple(words)) if words else tree

    def sees_to(self) -> bool:
        return self.kind() == WORD and self.text() in _TO

    def exponent(self) -> str:
        """The 2 of `cm^2`."""
        tree = self.script()
        return str(tree[1]) if tree[0] == "num" else _refuse()

    def ratio(self, first: Tree) -> Tree:
        items, is_time = [first], False
        while self.take(":") or self.takes_word(_TO):
            is_time |= self.kind() == NUMBER and self.text().startswith("0")
            items.append(self.sum())
        if any(item[0] in ("percent", "deg") for item in items):
            raise Unread
        return ("time" if is_time else "ratio", tuple(items))

    def sets(self) -> Tree:
        tree = self.sum()
        while tree[0] in (*SETS, "tuple"):
            if self.take("\\cup") or (self.text() == "U" and self.next()):
                tree = ("union", tree, self.sum())
            elif self.take("\\setminus", "-"):
                tree = ("minus", tree, self.sum())
            else:
                break
        return tree

    # ---- scalars

    def sum(self) -> Tree:
        sign = self.take(*_SIGNS)
        tree = _signed(sign, self.product())
        while self.sees(*_SIGNS) and tree[0] not in SETS:
            sign = self.next()
            tree = ("add", _scalar(tree), _signed(sign, _scalar(self.product())))
        return tree

    def product(self) -> Tree:
        tree = self.unary()
        while True:
            if self.take("*") or self.takes_cross():
                tree = ("mul", _scalar(tree), _scalar(self.unary()))
            elif self.take("/"):
                tree = ("div", _scalar(tree), _scalar(self.divisor()))
            elif self.begins_factor(tree):
                factor = self.power()
                if tree[0] == "sym" and factor[0] == "interval":  # t(0, 4]
                    return ("rel", ("\\in",), (tree, factor))
                tree = ("mul", _scalar(tree), _scalar(factor))
            else:
                return tree

    def divisor(self) -> Tree:
        """What follows a `/`: of letters all, as in t/RC; else one factor."""
        tree = self.unary()
        while self.kind() == LETTER and _is_of_a_letter(tree):
            factor = self.power()
            if not _is_of_a_letter(factor):
                raise Unread  # a/b i
            tree = ("mul", tree, factor)
        return tree

    def takes_cross(self) -> bool:
        """Takes the x of `6 x 7`."""
        found = self.text() in ("x", "X") and self.kind(1) == NUMBER
        found = found and self.tokens[self.at - 1].kind == NUMBER
        self.at += found
        return found

    def begins_factor(self, before: Tree) -> bool:
        """Whether a factor follows without a sign; no number after a number: `4 2`."""
        if self.kind() == LETTER:
            return self.text() != "U" or before[0] not in (*SETS, "tuple")
        if self.kind() == WORD and len(self.text()) == 1:
            return self.text() not in _UNIT_LETTERS
        if self.kind() == NUMBER:  # (n-2) 2^n
            closing = self.tokens[self.at - 1].text
            return closing == ")" or (closing == "}" and self.text(1) == "^")
        opens = self.sees("|") and "|" not in self.closes
        return self.kind() == FUNCTION or opens or self.sees(*_FACTORS)

    def unary(self) -> Tree:
        sign = self.take("-", "+")
        return _signed(sign, self.power())

    def power(self) -> Tree:
        if self.kind() == FUNCTION:
            return self.call()
        tree = self.primary()
        if tree[0] == "num" and self.take("_"):
            return ("based", str(tree[1]), self.base())
        raised = False
        while sign := self.take("!", "^", "%", "°"):
            if (sign == "^" and raised) or tree[0] in ("percent", "deg"):
                raise Unread  # x^2^3, 5%%
            raised |= sign == "^"
            if sign == "^":
                tree = ("pow", _scalar(tree), self.script())
            else:
                kind = {"!": "fact", "%": "percent", "°": "deg"}[sign]
                tree = (kind, _scalar(tree))
        if self.sees("'"):
            raise Unread  # the derivative of what is no letter
        return tree

    def base(self) -> str:
        """The base of a numeral, `8` of 52_8."""
        braced = self.take("{")
        while braced and self.takes_word(frozenset(("base",))):
            pass
        text = spelling.NUMERALS.get(self.text().lower(), self.text())
        self.next()
        if braced:
            self.need("}")
        return text if text.isdigit() else _refuse()

    def script(self) -> Tree:
        """An exponent: in braces, or a single token."""
        if self.take("-"):
            return ("neg", _scalar(self.primary()))
        if self.kind() == LETTER:
            return self.symbol(self.next(), called=False)
        return _scalar(self.primary())

    def call(self) -> Tree:
        """A function with its argument, the factors up to the next function."""
        name = self.next()
        base = self.script() if name == "log" and self.take("_") else None
        exponent = self.script() if self.take("^") else None
        if base is None and name == "log" and self.take("_"):
            base = self.script()
        if self.sees("(", "[", "{"):
            argument = _scalar(self.primary())
            if self.take("^"):
                exponent = self.script() if exponent is None else _refuse()
        else:
            argument = self.power()
            while self.kind() != FUNCTION and self.begins_factor(argument):
                argument = ("mul", _scalar(argument), _scalar(self.power()))
        if exponent == ("neg", _number("1")):  # sin^{-1}
            name, exponent = spelling.FUNCTIONS.get(f"arc{name}") or _refuse(), None
        if name in ("abs", "floor", "ceil"):
            tree = (name, argument)
        elif name == "exp":
            tree = ("pow", ("const", "e"), argument)
        elif name in ("log", "lg"):
            tree = ("log", base if name == "log" else _number("10"), argument)
        else:
            tree = ("call", name, argument)
        return tree if exponent is None else ("pow", tree, exponent)

    def primary(self) -> Tree:
        """A number, a letter, a bracket or a command with its arguments."""
        self.depth += 1
        if self.depth > _MAX_NESTING:
            raise Unread
        if self.kind() == NUMBER:
            tree = self.number()
        elif self.kind() == LETTER or (self.kind() == WORD and len(self.text()) == 1):
            tree = self.derivative() or self.symbol(self.next())
        elif self.kind() == MARK:
            tree = self.marked(self.next())
        else:
            raise Unread
        self.depth -= 1
        return tree

    def number(self) -> Tree:
        tree = _number(self.next())
        whole = tree[1]
        if whole.denominator > 1 or tree[2] != "exact":
            return tree
        start, tokens = self.at, self.tokens[:]
        if self.sees("\\frac"):  # 1\frac{1}{4}
            part = self.primary()
        elif self.kind() == NUMBER and self.text(1) == "/" and self.kind(2) == NUMBER:
            top, _, under = self.next(), self.next(), self.next()  # 1 1/4
            part = ("div", _number(top), _number(under))
        else:
            return tree
        if part[0] == "div" and part[1][0] == part[2][0] == "num":
            top, under = part[1][1], part[2][1]
            if 0 < top < under and top.denominator == under.denominator == 1:
                return ("add", tree, part)
        self.at, self.tokens = start, tokens
        return tree

    def derivative(self) -> Tree | None:
        """dx/dt, written in one line."""
        if self.text(2) != "/" or self.kind(1) != LETTER or self.kind(4) != LETTER:
            return None
        found = _derivative(
            self.tokens[self.at : self.at + 2], self.tokens[self.at + 3 : self.at + 5]
        )
        self.at += 5 * (found is not None)
        return found

    def symbol(self, letter: str, accent: str = "", called: bool = True) -> Tree:
        """A letter with its index and primes, perhaps as a function of arguments."""
        name = letter
        if self.take("_"):
            name += "_" + self.index()
        primes = accent.count("'")
        while self.take("'"):
            primes += 1
        if primes:
            name = f"D{primes} {name}|"
        elif accent:
            name = f"{accent} {name}"
        elif name in ("e", "i", "\\pi"):
            return ("const", name.removeprefix("\\"))
        if letter in _CALLED and [self.text(k) for k in range(6)] == _INVERSE:
            self.at += 5
            name += "^-1"
        number = self.kind(1) == NUMBER and self.text(2) == ")"
        if called and self.sees("(") and (letter in _CALLED or primes or number):
            argument = self.primary()
            items = argument[1] if argument[0] == "tuple" else (_scalar(argument),)
            return ("apply", name, items)
        return ("sym", name)

    def inside(self) -> list[Token]:
        """What stands in the braces that open here, unread."""
        self.need("{")
        start, depth = self.at, 1
        while depth:
            if self.kind() in ("", lexer.UNKNOWN):
                raise Unread
            depth += {"{": 1, "}": -1}.get(self.next(), 0)
        return self.tokens[start : self.at - 1]

    def index(self) -> str:
        """What stands below the line, as text."""
        if self.sees("{"):
            return lexer.key(tuple(self.inside()))
        return self.next() if self.kind() in (NUMBER, LETTER, WORD) else _refuse()

    def marked(self, mark: str) -> Tree:
        """What begins with a mark."""
        if mark in ("(", "[", "\\langle"):
            return self.bracket(mark)
        if mark == "{":
            return self.braces()
        if mark == "\\{":
            return self.set()
        if mark == "|":
            return ("abs", self.closed("|"))
        if mark == "\\lfloor":
            return ("floor", self.closed("\\rfloor"))
        if mark == "\\lceil":
            return ("ceil", self.closed("\\rceil"))
        if mark == "\\frac":
            return self.fraction()
        if mark == "\\binom":
            return ("binom", self.argument(), self.argument())
        if mark == "\\sqrt":
            return self.root()
        if mark == "\\begin":
            return self.matrix()
        if mark in ("\\sum", "\\prod"):
            return self.big(mark)
        if mark == "\\infty":
            return ("inf",)
        if mark == "\\empty":
            return ("set", ())
        if mark.startswith("\\mathbb"):
            return ("numbers", mark[-2])
        if mark in ("\\angle", "\\triangle"):
            return self.figure(mark)
        if mark in ("\\bar", "\\hat", "\\tilde", "\\dot", "\\ddot"):
            return self.accented({"\\dot": "'", "\\ddot": "''"}.get(mark, mark))
        raise Unread

    def closed(self, close: str) -> Tree:
        """A scalar up to a sign."""
        outer, self.closes = self.closes, (close,)
        tree = _scalar(self.sum())
        self.need(close)
        self.closes = outer
        return tree

    def braces(self) -> Tree:
        """What braces group; a list where `\\{1, 2\\}` has lost its backslashes."""
        outer, self.closes = self.closes, ()
        tree = self.element()
        if self.take("\\over"):
            tree = ("div", _scalar(tree), _scalar(self.sum()))
        elif self.take("\\choose"):
            tree = ("binom", _scalar(tree), _scalar(self.sum()))
        items = [tree]
        while self.take(","):
            items.append(self.element())
        self.need("}")
        self.closes = outer
        return tree if len(items) == 1 else ("list", tuple(items), ",")

    def bracket(self, opening: str) -> Tree:
        """A group, a point, an interval: what stands between brackets."""
        outer, self.closes = self.closes, ()
        items = [self.element()]
        while self.take(",", ";"):
            items.append(self.element())
        closing = self.need(")", "]", "\\rangle")
        self.closes = outer
        alike = opening + closing in ("()", "[]", "\\langle\\rangle")
        if len(items) == 1 and alike and opening != "\\langle":
            return items[0]
        if len(items) == 2 and (opening == "[" or closing == "]"):
            low, high = map(_scalar, items)
            return ("interval", low, high, opening == "[", closing == "]")
        return ("tuple", tuple(items)) if alike and len(items) > 1 else _refuse()

    def set(self) -> Tree:
        """A set by its members, or the condition that they meet."""
        outer, self.closes = self.closes, ("|", ":")
        items = [] if self.sees("\\}") else [self.element()]
        while self.take(","):
            items.append(self.element())
        if len(items) == 1 and self.take("|", ":"):
            self.closes = ()
            tree = ("such", self.conditions())
        elif any(item[0] == "set" for item in items):
            raise Unread
        else:
            tree = ("set", tuple(items))
        self.need("\\}")
        self.closes = outer
        return tree

    def argument(self) -> Tree:
        """An argument of a command: in braces, or a single digit or letter."""
        if self.kind() == NUMBER:
            digits = self.text()
            if len(digits) == 2 and digits.isdigit():  # \frac12
                self.tokens[self.at] = Token(NUMBER, digits[1])
                return _number(digits[0])
            return _number(self.next()) if len(digits) == 1 else _refuse()
        if self.kind() == LETTER:
            return self.symbol(self.next(), called=False)
        return _scalar(self.marked(self.need("{", "\\sqrt", "\\frac")))

    def fraction(self) -> Tree:
        start = self.at
        if self.sees("{"):
            top = self.inside()
            if self.sees("{") and (found := _derivative(top, self.inside())):
                return found
        self.at = start
        return ("div", self.argument(), self.argument())

    def root(self) -> Tree:
        degree = self.closed("]") if self.take("[") else _number("2")
        if self.kind() == NUMBER:  # √12
            radicand = _number(self.next())
        elif self.sees("("):
            radicand = _scalar(self.primary())
        else:
            radicand = self.argument()
        return ("root", degree, radicand)

    def matrix(self) -> Tree:
        outer, self.closes = self.closes, ()
        rows: list[list[Tree]] = []
        while True:
            while self.take("\\\\"):
                pass  # an empty row
            if self.take("\\end"):
                break
            rows.append([_scalar(self.sum())])
            while self.take("&"):
                rows[-1].append(_scalar(self.sum()))
            if not self.sees("\\\\", "\\end"):
                raise Unread
        self.closes = outer
        if len(set(map(len, rows))) != 1:
            raise Unread
        return ("matrix", tuple(map(tuple, rows)))

    def big(self, mark: str) -> Tree:
        self.need("_")
        self.need("{")
        variable = self.symbol(self.next(), called=False)
        self.need("=")
        low = self.sum()
        self.need("}")
        self.need("^")
        high = self.script()
        return ("big", mark, variable, low, high, _scalar(self.product()))

    def figure(self, mark: str) -> Tree:
        """An angle or a triangle by its points, in their order."""
        name = mark
        while self.kind() in (LETTER, WORD) and self.text().isupper():
            name += self.next()
            if self.take("_"):
                name += "_" + self.index()
        return ("sym", name) if name != mark else _refuse()

    def accented(self, accent: str) -> Tree:
        """A letter with a dot or a bar over it, or several letters with a bar."""
        if not self.sees("{"):
            letter = self.next() if self.kind() == LETTER else _refuse()
            return self.symbol(letter, accent)
        inner = self.inside()
        if len(inner) == 1 and inner[0].kind == LETTER:
            return self.symbol(inner[0].text, accent)
        return ("sym", f"{accent} {lexer.key(tuple(inner))}") if inner else _refuse()


def _refuse() -> NoReturn:
    raise Unread


def _number(text: str) -> Tree:
    """num value kind."""
    head, _, period = text.partition("(")
    if not period:
        kind = "decimal" if "." in text else "exact"
        return ("num", fractions.Fraction(text), kind)
    period = period.rstrip(")")
    scale = 10 ** len(head.partition(".")[2])
    tail = fractions.Fraction(int(period), (10 ** len(period) - 1) * scale)
    return ("num", fractions.Fraction(head.rstrip(".")) + tail, "recurring")


def _signed(sign: str, tree: Tree) -> Tree:
    if sign in ("", "+"):
        return tree
    if tree[0] == "based" and sign == "-":
        return ("based", f"-{tree[1]}", tree[2])
    return ({"-": "neg", "\\pm": "pm", "\\mp": "mp"}[sign], _scalar(tree))


def _scalar(tree: Tree) -> Tree:
    """The tree, unless one cannot calculate with it."""
    return _refuse() if tree[0] in trees.COMPOSED else tree


def _is_of_a_letter(tree: Tree) -> bool:
    """Whether it is a letter, a power of one, or a product of such."""
    if tree[0] == "mul":
        return _is_of_a_letter(tree[1]) and _is_of_a_letter(tree[2])
    return tree[0] == "sym" or (tree[0] == "pow" and tree[1][0] == "sym")


def _quantity(tree: Tree, words: tuple[str, ...]) -> Tree:
    """A value with its unit."""
    low = [word.lower() for word in words]
    if not units.NO_UNITS.isdisjoint(low):
        raise Unread
    for word in low:
        if word in units.SCALES:
            tree = ("mul", _scalar(tree), _number(str(units.SCALES[word])))
    words = tuple(word for word in words if word.lower() not in units.SCALES)
    if len(words) == 1 and low[-1] in units.PERCENT:
        return ("percent", _scalar(tree))
    if len(words) == 1 and low[-1] in units.DEGREES:
        return ("deg", _scalar(tree))
    unit = units.read(words)
    if unit.nouns and any(node[0] == "sym" for node in trees.nodes(tree)):
        raise Unread  # `as claimed` is no product with a unit
    return ("quantity", tree, unit) if words else tree


def _derivative(top: list[Token], under: list[Token]) -> Tree | None:
    r"""`\frac{d^2 x}{dt^2}` as a symbol of its own: no quotient, and not zero."""
    function = _DIFFERENTIAL.fullmatch(lexer.key(tuple(top)))
    variable = _VARIABLE.fullmatch(lexer.key(tuple(under)))
    if not function or not variable or function[1] != variable[2]:
        return None
    return ("sym", f"D{function[1] or 1} {function[2]}|{variable[1]}")
