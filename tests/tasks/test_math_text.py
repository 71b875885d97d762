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
        ("**Answer:** 42", "42"),
        ("**Answer**: 42", "42"),
        # A sentence's formula is read whole.
        ("Answer: The probability is \\frac{3}{4}.", "\\frac{3}{4}"),
        ("Answer: We find that x = -\\frac{1}{2}", "x = -\\frac{1}{2}"),
        ("Answer: The two roots are 3 and \\sqrt{2}.", "3 and \\sqrt{2}"),
        ("Answer: the smallest set is \\{1, 2\\}.", "\\{1, 2\\}"),
        ("Answer: it is not 41 but 42", "42"),
        ("Answer: it is not 42", "it is not 42"),
        (
            "Answer: \\begin{pmatrix}\n1\\\\2\n\\end{pmatrix}\nbye",
            "\\begin{pmatrix}\n1\\\\2\n\\end{pmatrix}",
        ),
        ("Answer:\n\\[\n\\frac{1}{2}\n\\]\nbye", "\\[\n\\frac{1}{2}\n\\]"),
        ("Answer: \\begin{pmatrix}\n1", None),  # cut off
        # What explains an answer is no part of it; what takes it back is.
        ("Answer: $\\frac{3}{4}$ (in lowest terms)", "$\\frac{3}{4}$"),
        ("Answer: 42, as wanted.", "42"),
        ("Answer: 42 because 40 + 2 = 42", "42"),
        ("Answer: 42 (not really)", "42 (not really)"),
        ("Answer: 42, or 41", "42, or 41"),
        ("Answer: 2 (ab)", "2 (ab)"),
        # Thoughts are not the answer, unless there is nothing else.
        ("<think>Answer: 41</think>\nAnswer: 42", "42"),
        ("<think>\\boxed{41}</think> so \\boxed{42}", "42"),
        ("<think>\\boxed{41}</think>", "41"),
        ("<think>so \\boxed{42}", "42"),
        ("\\boxed{41}, so \\boxed{42}", "42"),
        ("\\fbox{41}: \\boxed{42}", "42"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{\\left\\{x\\right.}", "\\left\\{x\\right."),
        ("\\boxed{\\boxed{42}}", "42"),
        ("x = \\boxed 7.", "7"),
        ("x = \\boxed 42.", "42"),
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
        ("We have x-4", "x-4"),
        ("Thus $x <= 2$ is our answer.", "$x <= 2$"),
        ("The point is \\((1, 2)\\).", "\\((1, 2)\\)"),
        ("This is AZYUK2A for certain", None),
        (f"Answer: 41 {FAR}", None),  # a mark out of reach
        ("I give up", None),
        ("We have 42. \\boxed{}", None),  # a mark without an answer
        # `answer is` is the last mark; what follows is an answer as a whole.
        ("The answer is \\frac{3}{4}.", "\\frac{3}{4}"),
        ("The answer is 3.14.", "3.14"),
        ("The final answer is: x^2 + 4", "x^2 + 4"),
        ("The answer is \\text{Evelyn}. She runs.", "\\text{Evelyn}"),
        ("The answer is 11,\\! 100.", "11,\\! 100"),
        ("The answer is 41 or 42", "41 or 42"),
        ("The answer is $\\frac{3}{4}$, i.e. 0.75.", "$\\frac{3}{4}$"),
        ("The answer is not 42", "not 42"),
        ("The answer is as follows:\nwe have $42$.", "$42$"),
        ("The answer is positive, so we get $x = 3$.", "$x = 3$"),
        ("The answer is\n\\[\n42\n\\]", "\\[\n42\n\\]"),
        # The last formula: whole if it ends its sentence.
        ("Hence the area is 3\\sqrt{2} - 1.", "3\\sqrt{2} - 1"),
        ("so we have (a,b) = (1, -2)", "(a,b) = (1, -2)"),
        ("We find that x is in [0, \\infty).", "[0, \\infty)"),
        ("This leaves AB = 9, as wanted", "AB = 9"),
        ("Thus she needs \\frac{3}{4} of it", "\\frac{3}{4}"),
        ("They have 3, 4 and 5 of them", "5"),
        ("I take it to be 40, 41 or $42$.", "40, 41 or $42$"),
        ("There are 42 million people in it now", "42 million"),
        ("There are 42 hundredths of it here", None),
        ("(so the value is 5)", "5"),
        ("so the value is \\frac{3}{4", None),  # cut off
        ("which we write as x_1 = 5", "x_1 = 5"),
        ("it costs $3, and then $4.50 each", "$4.50"),
        ("giving a total of 3 + 4 = 7 apples", "3 + 4 = 7"),
        ("we see that the set is ∅.", "∅"),
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
