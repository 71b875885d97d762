"""Mathematical answers as values: exact numbers, and what math-verify may not see."""

from fractions import Fraction

import pytest

from hapo_jax.tasks import math_value


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("42", (42,)),
        ("-0.25", (Fraction(-1, 4),)),
        ("-3/4", (Fraction(-3, 4),)),
        ("\\frac{3}{4}", (Fraction(3, 4),)),
        ("-1\\frac{1}{4}", (Fraction(-5, 4),)),
        ("1 \\frac{1}{4}", (Fraction(5, 4),)),
        ("50%", (50, Fraction(1, 2))),
        ("2.\\overline{3}", (Fraction(7, 3),)),
        ("-0.1\\overline{6}", (Fraction(-1, 6),)),
        ("1/0", ()),
        ("\\frac{1}{0}", ()),
        ("x", ()),
        ("1 2", ()),
        ("1e5", ()),
        ("٤٢", (42,)),  # digits are digits in any script
        ("4²", ()),
        ("1" * 101, ()),
    ],
)
def test_number(text, values):
    assert math_value.number(text) == values


@pytest.mark.parametrize(
    ("gold", "pred", "same"),
    [
        ("16.\\overline{6}", "16.67", True),
        ("16.\\overline{6}", "16.7", True),
        ("16.\\overline{6}", "16.66", False),
        ("16.\\overline{6}", "17", False),
        ("16.67", "16.\\overline{6}", False),  # a gold decimal is exact
        ("1/3", "0.333333", True),
        ("1/3", "0.33333", False),
        ("0.0001", "0.00010000001", True),
        ("0.0001", "0.0001003", False),
        ("100000000000000000001", "100000000000000000000", False),
    ],
)
def test_same(gold, pred, same):
    assert math_value.same(gold, pred) == same


@pytest.mark.parametrize(
    ("gold", "pred", "same"),
    [
        ("0.5", "\\frac{1}{2}", True),
        ("\\frac{1}{2}", "1/2", True),
        ("\\frac{1}{2}", "\\frac{2}{4}", False),
        ("\\frac{2}{4}", "0.5", False),
        ("1/3", "0.333333", False),
        ("x", "x", False),
    ],
)
def test_same_reduced(gold, pred, same):
    assert math_value.same_reduced(gold, pred) == same


@pytest.mark.parametrize(
    "text",
    [
        "9^9^9^9",
        "9^{9^{9}}",
        "9**9**9",
        "9^{1+9^{9}}",
        "10^{100000}",
        "10^{1,000,000}",
        "(9^{999})^{9}",
        "(((9^9)^9)^9)^9",
        "1000!",
        "(999+1000)!",
        "(10^3)!",
        "3!!",
        "1" * 101,
        "(" * 26,
    ],
)
def test_explosive(text):
    assert math_value.explosive(text)


@pytest.mark.parametrize(
    "text",
    [
        "10^{23}",
        "(3^5)^{7}",
        "2^{1000}",
        "129^{34} + 96^{38}",
        "\\frac{(2n)!}{n!}",
        "10!",
        "(n+1)!",
        "x^2 + y^2 = z^2",
        "10^{\\frac{-5+\\sqrt{13}}{6}}",
        "e^{x^2}",
        "2^{2^{n}}",
        "2^{n} - 2^{m}",
        "1" * 100,
    ],
)
def test_not_explosive(text):
    assert not math_value.explosive(text)


def test_sides_of_an_equation_must_agree():
    assert math_value.same("42", "84/2=42")
    assert not math_value.same("42", "41=42")
    assert math_value.same("42", "n=42")


@pytest.mark.parametrize(
    ("gold", "pred", "settled"),
    [
        ("2\\sqrt{3}", "3\\sqrt{2}", False),
        ("x^2 + 4x + 4", "(x+2)^2", True),
        ("x^2 + 4x + 4", "(x+2)^2 + 1", False),
        ("\\sin(2x)", "2\\sin(x)", False),
        ("x^2", "y^2", False),
        ("\\sin(2x)", "2\\sin(x)\\cos(x)", None),  # left to simplify
        ("\\frac{1}{x} + \\frac{1}{y}", "\\frac{x+y}{xy}", True),
        ("x+1", "\\{x+1\\}", None),
        ("x = y + 1", "y + 1", None),
        ("x", "2x", None),  # names have rules of their own
        ("9\\%", "x+9", None),
        ("\\sum_{k=1}^{n} k", "\\frac{n(n+1)}{2}", None),
        ("a+b+c+d+e+f+g+h+j", "a+b+c+d+e+f+g+h+k", None),  # more letters than places
        ("\\frac{x}{0}", "x+1", None),
    ],
)
def test_what_is_settled_before_simplify(gold, pred, settled):
    (left,), (right,) = math_value._value(gold), math_value._value(pred)
    assert math_value._settled(left, right, 0.0) is settled
