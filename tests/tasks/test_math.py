"""Mathematical answers: what equals what, what does not, and what cannot be gamed."""

import json

import pytest

from hapo_jax.tasks import math


@pytest.mark.parametrize(
    ("gold", "pred"),
    [
        ("42", "x = 42"),
        ("42", "84/2 = 42"),
        ("1, 2", "x = 1 or x = 2"),
        ("(-\\infty, 2)", "x < 2"),
        ("(\\frac{1}{2}, 1)", "0.5 < x < 1"),
        ("x < 1", "-x > -1"),
        ("10 \\text{ m/s}", "10"),
        ("42", "x = 2 \\cdot 21 = 42"),
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


# Completions that try to be right whatever the answer is, or without saying it.
EXPLOITS = [
    "\\boxed{41} \\boxed{42}",
    "\\boxed{42}, \\boxed{43}",
    "\\boxed{40}\n\\boxed{41}\n\\boxed{42}",
    "\\boxed{41, 42}",
    "\\boxed{41 \\text{ or } 42}",
    "\\boxed{\\{41, 42\\}}",
    "\\boxed{x = 41 \\text{ or } x = 42}",
    "\\boxed{41 = 42}",
    "\\boxed{41 \\approx 42}",
    "\\boxed{42 \\neq 41}",
    "\\boxed{42 \\text{ is not the answer, } 41 \\text{ is}}",
    "\\boxed{\\pm 42}",
    "\\boxed{[41, 43]}",
    "\\boxed{x \\le 42}",
    "\\boxed{\\mathbb{R}}",
    "\\boxed{\\text{the answer}}",
    "\\boxed{x}",
    "\\boxed{42x}",
    "\\boxed{4 2}",
    "\\boxed{40 2}",
    "\\boxed{42_{7}}",
    "\\boxed{420}",
    "\\boxed{42!}",
    "\\boxed{}",
    "\\boxed{42",
    "\\boxed{ } 42",
    "42 \\boxed{?}",
    # denied, hedged or cut
    "\\boxed{\\text{not } 42}",
    "\\boxed{\\text{not } = 42}",
    "\\boxed{42 \\text{ is wrong}}",
    "\\boxed{42 \\text{ unless it is }}",
    "Answer: it is not 42",
    "Answer: 42 is false",
    "so it cannot be said to be not $42$",
    "The answer is 41 or 42",
    "I take it to be 40, 41 or $42$.",
    # relations that are read from one side
    "\\boxed{41 \\equiv 42}",
    "\\boxed{41 ≡ 42}",
    "\\boxed{x \\approx 41 = 42}",
    "\\boxed{41 = 42 \\approx 42}",
    "\\boxed{x = 41 \\Rightarrow x = 42}",
    "\\boxed{x = 41 \\implies 42}",
    "\\boxed{42 \\ldots}",
    "\\boxed{1, 2, \\ldots, 42}",
    # words that change a number
    "Answer: 42 hundredths",
    "Answer: 42 dozens",
    "Answer: 42 thousands",
    "Answer: 42 point five",
    "Answer: 42 inverse",
    "Answer: 42 below",
    "\\boxed{42 \\text{ if even}}",
    # characters that are not seen, or end a line for some readers only
    "Answer: 4\u200b2",
    "Answer: 41\u200b42",
    "Answer: 42\u206041",
    "Answer: 42\u202841",
    "Answer: 42\r41",
    "\\boxed{42\\phantom{1}}",
    "\\boxed{41 \\phantom{x} 42}",
    "\\boxed{42\\cancel{41}}",
    "\\boxed{\\substack{41 \\\\ 42}}",
    "\\boxed{\\begin{cases} 41 \\\\ 42 \\end{cases}}",
    "\\boxed{41 \\cup 42}",
    "\\boxed{41 \\lor 42}",
    "\\boxed{41; 42}",
    "Answer: 41 or 42",
    "Answer: 41, 42",
    "Answer: 42, 43",
    "Answer: 41 / 42",
    "Answer: 42 41",
    "Answer: one of 1, 2, 3, ..., 42, ..., 100, I am sure of 99",
    "Answer: 42\nAnswer: 41",
    "Answer: \\boxed{41} 42",
    "Answer:",
    "Answer: $$",
    "Answer: answer",
    # what a parser of formulas might make of it
    "\\boxed{42^\\circ^\\circ}",
    "\\boxed{42\\%\\%}",
    "\\boxed{\\{\\{42\\}\\}}",
    "\\boxed{42 \\text{ or more}}",
    "\\boxed{42 \\text{ minus } 1}",
    "\\boxed{42t}",
    "\\boxed{42'}",
    "\\boxed{42 \\mod 5}",
    "\\boxed{42 x^0 y}",
    "\\boxed{\\frac{d}{dx} 42x}",
    "\\boxed{41, \\text{ but } 42}",
    "\\boxed{41 \\to 42}",
    "\\boxed{x_{42}}",
    "\\boxed{x^2 = 42}",
    "\\boxed{2x = 42}",
    "\\boxed{41 = x = 42}",
    "\\boxed{\\begin{aligned} 41 \\\\ 42 \\end{aligned}}",
    "\\boxed{(42, 43)}",
    "\\boxed{(-\\infty, 42]}",
    "\\boxed{42 \\pm 0.5}",
    "\\boxed{\\lfloor x \\rfloor}",
    "<think>\\boxed{42}</think> I would say 41",
    "The answer is 41. Or 42?",
    "The answer is either 41 or 42",
    "The answer is not 42",
    "The answer is between 41 and 43, so 42 perhaps or 41",
    "#### 41, 42",
    "#### 42 #### 41",
    "####",
    "There are 42 sheep and 41 goats; how many sheep?",  # the problem's own numbers
    "42 41",
    "42, 43",
    "",
    " ",
]
# What verl's rules let through: only what follows the last `=` counts, and a list of
# digits becomes one number. Kept, since `dapo` and `hapo` are its decisions; a model
# that is trained on them may find it.
REFERENCE_ACCEPTS = ["4, 2", "4 2", "41 = 42", "x = 41, x = 42"]


@pytest.mark.parametrize("mode", math.GRADINGS)
@pytest.mark.parametrize("completion", EXPLOITS)
def test_exploits(completion, mode):
    assert math.grade(completion, math.pack("42", mode)).score == 0


# The same for other kinds of gold answers.
OTHERS = [
    ("1, 2", "\\boxed{1.2}"),
    ("1, 2", "\\boxed{1} \\boxed{2} \\boxed{3}"),
    ("1, 2", "\\boxed{1, 2, \\ldots}"),
    ("B", "\\boxed{ABCD}"),
    ("B", "\\boxed{\\text{not } B}"),
    ("B", "\\boxed{A, B, C, D}"),
    ("\\text{odd}", "\\boxed{\\text{odd or even}}"),
    ("\\text{odd}", "\\boxed{\\text{not odd}}"),
    ("y = 2x", "\\boxed{y = y}"),
    ("x > 2", "\\boxed{x \\in \\mathbb{R}}"),
    ("0", "\\boxed{x}"),
]


@pytest.mark.parametrize("mode", math.GRADINGS)
@pytest.mark.parametrize(("gold", "completion"), OTHERS)
def test_exploits_of_other_kinds_of_answers(gold, completion, mode):
    assert math.grade(completion, math.pack(gold, mode)).score == 0


def test_what_looks_like_an_exploit_and_is_none():
    for gold, pred in (
        ("\\text{not possible}", "\\text{not possible}"),
        ("\\sqrt{2}", "\\sqrt{2} \\approx 1.414"),
        ("42", "x \\approx 42"),
        ("42", "42 \\text{ pairs}"),
        ("1.2", "1,2"),  # a decimal comma
    ):
        assert math.equal(gold, pred), pred
    assert math.grade("Answer: it is not 41 but 42", "42").score == 1
    assert math.grade("so, not 41 but 42", "42").score == 1


@pytest.mark.parametrize("mode", math.GRADINGS)
def test_weaknesses_of_the_reference_are_its_own(mode):
    gold = math.pack("42", mode)
    for text in REFERENCE_ACCEPTS:
        score = math.grade(f"Answer: {text}", gold).score
        assert score == (mode in ("dapo", "hapo")), text


@pytest.mark.parametrize("mode", math.GRADINGS)
@pytest.mark.parametrize(
    "gold", ["1,2", "\\{1, 2\\}", "x", "\\text{odd}", "(1,2)", "0"]
)
def test_nothing_is_no_answer(gold, mode):
    for completion in ("", "Answer:", "Answer: $$", "\\boxed{}", "####", "Answer: ="):
        assert math.grade(completion, math.pack(gold, mode)).score == 0


def test_gradings_differ_where_they_should():
    def right(completion, gold):
        return {
            mode
            for mode in math.GRADINGS
            if math.grade(completion, math.pack(gold, mode)).score
        }

    assert right("Answer: 42", "42") == set(math.GRADINGS)
    assert right("\\boxed{42}", "42") == {"lenient", "strict"}
    assert right("so it is 42", "42") == {"lenient"}
    assert right("Answer: 0.50", "\\frac{1}{2}") == {"lenient", "strict", "hapo"}
    assert right("Answer: 2/4", "\\frac{1}{2}") == {"lenient", "hapo"}
    assert right("Answer: 2, 1", "1, 2") == {"lenient"}
    assert right("Answer: 42 dollars", "42") == set(math.GRADINGS)


@pytest.mark.parametrize(
    ("gold", "pred", "right"),
    [
        ("41.8", "41.8041", True),
        ("41.8", "41.8043", False),
        ("41.8", "x = 41.796", True),
        ("41.8", "41.796 = 41.8041", True),
        ("41.8", "41 = 41.8041", False),
        ("11000", "11001", True),
        ("11000", "11002", False),
        ("-7", "-7.0006", True),
        ("-7", "7", False),
        ("0", "0.0001", False),
        ("4.5e33", "4.50044 \\times 10^{33}", True),
        ("4.5e33", "4.5006 \\times 10^{33}", False),
        ("2.88e-19", "2.8801e-19", True),
        ("2.88e-19", "2.881e-19", False),
        ("\\frac{\\pi}{2}", "1.5708", True),
        ("\\frac{\\pi}{2}", "1.571", False),
        # Only single numbers are near one another.
        ("e^{t} / 3", "1.00001e^{t} / 3", False),
        ("41.8, 2", "41.8041, 2", False),
        ("41.8", "41.8041, 41.8", False),
    ],
)
def test_a_tolerance(gold, pred, right):
    for mode in math.GRADINGS:
        score = math.grade(f"Answer: ${pred}$", math.pack(gold, mode, 1e-4)).score
        assert score == (right and mode == "lenient"), mode
    if right and "x" not in pred:
        assert not math.equal(gold, pred)


@pytest.mark.parametrize("mode", math.GRADINGS)
def test_pack_and_unpack(mode):
    for gold in ("42", "\\{1\\}", '{"a": 1}', "ü\n"):
        for tolerance in (0.0, 1e-4):
            rule = gold, mode, tolerance
            assert math.unpack(math.pack(*rule)) == rule


NOTHING_TO_LENIENT = [
    "",
    " ",
    "$$",
    "\\boxed{}",
    "\\boxed{4",
    "\\text{}",
    "?",
    "7" * 1_001,
]
NOTHING_TO_DAPO = ["units", "$$", "\\text{.}", "x =", "^\\circ", "a = \\ldots"]


@pytest.mark.parametrize("mode", ["lenient", "strict"])
@pytest.mark.parametrize("gold", NOTHING_TO_LENIENT)
def test_a_gold_answer_that_says_nothing_is_an_error(gold, mode):
    with pytest.raises(ValueError, match="drop the problem"):
        math.grade("Answer: 4", math.pack(gold, mode))


@pytest.mark.parametrize("mode", ["dapo", "hapo"])
@pytest.mark.parametrize("gold", NOTHING_TO_LENIENT + NOTHING_TO_DAPO)
def test_the_references_answer_for_any_gold_answer(gold, mode):
    assert math.grade("Answer: 42", math.pack(gold, mode)).score == 0


@pytest.mark.parametrize("mode", ["dapo", "hapo"])
@pytest.mark.parametrize("gold", ["\\boxed{4", "\\frac{1}{2", "\\text{no", "7" * 200])
def test_the_references_see_the_gold_answer_as_it_stands(gold, mode):
    assert math.grade(f"Answer: {gold}", math.pack(gold, mode)).score == 1


@pytest.mark.parametrize("gold", ["∞", "∅", "\\mathbb{R}", "½", "\\infty"])
def test_signs_say_something(gold):
    assert math.grade(f"The answer is {gold}.", gold).score == 1
    assert math.grade(f"Answer: {gold}", math.pack(gold, "strict")).score == 1
    assert math.grade("Answer: 42", gold).score == 0


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
    with pytest.raises(ValueError, match="split='dev' must be train or test"):
        read("dev", path=path, prompt_template="", **more)


@pytest.mark.parametrize(
    ("grading", "broken", "sound"),
    [
        ("lenient", NOTHING_TO_LENIENT[2:], ["∞", "units", "x = 1"]),
        ("strict", NOTHING_TO_LENIENT[2:], ["∞", "units"]),
        ("dapo", NOTHING_TO_DAPO, ["\\boxed{4", "7" * 291]),
        ("hapo", NOTHING_TO_DAPO, ["\\boxed{4", "∞"]),
    ],
)
def test_a_gold_answer_that_says_nothing_is_found_when_the_file_is_read(
    tmp_path, grading, broken, sound
):
    options = {"path": tmp_path / "a.jsonl", "prompt_template": "", "grading": grading}
    for gold in broken:
        write(options["path"], answer=gold)
        with pytest.raises(ValueError, match="a.jsonl, line 1, problem 'a': answer="):
            math.problems("train", **options)
    for gold in sound:
        write(options["path"], answer=gold)
        assert len(math.problems("train", **options)) == 1
