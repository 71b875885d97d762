"""The faster reader of formulas reads what latex2sympy reads."""

import pytest
import sympy
from math_verify.grader import should_treat_as_complex

from hapo_jax.tasks import math, math_latex, math_sets, math_text, math_value
from tests import real_data

FORMULAS = (
    "x^2 + 102x + 2656",  # SLL alone refuses it
    "\\frac{12\\sqrt{7}}{3}",
    "3\\pi + 4\\pi",
    "007",
    "1,234",
    "1,234, 5",
    "12.50",
    "(1,2)",
    "[1,2)",
    "\\{1, 2, 3\\}",
    "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}",
    "y = 2x + 3",
    "x \\in [-2, 7]",
    "1 < x \\le 2",
    "(-\\infty, 2) \\cup (3, \\infty)",
    "2 + 3i",
    "\\sin(2t) e^{-t}",
    "\\log_{2}{8}",
    "\\binom{2n}{n}",
    "\\sum_{k=1}^{n} k^2",
    "\\int_0^1 x dx",
    "a_{1} b^{2 c}",
    "50\\%",
    "5!",
    "|x - 1|",
)
REFUSED = ("", "\\frac{1}", "((1)", "x +", "\\text{odd} \\text{")


def read(reader: type, text: str) -> str:
    found = reader(is_real=not should_treat_as_complex(text)).parse(text)
    return sympy.srepr(found)


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas(text):
    found = read(math_latex.Reader, text)
    assert found == read(math_latex.Original, text)


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_read(text):
    for reader in (math_latex.Reader, math_latex.Original):
        with pytest.raises(Exception):  # noqa: B017, latex2sympy raises bare ones
            read(reader, text)


def test_math_verify_reads_with_it(monkeypatch):
    seen = []
    parse = math_latex.Reader.parse
    monkeypatch.setattr(
        math_latex.Reader,
        "parse",
        lambda self, text: seen.append(text) or parse(self, text),
    )
    assert math_value.verify("$7\\sqrt{3}$", "$\\sqrt{147}$")
    assert seen == ["7\\sqrt{3}", "\\sqrt{147}"]


@pytest.mark.long
@pytest.mark.parametrize("name", ["math500", "olympiadbench"])
def test_the_answers_of_a_set(name):
    (file,) = math_sets.SETS[name].files.values()
    if not (real_data.FOLDER / file).is_file():
        pytest.skip(f"no data in {real_data.FOLDER}")
    problems = math.problems(
        "test", path=real_data.FOLDER / name, prompt_template="{problem}"
    )
    texts = {math_text.unboxed(p.answer).replace("$", "") for p in problems}
    compared = 0
    for text in sorted(texts):
        if text.strip("-").isdigit() or math_value.explosive(text):
            continue
        found = []
        for reader in (math_latex.Reader, math_latex.Original):
            try:
                found.append(read(reader, text))
            except Exception as error:  # latex2sympy's are bare
                found.append(repr(error))
        assert found[0] == found[1], text
        compared += 1
    assert compared > 50
