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


def test_the_lenient_grading_on_the_tests_of_math_verify():
    """Whole texts on both sides, and rules of format that are not ours: most agree."""

    def decide(row):
        gold = math.extract(row["gold"])
        pred = math.extract(row["pred"])
        return gold is not None and pred is not None and math.equal(gold, pred)

    found = rows("math_verify_tests.jsonl")
    wrong = disagreements(found, decide)
    assert len(wrong) <= 0.07 * len(found)
    generous = [
        row["id"] for row in found if row["id"] in wrong and not row["expected"]
    ]
    # A line break within $...$, and `-2 <= x <= 7` where the gold answer is [-2, 7].
    known = {
        "mv-all-latex_notation-5",
        "mv-all-latex_notation-6",
        "mv-all-set_rel_assymetry-3",
    }
    assert set(generous) <= known


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
