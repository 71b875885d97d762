"""What math-verify may not see; its judgements are in `test_verifier_pairs.py`."""

import pytest

from hapo_jax.tasks import math_value


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


def test_the_library_judges():
    assert math_value.verify("$2\\sqrt{3}$", "$\\sqrt{12}$")
    assert not math_value.verify("$2\\sqrt{3}$", "$3\\sqrt{2}$")
    assert not math_value.verify("$9^{9^{9}}$", "$9^{9^{9}}$")
