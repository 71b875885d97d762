"""Agreement with the graders of others, decision by decision, on their own data.

The folder is `$HAPO_VERIFIER_PAIRS`, by default verifier_pairs/ among the data sets
(`real_data.py`). Every disagreement is printed.
"""

import gzip
import json
import os
import pathlib
import re

import pytest

from hapo_jax.tasks import math, math_dapo, math_value
from tests import real_data

pytestmark = pytest.mark.slow
DEFAULT = real_data.FOLDER / "verifier_pairs"
PAIRS = pathlib.Path(os.environ.get("HAPO_VERIFIER_PAIRS", DEFAULT))


def rows(name: str) -> list[dict]:
    """The rows of a file; skips the test where there is none."""
    path = PAIRS / name
    if not path.is_file():
        pytest.skip(f"no file {path}; set $HAPO_VERIFIER_PAIRS to its folder")
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return [json.loads(line) for line in text.splitlines()]


def disagreements(found: list[dict], decide, expected="expected") -> list[str]:
    """Ids of the rows that are decided otherwise than the file says; prints them."""
    wrong = []
    for row in found:
        decision = bool(decide(row))
        if decision != (row[expected] > 0):
            wrong.append(row["id"])
            pred = row["pred"][-80:]
            print(f"{row['id']}: gold {row['gold']!r}, pred …{pred!r}: {decision}")
    print(f"{len(found) - len(wrong)} of {len(found)} agree")
    return wrong


def score(row: dict, grading: str) -> float:
    return math.grade(row["pred"], math.pack(row["gold"], grading)).score


@pytest.mark.parametrize(
    ("grading", "reference"), [("dapo", "verl_score"), ("hapo", "hapo_score")]
)
def test_the_references_of_dapo_and_hapo(grading, reference):
    found = rows("dapo_reference_scores.jsonl.gz")
    assert not disagreements(found, lambda row: score(row, grading), reference)


def test_what_dapo_reads_as_the_answer():
    for row in rows("dapo_reference_scores.jsonl.gz"):
        line = math_dapo.find(row["pred"])
        read = "[INVALID]" if line is None else math_dapo.normalise(line)
        assert read == row["verl_pred"], row["id"]


def test_math_verify_under_our_guards():
    def decide(row):
        config = row["config"]
        return math_value.verify(
            row["gold"],
            row["pred"],
            kinds=tuple(config["match_types"]),
            decimals=config["precision"],
            strict=config["strict"],
            allow_set_relation_comp=config["allow_set_relation_comp"],
        )

    assert not disagreements(rows("math_verify_tests.jsonl"), decide)


# Rows of math-verify's tests that `lenient` decides otherwise, and why.
OTHERWISE = {
    "a chain whose numbers disagree says nothing": (
        *("relations_math-10", "relations_math-12", "relations_math-13"),
        *("relations_math-16", "relations_math-26", "relations_math-27"),
    ),
    "an answer names its value once": ("open_thoughts-14", "open_thoughts-24"),
    "a gold answer with a comma is a list": (
        "number_extraction-6",
        "number_extraction-17",
    ),
    "prose and dollar signs around a number": (
        "number_extraction-7",
        "latex_notation-9",
    ),
    "a line break within dollars": ("latex_notation-5", "latex_notation-6"),
    "rounded to fewer than six places": (
        *("complex_math_expressions-7", "complex_math_expressions-13"),
    ),
    "-2 <= x <= 7 is [-2, 7] on either side": ("set_rel_assymetry-3",),
    "no LaTeX: an unknown command, a box that stays open": (
        *("relations_math-21", "numina_cases-24"),
    ),
    "the gold answer is text around a box": ("boxed-0", "open_thoughts-27"),
    "the answer is not in the part of the text that counts": ("latex_notation_math-3",),
    "f(y) is not f(x)": ("strict_variable_comparison-1",),
    "1 + 1/e is not 1 - 1/e": ("string_extraction-9",),
}


def test_the_lenient_grading_on_the_tests_of_math_verify():
    """Whole texts on both sides, and rules of format that are not ours: most agree."""

    def decide(row):
        gold = math.extract(row["gold"])
        pred = math.extract(row["pred"])
        return gold is not None and pred is not None and math.equal(gold, pred)

    wrong = disagreements(rows("math_verify_tests.jsonl"), decide)
    ends = [end for reason in OTHERWISE.values() for end in reason]
    assert all(name.endswith(tuple(ends)) for name in wrong), wrong
    assert len(wrong) == len(ends)


def test_the_strict_grading_is_that_of_hendrycks():
    found = rows("hendrycks_is_equiv.jsonl")
    assert not disagreements(
        found, lambda row: math.equal(row["gold"], row["pred"], "strict")
    )


def test_unit_tests_of_other_projects():
    """Each project's rows in the grading that its grader is like."""

    def decide(row):
        gold, project = row["gold"], row["id"].partition("-")[0]
        pred = re.sub(r"<\|\w+\|>", "", row["pred"])  # as the tokenizer leaves it
        if row["id"].startswith("skyrl-aime"):
            return math.grade(pred, math.pack(gold, "dapo")).score
        if row["id"].startswith("skyrl-gsm8k"):
            return math.grade(pred, math.pack(gold, "strict")).score
        if project == "tinker":
            return math.equal(gold, pred, "strict")
        if project == "tunix":
            return math.equal(gold, pred)
        return math.grade(pred, gold).score

    assert not disagreements(rows("misc_unit_tests.jsonl"), decide)


def test_labelled_solutions_of_gsm8k():
    found = rows("gsm8k_model_solutions.jsonl.gz")
    wrong = disagreements(found, lambda row: score(row, "lenient"))
    assert len(wrong) <= 0.005 * len(found)
