"""Trees: what a text means, and which texts are refused."""

from fractions import Fraction

import pytest

from hapo_jax.tasks.answers import formula, trees, units


def number(value, kind="exact"):
    return ("num", Fraction(value), kind)


X, Y, ONE, TWO, THREE = ("sym", "x"), ("sym", "y"), number(1), number(2), number(3)
FEET = units.Unit((("foot", 1),), frozenset())


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("0.5", number("0.5", "decimal")),
        ("0.1\\overline{6}", number(Fraction(1, 6), "recurring")),
        ("4.5e3", number(4500, "decimal")),
        ("\\frac12", ("div", ONE, TWO)),
        ("\\frac{1}2", ("div", ONE, TWO)),
        ("\\frac 1 2", ("div", ONE, TWO)),
        ("1\\frac{2}{3}", ("add", ONE, ("div", TWO, THREE))),
        ("1 2/3", ("add", ONE, ("div", TWO, THREE))),
        ("1\\frac{3}{2}", ("mul", ONE, ("div", THREE, TWO))),
        ("1/2x", ("mul", ("div", ONE, TWO), X)),  # from left to right
        ("-x^2", ("neg", ("pow", X, TWO))),
        ("2 \\sin 3x \\cos y", ("mul",
            ("mul", TWO, ("call", "sin", ("mul", THREE, X))), ("call", "cos", Y))),
        ("\\sin^{-1} x", ("call", "arcsin", X)),
        ("\\sin^2 x", ("pow", ("call", "sin", X), TWO)),
        ("\\sqrt[3]{x}", ("root", THREE, X)),
        ("\\log_2 x", ("log", TWO, X)),
        ("f(x)", ("apply", "f", (X,))),
        ("f'(x)", ("apply", "D1 f|", (X,))),
        ("f^{-1}(x)", ("apply", "f^-1", (X,))),
        ("I(1)", ("apply", "I", (ONE,))),
        ("x(1+y)", ("mul", X, ("add", ONE, Y))),
        ("x''", ("sym", "D2 x|")),
        ("\\dot{x}_0", ("sym", "D1 x_0|")),
        ("\\frac{d^2 x}{dt^2}", ("sym", "D2 x|t")),
        ("dx/dt", ("sym", "D1 x|t")),
        ("\\frac{d}{2}", ("div", ("sym", "d"), TWO)),
        ("x_{max}", ("sym", "x_max")),
        ("\\overline{AB}", ("sym", "\\bar AB")),
        ("\\triangle ABC", ("sym", "\\triangleABC")),
        ("e^{i}", ("pow", ("const", "e"), ("const", "i"))),
        ("2 x 3", ("mul", TWO, THREE)),
        ("3^\\circ", ("deg", THREE)),
        ("3\\%", ("percent", THREE)),
        ("3 percent", ("percent", THREE)),
        ("52_8", ("based", "52", "8")),
        ("52_{\\text{eight}}", ("based", "52", "8")),
        ("(1,2)", ("tuple", (ONE, TWO))),
        ("(1,2]", ("interval", ONE, TWO, False, True)),
        ("[1,2,3]", ("tuple", (ONE, TWO, THREE))),
        ("[x+1]^2", ("pow", ("add", X, ONE), TWO)),
        ("\\{1,2\\}", ("set", (ONE, TWO))),
        ("{1,2}", ("list", (ONE, TWO), ",")),
        ("1, 2", ("list", (ONE, TWO), ",")),
        ("1 \\text{ and } 2", ("list", (ONE, TWO), "and")),
        ("1;2", ("list", (ONE, TWO), ",")),
        ("x=1", ("rel", ("=",), (X, ONE))),
        ("x is 1", ("rel", ("=",), (X, ONE))),
        ("\\text{Area} = 1", ("rel", ("=",), (("name", "Area"), ONE))),
        ("1<x\\le2", ("rel", ("<", "\\le"), (ONE, X, TWO))),
        ("3:1", ("ratio", (THREE, ONE))),
        ("3:01", ("time", (THREE, ONE))),
        ("2 \\text{ feet}", ("quantity", TWO, FEET)),
        ("2 million", ("mul", TWO, number(10**6))),
        ("\\text{three}", THREE),
        ("\\begin{pmatrix} 1 & 2 \\\\ 3 & x \\end{pmatrix}",
            ("matrix", ((ONE, TWO), (THREE, X)))),
    ],
)  # fmt: skip
def test_read(text, tree):
    assert formula.read(text) == tree


@pytest.mark.parametrize(
    "text",
    [
        *("", "$", "(1", "1)", "x +", "\\frac{1}", "^2", "x^2^3", "{", "|x", "\\sqrt"),
        *("4 2", "40 2 1", "1 \\ldots", "1 \\to 2", "\\phantom{1}2", "1\u200b2"),
        *("x \\Rightarrow y", "1 \\equiv 2", "\\int x dx", "\\lim x", "\\neq 2"),
        *("\\text{odd}", "\\text{not } 2", "2 \\text{ is wrong}", "2 if x",
          "2 hundredths"),
        *("CD", "A B", "(1,2)(3,4)", "[1,2] + 1",
          "\\begin{pmatrix} 1 & 2 \\\\ 3 \\end{pmatrix}"),
        *("\\begin{pmatrix} 1 2 \\\\ 3 & 4 \\end{pmatrix}", "\\sqrt{=2}", "(=1, 2)"),
        *("\\begin{vmatrix} 1 \\end{vmatrix}", "1," * 500, "(" * 100 + "1" + ")" * 100),
        *("-" * 400 + "1", "1" + "+1" * 300, "5'", "\\frac123", "2 5/", "&", "x\\\\"),
    ],
)  # fmt: skip
def test_refused(text):
    assert formula.read(text) is None


@pytest.mark.parametrize(
    ("text", "several"),
    [
        ("\\pm 2", ["2", "-2"]),
        ("1 \\pm x", ["1 + x", "1 - x"]),
        ("(\\pm 1, 2)", ["(1, 2)", "(-1, 2)"]),
        ("\\pm 1 \\pm x", ["1 + x", "1 - x", "-1 + x", "-1 - x"]),
        ("\\pm 1 \\mp x", ["1 - x", "-1 + x"]),
        ("x", ["x"]),
    ],
)
def test_variants(text, several):
    assert trees.variants(formula.read(text)) == [formula.read(one) for one in several]
