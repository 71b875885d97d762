"""Mathematical answers as text: where they are found, how they are spelt."""

import pytest

from hapo_jax.tasks import math_text

FAR = "x" * (math_text.TAIL_CHARACTERS + 1)


@pytest.mark.parametrize(
    ("completion", "found"),
    [
        ("Answer: 42", "42"),
        ("work\nANSWER :\n 42 \nbye", "42"),
        ("Answer: 41\nAnswer: 42", "42"),
        ("Answer: 42\n\\boxed{41}", "42"),  # the line comes before the box
        (f"Answer: 41 {FAR}", None),  # out of reach
        (f"\\boxed{{42}} {FAR}", "42"),
        (f"Answer: 41 {FAR} \\boxed{{42}}", "42"),
        ("Answer: \\boxed{42}.", "42"),
        ("Answer: \\[\n\\boxed{42}\n\\]", "42"),
        ("Answer: \\boxed{\n42\n}", "42"),  # the line holds half a box
        ("Answer: The largest $n$ is 42.", "42"),
        ("Answer: The sum is $x + 1$, I hope it is correct.", "$x + 1$"),
        ("Answer: a square and a circle", "a square and a circle"),
        ("\\boxed{41}, so \\boxed{42}", "42"),
        ("\\fbox{41}: \\boxed{42}", "42"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{\\left\\{x\\right.}", "\\left\\{x\\right."),
        ("\\boxed{\\boxed{42}}", "42"),
        ("x = \\boxed 7.", "7"),
        (
            "\\boxed{f(x) = ax, where $a$ is any number}",
            "f(x) = ax, where $a$ is any number",
        ),
        ("\\boxed{41} and \\boxed{42", None),  # cut off inside its answer
        # Boxes in one breath are one list, not a choice of guesses.
        ("\\boxed{41} \\boxed{42}", "41, 42"),
        ("$\\boxed{41}$, $\\fbox{42}$ and\n$\\boxed{43}$", "41, 42, 43"),
        ("so \\boxed{1}. Then \\boxed{2} \\quad \\text{or} \\quad \\boxed{3}", "2, 3"),
        ("\\[\\boxed{42}\\]\n\n\\(\\boxed{42}\\)", "42"),  # the same twice
        ("#### 41\nso\n#### 42\nend", "42"),
        ("\\boxed{42} #### 41", "42"),
        ("Answer:", None),
        ("Answer: $$", None),
        ("\\boxed{}", None),
        ("We have 42. \\boxed{}", None),
        ("#### ", None),
        ("", None),
    ],
)
def test_find(completion, found):
    assert math_text.find(completion, unmarked=False) == found


@pytest.mark.parametrize(
    ("completion", "found"),
    [
        ("the answer is 42", "42"),
        ("She has 13 - 3 = <<13-3=10>>10 eggs\nA: 1,026", "1,026"),
        ("It costs 3 dollars, or rather $2.50.", "$2.50"),
        ("That is 5 of 6 and thus 5/6.", "5/6"),
        ("So we lose 28 %.", "28 %"),
        ("Hence 7 -3 is -4", "-4"),
        ("We have x-4", "4"),
        ("Thus $x <= 2$ is our answer.", "$x <= 2$"),
        ("The point is \\((1, 2)\\).", "\\((1, 2)\\)"),
        ("This is AZYUK2A for certain", None),
        (f"Answer: 41 {FAR}", None),  # a mark out of reach
        ("I give up", None),
        ("We have 42. \\boxed{}", None),  # a mark without an answer
    ],
)
def test_find_without_marks(completion, found):
    assert math_text.find(completion) == found


def test_an_answer_that_is_too_long_is_none():
    longest = "7" * math_text.MAX_CHARACTERS
    assert math_text.find(f"\\boxed{{{longest}}}") == longest
    assert math_text.find(f"\\boxed{{{longest}7}}") is None
    assert math_text.find(f"#### {longest}") == longest
    assert math_text.find(f"#### {longest}7") is None


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  42 ", "42"),
        ("42.", "42"),
        ("$42$", "42"),
        ("$$42$$", "42"),
        ("\\(42\\)", "42"),
        ("**42**", "42"),
        ("** 42", "42"),
        ("\\$42", "42"),
        ("42.0", "42"),
        ("42.50", "42.5"),
        ("0042", "42"),
        ("1000", "1000"),
        (".5", "0.5"),
        ("0.05", "0.05"),
        ("+7", "7"),
        ("−7", "-7"),
        ("1,234,567", "1234567"),
        ("1{,}234", "1234"),
        ("1,\\!234", "1234"),
        ("1 234", "1234"),
        ("1,23", "1,23"),
        ("12, 345", "12, 345"),  # a list, not 12345
        ("42 apples", "42"),
        ("42 square inches", "42"),
        ("864 \\mbox{ inches}^2", "864"),
        ("\\frac{1}{2} \\text{ cup}", "\\frac{1}{2}"),
        ("42 million", "42 million"),  # a factor, not a unit
        ("42 or so", "42 or so"),
        ("42 x", "42 x"),
        ("90^\\circ", "90"),
        ("90^{\\circ}", "90"),
        ("90°", "90"),
        ("50\\%", "50%"),
        ("\\dfrac{1}{2}", "\\frac{1}{2}"),
        ("\\tfrac12", "\\frac{1}{2}"),
        ("\\frac 1 2", "\\frac{1}{2}"),
        ("1 1/2", "1\\frac{1}{2}"),
        ("\\sqrt2", "\\sqrt{2}"),
        ("2**3", "2^3"),
        ("2.5e-3", "2.5\\times 10^{-3}"),
        ("\\left( 1, 2 \\right)", "( 1, 2 )"),
        ("x_{1}", "x_1"),
        ("x \\in [1,2]", "[1,2]"),
        ("\\text{Evelyn}", "Evelyn"),
        ("The answer is 42.", "42"),
        ("So the final answer is $42$", "42"),
        ("The final answer is $42$. I hope it is correct.", "42"),
        ("1 \\\\[2pt] 2", "1 \\\\ 2"),
        ("11,\\! 111,\\! 100", "11111100"),
        ("(12,345)", "(12,345)"),  # a pair
        ("[-4,100]", "[-4,100]"),
        ("28 percent", "28%"),
        ("\\frac1{72}", "\\frac{1}{72}"),
        ("\\frac{12}5", "\\frac{12}{5}"),
        ("\\\\dfrac{1}{2}", "\\frac{1}{2}"),
        ("x \\geq 5", "x \\ge 5"),
        ("x <= 5", "x \\le 5"),
        ("x + y < 1", "x + y < 1"),
        ("x = 1 or x = 2", "x = 1, x = 2"),
        ("19, 46, \\text{ and } 82", "19, 46, 82"),
        ("10 \\mathrm{~m/s}", "10"),
        ("42 squared", "42 squared"),
        ("42 x/y", "42 x/y"),
        ("\\lim", "\\lim"),
        ("16.\\overline{6}", "16.\\overline{6}"),
    ],
)
def test_clean(text, cleaned):
    assert math_text.clean(text) == cleaned
    assert math_text.clean(cleaned) == cleaned


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("x \\ge 5", "[5,\\infty)"),
        ("x \\le 5", "(-\\infty,5]"),
        ("5 > x", "(-\\infty,5)"),
        ("5 \\le x", "[5,\\infty)"),
        ("-2 \\le x < 7", "[-2,7)"),
        ("1<x<2 or 3<x\\le 4", "(1,2)\\cup(3,4]"),
        ("x < 1 or x > 2", "(-\\infty,1)\\cup(2,\\infty)"),
        ("x + y < 1", "x + y < 1"),
        ("x < 1 or so", "x < 1 or so"),
        ("x = 5", "x = 5"),
        ("[1,2]", "[1,2]"),
    ],
)
def test_as_intervals(text, interval):
    assert math_text.as_intervals(text) == interval
