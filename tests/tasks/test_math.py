"""Mathematical answers: where they are found, what equals what, what does not."""

import json

import pytest

from hapo_jax.tasks import math

FAR = "x" * (math.DAPO_TAIL_CHARACTERS + 1)


@pytest.mark.parametrize(
    ("completion", "extracted"),
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
        ("\\boxed{41} \\boxed{42}", "42"),
        ("\\fbox{41} \\boxed{42}", "42"),
        ("\\boxed{41} \\fbox{42}", "42"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{\\left\\{x\\right.}", "\\left\\{x\\right."),
        ("\\boxed{\\boxed{42}}", "42"),
        ("\\boxed{41} and \\boxed{42", None),  # cut off inside its answer
        ("#### 41\nso\n#### 42\nend", "42"),
        ("\\boxed{42} #### 41", "42"),
        ("Answer:", None),
        ("Answer: $$", None),
        ("\\boxed{}", None),
        ("#### ", None),
        ("the answer is 42", None),
        ("", None),
    ],
)
def test_extract(completion, extracted):
    assert math.extract(completion) == extracted


def test_an_answer_that_is_too_long_is_none():
    longest = "7" * math.MAX_ANSWER_CHARACTERS
    assert math.extract(f"\\boxed{{{longest}}}") == longest
    assert math.extract(f"\\boxed{{{longest}7}}") is None
    assert math.extract(f"#### {longest}") == longest
    assert math.extract(f"#### {longest}7") is None


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
    ],
)
def test_clean(text, cleaned):
    assert math.clean(text) == cleaned
    assert math.clean(cleaned) == cleaned


@pytest.mark.parametrize(
    ("gold", "pred"),
    [
        ("42", "x = 42"),
        ("x = 42", "42"),
        ("x = 42", "x=42"),
        ("\\text{(B)}", "B"),
        ("\\text{Evelyn}", "evelyn"),
        ("(1,2)", "(1, 2)"),
        ("\\frac{63}{400}", "63/400"),
        ("\\frac{1}{2}", "0.5"),
        ("\\frac{1}{3}", "0.333333"),
        ("50\\%", "50"),
        ("50\\%", "\\frac12"),
        ("2\\sqrt{3}", "\\sqrt{12}"),
        ("1-\\frac1e", "1-e^{-1}"),
        ("\\frac94\\pi", "\\frac{9\\pi}{4}"),
        ("7,14,18", "18, 14, 7"),
        ("y = 2x + 3", "2x+3"),
        ("2.88e-19", "2.88 \\times 10^{-19}"),
        ("0.0005", "0.05\\%"),
        ("1\\frac14", "1 \\frac{1}{4}"),
        (
            "\\begin{pmatrix} 1/3 \\\\ 2 \\end{pmatrix}",
            "\\begin{pmatrix} \\frac13 \\\\[2pt] 2 \\end{pmatrix}",
        ),
    ],
)
def test_equal(gold, pred):
    assert math.equal(gold, pred)


@pytest.mark.parametrize(
    ("gold", "pred"),
    [
        ("42", "-42"),
        ("42", "4.2"),
        ("x = 42", "y = 42"),
        ("(1,2)", "(2,1)"),
        ("\\frac{1}{2}", "\\frac{1}{3}"),
        ("\\text{Evelyn}", "Ada"),
        ("42_8", "42"),
        # Everything that could hit by naming several answers, or none.
        ("42", "41 or 42"),
        ("42", "41, 42"),
        ("42", "x = 41, x = 42"),
        ("42", "\\{41, 42\\}"),
        ("42", "\\pm 42"),
        ("42", "41 42"),
        ("42", "4 2"),
        ("42", "40 2"),  # math-verify alone adds the two
        ("42", "40 < x < 43"),
        ("42", "(-\\infty, \\infty)"),
        ("42", "x"),
        ("42", "\\frac{0}{0}"),
        ("4142", "41 42"),
        ("4142", "41, 42"),
        ("12345", "12, 345"),
        ("42", ""),
        ("42", "$$"),
        ("$$", "$$"),
        # Six decimals would make all of these zero.
        ("2.88e-19", "1.325e-27"),
        ("2.88e-19", "0"),
        ("10^{-9}", "0.0"),
    ],
)
def test_not_equal(gold, pred):
    assert not math.equal(gold, pred)


def test_grade_says_what_it_read():
    assert math.grade("so\nAnswer: $\\frac{84}{2}$", "42") == (1.0, "$\\frac{84}{2}$")
    assert math.grade("Answer: 41", "\\boxed{42}") == (0.0, "41")
    assert math.grade("I give up", "42") == (0.0, None)


@pytest.mark.parametrize("gold", ["", " ", "$$", "\\boxed{}", "\\boxed{4", "7" * 1_001])
def test_a_gold_answer_that_says_nothing_is_an_error(gold):
    with pytest.raises(ValueError, match="drop the problem"):
        math.grade("Answer: ", gold)


def write(path, **fields):
    path.write_text(json.dumps({"id": "a", "problem": "1 + 1?", **fields}))
    return path


def test_problems_and_demonstrations_share_their_prompt(tmp_path):
    path = write(tmp_path / "a.jsonl", answer="2", solution="1 + 1 = 2\n#### 2")
    options = dict(path=path, prompt_template="Q {problem}")
    (problem,) = math.problems("train", **options)
    (example,) = math.demonstrations("train", size=0, **options)
    assert problem.prompt == example.prompt == "Q 1 + 1?"
    assert math.grade(example.completion, problem.answer).score == 1.0


@pytest.mark.parametrize("read", [math.problems, math.demonstrations])
def test_an_unknown_split_is_refused(tmp_path, read):
    path = write(tmp_path / "a.jsonl", answer="2", solution="2")
    more = {"size": 0} if read is math.demonstrations else {}
    with pytest.raises(ValueError, match="split='dev' must be one of train, test"):
        read("dev", path=path, prompt_template="", **more)


def test_a_gold_answer_that_says_nothing_is_found_when_the_file_is_read(tmp_path):
    path = write(tmp_path / "a.jsonl", answer="$$")
    with pytest.raises(ValueError, match="a.jsonl, problem 'a': answer='\\$\\$' must"):
        math.problems("train", path=path, prompt_template="")
