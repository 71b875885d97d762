r"""Near misses: rewrites of a gold answer that change its value; see `golds.py`."""

import fractions
import re
from collections.abc import Iterator

from tests.tasks.answers import golds
from tests.tasks.answers.golds import bare, inside, whole

_WORDED = r"\\(?:text|mbox)|where|[A-Z]{2}"
_FRACTION = r"(-?)\\[dt]?frac\{(-?\d+)\}\{(\d+)\}"
_UNIT = (
    r"(.*\d\}?\)?)\s*(?:\\ )?\\(?:text|mbox|textnormal)\s*"
    r"\{\s*([^{}]*?)\s*\}(?:\^2)?\.?"
)
_DOLLARS = r"\\\$\s*([\d.]+)"
_SUM = r"(?!\de)[-+]?[\da-z^]+(?:[-+][\da-z^]+)+"
_NAMED = r"\([a-z]\) ?="
_ANY = r"([\s\S]*)"
_BIG = "12345"


def _scalar(*templates: str, unless: str = "(?!)"):
    """Templates of scalars, in which `{}` stands for the answer."""

    def rewrite(gold: str) -> Iterator[str]:
        if golds.is_scalar(bare(gold)) and not re.search(unless, gold):
            yield from (template.replace("{}", bare(gold)) for template in templates)

    return rewrite


def _number(*templates: str, least: int = 0):
    """Templates of whole numbers above `least`, and of decimals if that is 0."""
    pattern = r"-?(?:\d+|\d*\.\d+)" if least == 0 else r"\d+"

    def rewrite(gold: str) -> Iterator[str]:
        if re.fullmatch(pattern, gold) and (
            float(gold) > least or (not least and float(gold))
        ):
            yield from (template.replace("{}", gold) for template in templates)

    return rewrite


def _numbers_in(gold: str) -> list[re.Match]:
    """The whole numbers in an answer that stand for themselves."""
    text = golds.WORDS.sub(lambda m: "_" * len(m[0]), bare(gold))
    text = re.sub(
        r"_\{?\w+\}?|frac ?\d ?\d|(?:frac|sqrt) ?\d|\}\d(?!\d)",
        lambda m: "_" * len(m[0]),
        text,
    )
    return list(re.finditer(r"(?<![\d.,}!\]])\d+(?![\d.,]|\{,|\\!)", text))


def _another_number(gold: str) -> Iterator[str]:
    found = [] if re.search(r"np\.|\}\^2", gold) else _numbers_in(gold)
    for match in {found[0], found[-1]} if found else ():
        digits = match[0]
        others = {str(int(digits) + 1), digits[::-1].lstrip("0"), "7777"} - {digits, ""}
        others |= {f"{digits}0"} if int(digits) else set()
        for other in others - ({digits.lstrip("0")} if digits.strip("0") else set()):
            yield bare(gold)[: match.start()] + other + bare(gold)[match.end() :]


def _decimal_point(gold: str) -> Iterator[str]:
    if re.fullmatch(r"-?\d*\.\d+", gold) and float(gold):
        yield str(float(fractions.Fraction(gold) * 10))
        yield str(float(fractions.Fraction(gold) / 10))
        yield gold.replace(".", "")
        yield gold.replace(".", ", ")


def _fraction(gold: str) -> Iterator[str]:
    if found := re.fullmatch(_FRACTION, bare(gold)):
        sign, top, under = found.groups()
        exact = fractions.Fraction(int(top), int(under)) * (-1 if sign else 1)
        if abs(int(top)) != int(under):
            yield f"{sign}\\frac{{{under}}}{{{top}}}"
        yield f"{sign}{top}"
        yield f"{sign}{top}, {under}"
        yield f"({sign}{top}, {under})"
        yield f"{sign}\\frac{{{top}}}{{{int(under) + 1}}}"
        if fractions.Fraction(f"{float(exact):.2f}") != exact:
            yield f"{float(exact):.2f}"


def _letters(*replacements):
    """A formula with letters, one of which is replaced wherever it is a letter."""

    def rewrite(gold: str) -> Iterator[str]:
        for letter in golds.letters(gold):
            for other in (replace(letter) for replace in replacements):
                commands = re.split(r"(\\[a-zA-Z]+)", bare(gold))
                commands[::2] = [part.replace(letter, other) for part in commands[::2]]
                yield "".join(commands)

    return rewrite


def _powers(gold: str) -> Iterator[str]:
    pattern = r"(?<=[a-z)])\^\{?(\d)\}?(?!\d)"
    if re.search(pattern, bare(gold)):
        yield re.sub(pattern, lambda m: f"^{{{int(m[1]) + 1}}}", bare(gold), count=1)
        yield re.sub(pattern, "", bare(gold), count=1)


def _conjugate(gold: str) -> Iterator[str]:
    if found := re.fullmatch(r"(-?\d+)([-+])(\d*i)", bare(gold).replace(" ", "")):
        real, sign, imaginary = found.groups()
        yield f"{real}{'+' if sign == '-' else '-'}{imaginary}"
        if real.strip("-") != (imaginary.removesuffix("i") or "1"):
            yield f"{real}i {sign} {imaginary.removesuffix('i') or '1'}"


def _point(gold: str) -> Iterator[str]:
    found = re.fullmatch(r"\((-?[\w\\{}]+), ?(-?[\w\\{}]+)\)", bare(gold))
    if found and found[1] != found[2]:
        first, second = found.groups()
        yield from (f"({second}, {first})", f"({first}, {second}, 0)", first)
        if "infty" not in second:
            yield f"({first}, {second} + 1)"


def _interval(gold: str) -> Iterator[str]:
    if not (found := golds.interval(gold)):
        return
    opening, low, high, closing = found
    if "infty" not in low:
        yield f"{'(' if opening == '[' else '['}{low},{high}{closing}"
        yield f"{opening}{low} + 1/7, {high}{closing}"
    if "infty" not in high:
        yield f"{opening}{low},{high}{')' if closing == ']' else ']'}"
        yield f"{opening}{low}, {high} + 1/7{closing}"
    if ("infty" in low) != ("infty" in high):
        less = "infty" in low
        end, closed = (high, closing == "]") if less else (low, opening == "[")
        right = ("\\le" if closed else "<") if less else ("\\ge" if closed else ">")
        for sign in {"<", ">", "\\le", "\\ge", "=", "\\ne"} - {right}:
            yield f"x {sign} {end}"


def _union(gold: str) -> Iterator[str]:
    parts = bare(gold).split("\\cup")
    if len(parts) > 1:
        yield parts[0]
        yield bare(gold).replace("\\cup", "\\cap")
        yield (
            f"{bare(gold)} \\cup \\{{{_BIG}\\}}" if "infty)" not in gold else parts[-1]
        )


def _list(gold: str) -> Iterator[str]:
    parts = golds.items(gold)
    if parts and len(set(parts)) < len(parts):
        yield ", ".join(dict.fromkeys(parts))
    elif parts:
        yield ", ".join(parts[:-1])
        yield ", ".join(parts[1:])
        yield ", ".join([*parts, _BIG])
        yield ", ".join([*parts[:-1], _BIG])
        yield " ".join(parts)
        yield f"{', '.join(parts)}, \\ldots"


def _words(gold: str) -> Iterator[str]:
    if not (found := re.fullmatch(r"\\(?:text|mbox)\{([A-Za-z ,]+)\}", bare(gold))):
        return
    words = found[1]
    yield from (
        "\\text{Wombat}",
        f"\\text{{not {words}}}",
        f"\\text{{{words} or wombat}}",
    )
    if len(words) > 1 and "," not in words and words[::-1] != words:
        yield from (f"\\text{{{words[::-1]}}}", words[::-1], f"{words[1:]}{words[0]}")
        yield " \\cdot ".join(words.replace(" ", ""))
        if "".join(sorted(words)) != words:
            yield "".join(sorted(words)).strip()


def _digits(gold: str) -> Iterator[str]:
    if re.fullmatch(r"[1-9]\d+", gold):
        yield from (
            ", ".join(gold),
            " ".join(gold),
            gold[:-1],
            f"{gold[0]}\u200b{gold[1:]}",
        )
        if gold[1:].strip("0"):
            yield from (gold[1:], f"{gold[0]}.{gold[1:]}")


def _base(gold: str) -> Iterator[str]:
    if found := re.fullmatch(r"(-?)(\d+)_\{?(\d+)\}?", bare(gold)):
        sign, digits, base = found.groups()
        yield f"{sign}{digits}_{{{int(base) + 1}}}"
        yield f"{sign}{digits}"
        yield f"{sign}{digits}1_{{{base}}}"
        if int(base) < 10:
            yield f"{sign}{int(digits, int(base))}_{{10}}"


def _matrix(gold: str) -> Iterator[str]:
    if rows := golds.matrix(gold):
        (cell, *cells), *below = rows
        others = [list(row) for row in zip(*rows)], [*below, rows[0]], rows[:-1]
        for other in (*others, [[f"{cell} + 1", *cells], *below]):
            if other and other != rows:
                inner = " \\\\ ".join(" & ".join(row) for row in other)
                yield f"\\begin{{pmatrix}} {inner} \\end{{pmatrix}}"
        yield "0"


def _derivative(gold: str) -> Iterator[str]:
    text = bare(gold)
    found = re.search(r"\\frac\{d ?(\\?[a-zA-Z]+)\}\{d ?([a-z])\}", text)
    if found:
        for other in (found[1], "0", f"\\frac{{d^2 {found[1]}}}{{d {found[2]}^2}}"):
            yield text.replace(found[0], other)
        yield text.replace(found[0], f"\\frac{{d {found[1]}}}{{d z}}")


def _equation(gold: str) -> Iterator[str]:
    sides = bare(gold).split("=")
    if (
        len(sides) == 2
        and golds.letters(sides[1])
        and not re.search(r",|approx|leq", gold)
    ):
        yield f"{sides[0]} = -({sides[1]})"
        yield f"{sides[0]} + 1 = {sides[1]}"
        yield f"-({sides[1]})"


def _solved(gold: str) -> Iterator[str]:
    if found := re.fullmatch(r"([a-zA-Z]) ?= ?(-?[\d.]+)", bare(gold)):
        name, value = found.groups()
        other = "y" if name != "y" else "z"
        yield from (f"{other} = {value}", f"2{name} + 3 = 2({value}) + 3", name)
        yield from (f"{name} + 1 = {value}", f"{name} = {_BIG}", f"{name} > {value}")
        yield f"{name} = {_BIG} = {value}"


def _sum(gold: str) -> Iterator[str]:
    text = bare(gold).replace(" ", "")
    if re.fullmatch(_SUM, text):
        *terms, last = re.findall(r"[-+]?[^-+]+", text)
        yield "".join(terms)
        yield f"{text}+1"
        yield "".join(terms) + ("-" if last[0] == "+" else "+") + last[1:]


REWRITES: dict[str, golds.Rewrite] = {
    "any: denied, hedged": whole(
        _ANY,
        *(r"\\text{not }\1", r"\1 \\text{ is wrong}", r"\1\\text{ if it is even}"),
        *(r"\\neq \1", r"\\text{neither }\1"),
    ),
    "any: nothing": whole(
        _ANY, "", " ", "$$", r"\\text{}", "?", r"\\boxed{}", ".", "=", "()"
    ),
    "any: no answer": whole(
        _ANY,
        *(r"\\text{the answer}", "answer", r"\\text{undefined}", "NaN",
          r"\\frac{0}{0}"),
        *("x = x", r"\\emptyset", r"\\text{none of these}"),
    ),
    "a scalar but 0: its sign": _scalar("-({})", "-1 \\cdot ({})", unless=r"^\$?0\$?$"),
    "a scalar: one of two": _scalar(
        *(f"{{}} or {_BIG}", f"{{}} \\text{{ or }} {_BIG}", f"{{}}, {_BIG}",
          f"{_BIG}; {{}}"),
        *(f"\\{{{{}}, {_BIG}\\}}", f"({{}}, {_BIG})", f"{{}} \\quad {_BIG}",
          "{} or {} + 1"),
    ),
    "a scalar: a chain that disagrees": _scalar(
        *(f"{_BIG} = {{}}", f"{{}} = {_BIG}", f"{_BIG} \\approx {{}}",
          f"x = {_BIG} = {{}}"),
        *(f"x = {_BIG} \\Rightarrow x = {{}}", f"{_BIG} \\equiv {{}}",
          f"{_BIG} \\to {{}}"),
    ),
    "with a whole number: another": _another_number,
    "a decimal: its point moved": _decimal_point,
    "a fraction: turned, cut, rounded, a pair": _fraction,
    "a number but 0: a range, both signs": _number(
        *("[{}-1, {}+1]", "x \\ge {}", "x > {} - 1", "(-\\infty, \\infty)", "\\pm {}"),
        *("\\mathbb{R}", "x", "{} \\pm 1", "{} < x", "\\ge {}", "x \\ne {}",
          "-|{}| + 1/7"),
    ),
    "a number but 0: a letter behind, that might be a unit": _number(
        *(f"{{}}{gap}{letter}" for letter in "cdghlmostxy" for gap in ("", " ",
          "\\cdot ")),
        *("{}+10t", "12+10t", "{}x^2", "x{}", "{}(x)"),
    ),
    "a whole number above 2: signs and words behind": _number(
        *("{}!", "{}^2", "{}^{-1}", "{}_7", "{}0", "{}\\pi", "{}\\ldots", "{}...",
          "{}\\phantom{1}"),
        *("{} hundredths", "{} dozen", "{} thousand", "{} squared", "{} halves",
          "{} point five"),
        *("\\sqrt{{}}", "1/{}", "{}i", "{}e", "\\log {}", "{}\\text{ or more}", "{} {}",
          "{}{}"),
        *("{} \\text{ minus one}", "{} and a half", "\\text{at least } {}", "{}'"),
        least=2,
    ),
    "a whole number of several digits: apart, cut": _digits,
    "a formula with letters: one in the other case": _letters(str.swapcase),
    "a formula with letters: another letter": _letters(
        lambda x: "q" if x != "q" else "w"
    ),
    "a formula with letters: one squared, one left out": _letters(
        lambda x: f"({x}^2+1)", lambda x: "(1/7)"
    ),
    "a power of a letter: raised, left out": _powers,
    "a root of a number: left out, a cube root": inside(
        r"\\sqrt ?\{(\d+)\}", r"(\1)", r"\\sqrt[3]{\1}", unless=r"\\sqrt\{1\}"
    ),
    "pi behind a number: left out, squared": inside(
        r"(?<=\d) ?\\pi(?![\^a-z])", "", r"\\pi^2", r" \\cdot 3.14"
    ),
    "i behind a number: left out": inside(r"(?<=\d)i(?![a-z])", "", unless=_WORDED),
    "a complex number: its conjugate, its parts swapped": _conjugate,
    "a pair: swapped, longer, shorter": _point,
    "an interval: another bracket, end, side": _interval,
    "a union: a part, the intersection": _union,
    "a list of scalars: one less, one more, another": _list,
    "words: others, permuted, denied": _words,
    "capital letters: permuted, in small letters": lambda gold: (
        (gold[::-1], gold.lower(), " ".join(gold[::-1]), f"{gold[1:]}{gold[0]}")
        if re.fullmatch(r"[A-Z]{2,}", gold)
        else ()
    ),
    "one capital letter: others, several": whole(
        r"\(?(?:\\text\{)?\(?([A-H])\)?\}?\)?",
        *("X", r"\1, X", r"\1X", r"\1 or X", "A, B, C, D, E, F, G, H",
          r"\\text{not }\1"),
    ),
    "a number with a unit or noun: another": whole(
        _UNIT, r"\1 \\text{ kilograms}", r"\1 \\text{ km}", r"\1\\%", r"¥\1",
        unless=r"p\.m"
    ),
    "a length: an area": whole(
        r"(\d+)\\text\{ ?(inches|feet|cm|miles)\}", r"\1 \\text{ square \2}",
        r"\1 \\text{ \2}^2"
    ),
    "an area: a length": whole(
        r"(\d+)\s*\\text\{ ?square (?!units)(\w+)\}", r"\1 \\text{ \2}",
        r"\1 \\text{ cubic \2}"
    ),
    "dollars: cents, others": whole(
        _DOLLARS, r"\1 cents", r"€\1", r"\1\\%", r"\1\\text{ miles}", r"-\\$\1"
    ),
    "percent: a hundredth of one, others": whole(
        r"(\d+)\s*\\?%", r"\1\\text{ cm}", r"\\$\1", r"\1^\\circ", r"0.00\1\\%",
        r"\1\1\\%"
    ),
    "degrees: radians, others": whole(
        r"(\d[\d.]*)\s*\^\{?\\circ\}?",
        *(r"\1\\text{ radians}", r"\1\\text{ cm}", r"\1\\%", r"\1\\pi",
          r"\\sin \1^\\circ"),
    ),
    "a numeral of another base: another, none": _base,
    "a matrix: transposed, rows exchanged, a cell changed": _matrix,
    "sin: cos": inside(r"\\sin(?![a-z])", r"\\cos"),
    "cos: sin": inside(r"\\cos(?![a-z])", r"\\sin"),
    "tan, cot, sec, csc: each other": inside(
        r"\\(?:tan|cot|sec|csc)(?![a-z])", r"\\sin", r"\\arcsin", r"\\sinh"
    ),
    "ln, log: left out, exp": inside(
        r"\\(?:ln|log(?: _\{\d+\})?)(?![a-z])", "", r"\\exp"
    ),
    "a prime: none, two": inside(r"\^\{\\prime\}", "", "''", "^2"),
    "a derivative: none, another": _derivative,
    "a dot: none, two": inside(r"\\dd?ot\{(\\?[a-z]+)\}", r"\1", r"\\dddot{\1}", "0"),
    "an equation with letters on the right: a side negated": _equation,
    "x = 5: another name, unsolved": _solved,
    "≤: others": inside(r"\\leq?(?![a-z])", "<", r"\\ge ", "=", r"\\ne "),
    "≥: others": inside(r"\\geqslant", ">", r"\\le ", "=", r"\\ne "),
    "an index: none, another": inside(
        r"(?<=[a-zA-Z])_\{?([a-zA-Z\d])\}?", "", r"_{\g<1>9}", unless=r"_\{1\},|log"
    ),
    "a function of a number: of 7, of nothing": inside(r"I\(0\)", "I(7)", "I", "0"),
    "a ratio or a time: turned, another": whole(
        r"(\d+)(?:\\!)? ?: ?(?:\\!)?(\d+)", r"\2:\1", r"\1:\g<2>1", r"\1, \2", r"\1\2"
    ),
    "p.m.: a.m., another hour": inside(r"p\.m\.", "a.m.", "miles", "days"),
    "a sum of powers: one term less, more, negated": _sum,
}  # fmt: skip
