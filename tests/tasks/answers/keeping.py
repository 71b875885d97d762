r"""Rewrites of a gold answer that keep its value; see `golds.py`."""

import fractions
import re
from collections.abc import Iterator

from tests.tasks.answers import golds
from tests.tasks.answers.golds import bare, inside, whole

_WORDED = r"\\(?:text|mbox)|where|[A-Z]{2}"
_NUMBER = r"-?(?:\d+|\d*\.\d+)"
_FRACTION = r"(-?)\\[dt]?frac\{(-?\d+)\}\{(\d+)\}"
_UNIT = r"(.*\d\}?\)?)\s*(?:\\ )?\\(?:text|mbox|textnormal)\s*\{\s*([^{}]*?)\s*\}"
_ANY = r"([\s\S]*)"


def _scalar(*templates: str, unless: str = "(?!)"):
    """Templates of scalars, in which `{}` stands for the answer."""

    def rewrite(gold: str) -> Iterator[str]:
        if golds.is_scalar(bare(gold)) and not re.search(unless, gold):
            yield from (template.replace("{}", bare(gold)) for template in templates)

    return rewrite


def _reduced(gold: str) -> tuple[str, int, int] | None:
    found = re.fullmatch(_FRACTION, bare(gold))
    return (found[1], int(found[2]), int(found[3])) if found else None


def _extended_fraction(gold: str) -> Iterator[str]:
    if parts := _reduced(gold):
        sign, top, under = parts
        yield f"{sign}\\frac{{{3 * top}}}{{{3 * under}}}"
        yield f"x = {sign}\\frac{{{2 * top}}}{{{2 * under}}} = {bare(gold)}"


def _decimal_of_fraction(gold: str) -> Iterator[str]:
    if parts := _reduced(gold):
        sign, top, under = parts
        exact = fractions.Fraction(top, under) * (-1 if sign else 1)
        if (exact * 10**6).denominator == 1:
            yield f"{float(exact):.6f}"
        if abs(exact) > fractions.Fraction(1, 100):
            yield f"{bare(gold)} \\approx {float(exact):.4f}"


def _fraction_of_decimal(gold: str) -> Iterator[str]:
    if re.fullmatch(r"-?\d*\.\d+", gold):
        exact = fractions.Fraction(gold)
        yield f"{exact.numerator}/{exact.denominator}"
        yield f"\\frac{{{exact.numerator}}}{{{exact.denominator}}}"
        yield f"{gold}00"


def _mixed(gold: str) -> Iterator[str]:
    if found := re.fullmatch(r"(-?)(\d+) ?\\frac\{(\d+)\}\{(\d+)\}", bare(gold)):
        sign, whole_part, top, under = found[1], *map(int, found.groups()[1:])
        yield f"{sign}\\frac{{{whole_part * under + top}}}{{{under}}}"
        yield f"{sign}{whole_part} {top}/{under}"
    elif (parts := _reduced(gold)) and parts[1] > parts[2] > 1:
        whole_part, top = divmod(parts[1], parts[2])
        yield f"{parts[0]}{whole_part}\\frac{{{top}}}{{{parts[2]}}}"


def _grouped(gold: str) -> Iterator[str]:
    if re.fullmatch(r"-?[1-9]\d{3,}", gold):
        for mark in (",", "{,}", ",\\!", "\\,", " "):
            yield f"{int(gold):,}".replace(",", mark)


def _brackets_with_sizes(gold: str) -> Iterator[str]:
    if re.search(r"[()\[\]]", gold) and "\\left" not in gold and "np." not in gold:
        for names in (("\\left", "\\right"), ("\\bigl", "\\bigr"), ("\\Big", "\\Big")):
            opened = re.sub(r"([(\[])", rf"\{names[0]}\1", bare(gold))
            yield re.sub(r"([)\]])", rf"\{names[1]}\1", opened)


def _raised(gold: str) -> Iterator[str]:
    table = str.maketrans("23456789", "²³⁴⁵⁶⁷⁸⁹")
    power = r"\^(?:\{([2-9])\}|([2-9])(?!\d))"
    other = re.sub(power, lambda m: (m[1] or m[2]).translate(table), bare(gold))
    if other != bare(gold) and "mbox" not in gold:
        yield other


def _unit_by_another_name(gold: str) -> Iterator[str]:
    names = {"inches": "in", "feet": "ft", "cm": "centimeters", "miles": "mi"}
    names |= {"pounds": "lb", "min": "minutes", "hours": "hr", "dollars": "USD"}
    names |= {"cubic inches": "in^3", "square cm": "cm^2", "square feet": "ft^2"}
    names |= {"degrees": "°", "gallons": "gal"}
    found = re.fullmatch(_UNIT, bare(gold))
    if found and found[2] in names:
        yield re.sub(r"(\^\d)\}$", r"}\1", f"{found[1]} \\text{{ {names[found[2]]}}}")


def _hundredths_of_percent(gold: str) -> Iterator[str]:
    if found := re.fullmatch(r"([\d.]+)\s*\\?%", bare(gold)):
        yield str(float(fractions.Fraction(found[1]) / 100))


def _case_of_words(gold: str) -> Iterator[str]:
    found = re.fullmatch(r"\\(?:text|mbox)\{([A-Za-z ]{2,})\}", bare(gold))
    if found and not found[1].isupper():
        yield from (found[1].lower(), found[1].upper(), found[1].capitalize())


def _other_order(gold: str) -> Iterator[str]:
    if parts := golds.items(gold):
        yield ", ".join(reversed(parts))
        yield ",".join(parts[1:] + parts[:1])


def _other_joints(gold: str) -> Iterator[str]:
    if parts := golds.items(gold):
        yield f"{', '.join(parts[:-1])} and {parts[-1]}"
        yield f"{', '.join(parts[:-1])}\\text{{, and }}{parts[-1]}"
        yield "; ".join(parts)
        yield f"\\{{{', '.join(parts)}\\}}"
        yield f"${'$, $'.join(parts)}$"
        if "x" not in gold:
            yield " or ".join(f"x = {part}" for part in parts)


def _points_in_other_order(gold: str) -> Iterator[str]:
    text = re.sub(r"\\left|\\right", "", bare(gold))
    points = re.findall(r"\([^()]*\)", text)
    listed = re.fullmatch(r"(?:\([^()]*\),? ?)+", text)
    if listed and len(points) > 1 and all("," in point for point in points):
        yield ", ".join(reversed(points))
        yield f"\\{{{','.join(points)}\\}}"


def _one_sign_for_two(gold: str) -> Iterator[str]:
    first, *rest = golds.items(gold) or [""]
    if len(rest) == 1 and rest != [first] and first.strip("-") == rest[0].strip("-"):
        yield f"\\pm {first.strip('-')}"
    if re.fullmatch(r"[^,{}]+ \\pm [^,]+", bare(gold)):
        yield ", ".join(bare(gold).replace("\\pm", sign) for sign in "+-")


def _matrix_spelling(gold: str) -> Iterator[str]:
    if rows := golds.matrix(gold):
        for name in ("bmatrix", "Bmatrix"):
            yield bare(gold).replace("pmatrix", name)
        for end in ("\\\\", " \\\\[2pt] ", " \\\\\n", "\\cr "):
            cells = end.join(" & ".join(row) for row in rows)
            columns = "c" * len(rows[0])
            array = f"\\begin{{array}}{{{columns}}}{cells}\\end{{array}}"
            yield f"\\left[{array}\\right]"
        text = re.sub(r"\\\\\s*", r"\\\\", bare(gold))  # a break right before \frac
        yield re.sub(r"(-?)(\d+)/(\d+)", r"\1\\frac{\2}{\3}", text)


def _column(gold: str) -> Iterator[str]:
    rows = golds.matrix(gold)
    if rows and len(rows[0]) == 1:
        cells = ", ".join(row[0] for row in rows)
        yield from (f"({cells})", f"\\langle {cells} \\rangle")


def _union_in_other_order(gold: str) -> Iterator[str]:
    parts = bare(gold).split("\\cup")
    if len(parts) > 1:
        yield "\\cup".join(reversed(parts))
        yield " U ".join(parts)
        yield f"x \\in {bare(gold)}"


def _as_inequality(gold: str) -> Iterator[str]:
    if not (found := golds.interval(gold)):
        return
    opening, low, high, closing = found
    below, above = (
        "\\le" if bracket in "[]" else "<" for bracket in (opening, closing)
    )
    turned = {"\\le": "\\ge", "<": ">"}
    if "infty" in low and "infty" in high:
        yield "\\mathbb{R}"
    elif "infty" in low:
        yield from (f"x {above} {high}", f"{high} {turned[above]} x")
    elif "infty" in high:
        yield from (f"x {turned[below]} {low}", f"\\{{x : {low} {below} x\\}}")
    else:
        yield from (f"{low} {below} x {above} {high}", f"x \\in {bare(gold)}")


def _equation_multiplied(gold: str) -> Iterator[str]:
    if found := re.fullmatch(r"([^=']+)= ?0", bare(gold)):
        yield from (f"2({found[1]}) = 0", f"-({found[1]}) = 0", f"0 = {found[1]}")


def _lowered_base(gold: str) -> Iterator[str]:
    if found := re.fullmatch(r"(-?\d+)_\{?(\d+)\}?", bare(gold)):
        table = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
        yield found[1] + found[2].translate(table)


def _terms_in_other_order(gold: str) -> Iterator[str]:
    text = bare(gold).replace(" ", "")
    if re.fullmatch(r"(?!\de)[-+]?[\da-z^]+(?:[-+][\da-z^]+)+", text):
        terms = re.findall(r"[-+]?[^-+]+", text)
        signed = (term if term[0] in "+-" else f"+{term}" for term in reversed(terms))
        yield "".join(signed).removeprefix("+")


def _escaped_twice(gold: str) -> Iterator[str]:
    if golds.COMMAND.search(gold) and not re.search(r"\\[^a-zA-Z{}]|\\\\", gold):
        yield bare(gold).replace("\\", "\\\\")


REWRITES: dict[str, golds.Rewrite] = {
    "any: dollars": whole(_ANY, r"$\1$", r"$$\1$$", r"$ \1 $"),
    "any: LaTeX's brackets": whole(_ANY, r"\\(\1\\)", r"\\[ \1 \\]"),
    "any: a full stop, spaces": whole(_ANY, r"\1.", " \\1 \n"),
    "any: bold": whole(_ANY, r"**\1**"),
    "any: announced": whole(
        _ANY, r"The answer is \1.", r"\\text{So, the final answer is }\1"
    ),
    "no words: spaces around signs": inside(
        r" ?([+=]) ?", r" \1 ", r"\\,\1\\;", unless=_WORDED
    ),
    "no words: wide spaces behind commas": inside(
        r",\s*(?=[-(\\])(?!\\!)", r", \\quad ", unless=_WORDED
    ),
    "no words, no numbers side by side: no spaces": inside(
        r"(?<![A-Za-z]) +| +(?![A-Za-z])", "", unless=rf"{_WORDED}|\d,? \d|\\ |prime"
    ),
    "a fraction: its size": inside(
        r"\\[dt]?frac", r"\\frac", r"\\dfrac", r"\\tfrac", r"\\cfrac"
    ),
    "fractions that hold none, no derivative, no mixed number: in a line": inside(
        r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}(?!.*frac)", r"((\1)/(\2))",
        unless=r"\{d[ x^]|\d ?\\[dt]?frac|sec|frac.*frac",
    ),
    "a fraction of whole numbers: in a line": whole(
        _FRACTION, r"\1\2/\3", r"\1(\2 \\div \3)", r"\1{\2 \\over \3}"
    ),
    "a negative fraction: its sign elsewhere": whole(
        r"-\\[dt]?frac\{(\d+)\}\{(\d+)\}", r"\\frac{-\1}{\2}", r"\\frac{\1}{-\2}",
        r"-\1/\2"
    ),
    "a fraction of two digits: no braces": whole(
        r"(-?)\\[dt]?frac\{(\d)\}\{(\d)\}", r"\1\\frac\2\3", r"\1\\frac \2 \3",
        r"\1\\frac\2{\3}"
    ),
    "a fraction of whole numbers: extended, in a chain": _extended_fraction,
    "a fraction of whole numbers: a decimal": _decimal_of_fraction,
    "a decimal: a fraction, more zeros": _fraction_of_decimal,
    "a mixed number, or a fraction above 1: the other": _mixed,
    "a whole number: idle zeros": whole(
        r"(-?)(\d+)", r"\1\2.0", r"\1\2.00", r"\g<1>0\2"
    ),
    "a number above 0: plus": whole(r"(\d*\.?\d+)", r"+\1"),
    "a whole number from 1000 on: in groups": _grouped,
    "digits in groups: none": inside(r"(?<=\d)(?:,\\!\s?|\{,\})(?=\d{3})", ""),
    "a scalar without x and n: named": _scalar(
        "x = {}", "x_{1}={}", "f(n) = {}", "\\text{Area} = {}", unless="x|n"
    ),
    "x = 5, f(x) = 2x: the value": whole(
        r"(?:[a-zA-Z]|f\([nxz]\)|AB) ?= ?([^=,]+)", r"\1"
    ),
    "an equation of two sides: swapped": whole(
        r"([^=,]+)=([^=,]+)", r"\2 = \1", unless=r"leq|approx"
    ),
    "an equation with 0: multiplied": _equation_multiplied,
    "a scalar: in brackets": _scalar(
        "({})", "\\left({}\\right)", "{{}}", "\\displaystyle {}", "\\boxed{{}}"
    ),
    "a scalar: nothing added": _scalar("{} + 0", "1 \\cdot ({})"),
    "brackets: with sizes": _brackets_with_sizes,
    "brackets with sizes: without": inside(r"\\(?:left|right)", ""),
    "a number before a letter, bracket or root, no functions: a sign between": inside(
        r"(?<![\^_\d.{,])(\d+) ?(?=[a-zA-Z(]|\\(?:sqrt|pi))",
        *(rf"\1{sign}" for sign in (r"\\cdot ", r"\\times ", "*", "·", r" \\, ")),
        unless=rf"{_WORDED}|np\.|\d[eE]-?\d|_|frac\d|sin",
    ),
    "a root: √": inside(r"\\sqrt(?=\{?\d)", "√"),
    "pi: π": inside(r"\\pi(?![a-z])", "π", r"{\\pi}"),
    "infinity: ∞": inside(r"\\infty", "∞", r"{\\infty}"),
    "minus: −": inside(r"-", "−"),
    "an inequality: its spelling": inside(
        r"\\leq?(?![a-z])", "≤", "<=", r"\\leqslant ", r"\\le ", r"\\leq "
    ),
    "a union: ∪": inside(r"\\cup", "∪", r"\\bigcup "),
    "Greek letters: of Unicode": inside(r"\\theta(?![a-z_])", "θ", unless=r"\\dd?ot"),
    "±, ∈: of Unicode": inside(r"\\pm", " ± "),
    "powers of one digit: ²": _raised,
    "powers of one digit: braces": inside(r"\^(\d)(?!\d)", r"^{\1}", unless=r"\\mbox"),
    "powers in braces of one digit: none": inside(r"\^\{(\d)\}", r"^\1"),
    "powers: **": inside(r"\^(?=\{?\d)", "**", unless=r"\\mbox"),
    "a root of a number: a power": inside(r"\\sqrt ?\{(\d+)\}", r"(\1)^{1/2}"),
    "a root: of degree 2": inside(r"\\sqrt ?\{", r"\\sqrt[2]{"),
    "a root of one digit: braces, or none": inside(
        r"\\sqrt ?(?:\{(\d)\}|(\d))(?!\d)", r"\\sqrt{\1\2}", r"\\sqrt\1\2 ",
        r" sqrt(\1\2) "
    ),
    "a function: its name": inside(
        r"\\(sin|cos|tan|csc|sec|cot|ln|log)(?![a-z])",
        *(r"\\operatorname{\1}", r"\\mathrm{\1}\\,", r" \1"),
    ),
    "the number e: upright": inside(
        r"(?<![A-Za-z\\{])e(?=\^)", r"\\mathrm{e}", unless=rf"{_WORDED}|\d[eE]-?\d"
    ),
    "the number i: upright": inside(
        r"(?<![A-Za-z\\])i(?![A-Za-z])", r"\\mathrm{i}", unless=_WORDED
    ),
    "4.5e33: as a product": whole(
        r"(-?[\d.]+)e(-?\d+)",
        *(r"\1 \\times 10^{\2}", r"\1\\cdot10^{\2}", r"\1E\2", r"\1 × 10^\2",
          r"\1 x 10^{\2}"),
    ),
    "a number with a unit or noun: left out": whole(
        rf"{_UNIT}(?:\^2)?\.?", r"\1", unless=r"p\.m"
    ),
    "a number with a unit or noun: set otherwise": whole(
        rf"{_UNIT}(\^2)?\.?",
        *(r"\1 \\text{ \2}\3", r"\1\\mbox{ \2}\3", r"\1~\\mathrm{\2}\3",
          r"\1\\ \\textrm{\2}\3"),
        unless=r"p\.m",
    ),
    "a number with a unit of three letters or more: plain": whole(
        rf"{_UNIT}\.?", r"\1 \2", unless=r"p\.m|\{ ?cm"
    ),
    "a number with a unit: its other name": _unit_by_another_name,
    "a whole number: any unit": whole(
        r"(-?\d+)", r"\1 \\text{ cm}", r"\1 apples", r"\\$\1"
    ),
    "degrees: left out, in words": whole(
        r"(\d[\d.]*)\s*\^\{?\\circ\}?",
        *(r"\1", r"\1 degrees", r"\1^{\\circ}", r"\1^\\circ", r"\1\\text{ degrees}",
          r"\1°"),
    ),
    "percent: left out, in words, a fraction": whole(
        r"([\d.]+)\s*\\?%",
        *(r"\1", r"\1%", r"\1\\%", r"\1 percent", r"\1\\text{ percent}",
          r"\\frac{\1}{100}"),
    ),
    "percent: a decimal": _hundredths_of_percent,
    "dollars: left out, in words": whole(
        r"\\\$\s*([\d.]+)",
        *(r"\1", r"\\$\1", r"$\1", r"\1 dollars", r"\\text{\\$\1}", r"\1 USD"),
    ),
    "words: set otherwise": whole(
        r"\\(?:text|mbox)\{([A-Za-z ,]+)\}",
        *(r"\1", r"\\text{\1}", r"\\textbf{\1}", r"\\mathrm{\1}", r"\\mbox{\1}",
          r"\"\1\""),
    ),
    "a word not in capitals: its case": _case_of_words,
    "one capital letter: a choice": whole(
        r"\(?(?:\\text\{)?\(?([A-H])\)?\}?\)?",
        *(r"\1", r"(\1)", r"\\text{\1}", r"\\text{(\1)}", r"\\textbf{(\1)}", r"\1)"),
    ),
    "a list of scalars: in another order": _other_order,
    "a list of scalars: joined otherwise": _other_joints,
    "a list of points: in another order": _points_in_other_order,
    "two numbers that differ by their sign: ±": _one_sign_for_two,
    "a matrix: spelt otherwise": _matrix_spelling,
    "a matrix of one column: a point": _column,
    "a union: in another order": _union_in_other_order,
    "an interval with a bracket or an infinite end: an inequality": _as_inequality,
    "an infinite end: +∞": inside(r"(?<!-)\\infty", r"+\\infty"),
    "another base: spelt otherwise": whole(
        r"(-?)(\d+)_\{?(\d+)\}?", r"\1\2_{\3}", r"\1\2_{\\text{\3}}", r"\1(\2)_{\3}"
    ),
    "another base: lowered": _lowered_base,
    "a ratio or a time: spaces": whole(
        r"(\d+)(?:\\!)? ?: ?(?:\\!)?(\d+)", r"\1 : \2", r"\1\\!:\\!\2", r"\1\\colon \2"
    ),
    "dx/dt: in other notation": inside(
        r"\\frac\{d x\}\{d t\}", "x'", r"\\dot{x}", "dx/dt", r"\\frac{dx}{dt}"
    ),
    "a prime: in other notation": inside(r"\^\{\\prime\}", "'", r"^\\prime "),
    "a sum of powers: in another order": _terms_in_other_order,
    "a product of two brackets: in another order": whole(
        r"(\([^(),]+\)(?:\^\d)?) ?(\([^(),]+\)(?:\^\d)?)", r"\2\1", r"\2 \\cdot \1"
    ),
    "commands: escaped twice": _escaped_twice,
}  # fmt: skip
