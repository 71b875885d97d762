r"""The mathematical sets by name: their files in a data folder, their place on the hub.

A task's `path` may be

  a file, several, a folder         data/gsm8k_test.jsonl, see `files.py`
  a folder and the name of a set    data/math500      the set's file in that folder
  the name of a set                 math500           fetched from the Hugging Face hub
  files on the hub                  hf://datasets/owner/name/data/*

A new set is one line of `SETS`. Files in folders have rows of our kind or verl's; rows
of the hub are turned into ours by the set's `row`. The hub's sets and the published
files need not be word for word the same, nor in one order.
"""

import fractions
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from hapo_jax.system.errors import Refused
from hapo_jax.tasks import files, hub, math_text

Row = dict[str, Any]


def _row(
    problem: str, answer: str, gold: Callable[[Any], str] = str
) -> Callable[[Row], Row]:
    """Makes a row of ours of the columns of these names."""

    def row(theirs: Row) -> Row:
        missing = [name for name in (problem, answer) if theirs.get(name) is None]
        if missing:
            raise Refused(
                f"field {missing[0]!r} is missing among {sorted(theirs)}; the set has "
                "changed on the hub, so give a file in its place."
            )
        return {"problem": theirs[problem], "answer": gold(theirs[answer])}

    return row


def _after_hashes(solution: str) -> str:
    """GSM8K's gold answer, `#### 1,234`, without separators."""
    return solution.rpartition("####")[2].strip().replace(",", "")


def _last_box(solution: str) -> str:
    """MATH's gold answer; empty, and thus an error, if there is none."""
    return math_text.unboxed(solution) or "" if "boxed" in solution else ""


def _whole(number: float) -> str:
    """142.0 as 142."""
    exact = fractions.Fraction(number)
    return str(exact.numerator if exact.denominator == 1 else number)


def _listed(answers: list[str] | str) -> str:
    """OlympiadBench's list of answers as one text."""
    return answers if isinstance(answers, str) else ", ".join(answers)


class MathSet(NamedTuple):
    """Attributes:
    files: split → file in a data folder.
    hub: split → file on the hub, owner/name/file; may hold a `*`.
    row: from a row of the hub's files to one of ours.
    tolerance: relative, within which numbers are equal to the grading `lenient`.
    """

    files: Mapping[str, str]
    hub: Mapping[str, str]
    row: Callable[[Row], Row] = _row("problem", "answer")
    tolerance: float = 0.0


SETS = {
    "gsm8k": MathSet(
        {"train": "gsm8k_train.jsonl.gz", "test": "gsm8k_test.jsonl"},
        {
            "train": "openai/gsm8k/main/train-*.parquet",
            "test": "openai/gsm8k/main/test-*.parquet",
        },
        _row("question", "answer", _after_hashes),
    ),
    "math": MathSet(
        {"train": "math_train_7500.jsonl.gz"},
        {
            "train": "DigitalLearningGmbH/MATH-lighteval/data/train-*.parquet",
            "test": "DigitalLearningGmbH/MATH-lighteval/data/test-*.parquet",
        },
        _row("problem", "solution", _last_box),
    ),
    "math500": MathSet(
        {"test": "math500.jsonl"}, {"test": "HuggingFaceH4/MATH-500/test.jsonl"}
    ),
    "dapo_math_17k": MathSet(
        {"train": "dapo_math_17k.jsonl.gz"},
        {"train": "open-r1/DAPO-Math-17k-Processed/all/train-*.parquet"},
        _row("prompt", "solution"),
    ),
    "aime24": MathSet(
        {"test": "aime24.jsonl"},
        {"test": "HuggingFaceH4/aime_2024/data/train-*.parquet"},
    ),
    "aime25": MathSet({"test": "aime25.jsonl"}, {"test": "math-ai/aime25/test*"}),
    "amc23": MathSet(
        {"test": "amc23.jsonl"},
        {"test": "math-ai/amc23/test*"},
        _row("question", "answer", _whole),
    ),
    "amc22_23": MathSet(
        {"test": "amc22_23.jsonl"},
        {"test": "AI-MO/aimo-validation-amc/data/train-*.parquet"},
        _row("problem", "answer", _whole),
    ),
    "minerva": MathSet(
        {"test": "minerva_math.jsonl"},
        {"test": "math-ai/minervamath/test*"},
        _row("question", "answer"),
        # Its answers are rounded physical quantities. The grader of the harness that
        # the file comes from (QwenLM/Qwen2.5-Math, evaluation/grader.py) compares
        # numbers by isclose(rel_tol=1e-4), and published figures are mostly its.
        tolerance=1e-4,
    ),
    "olympiadbench": MathSet(
        {"test": "olympiadbench.jsonl.gz"},
        {"test": "Hothan/OlympiadBench/OE_TO_maths_en_COMP/*.parquet"},
        _row("question", "final_answer", _listed),
    ),
}


class Source(NamedTuple):
    """Where a split is read from.

    Attributes:
      paths: the files; those of a set in a folder may be missing.
      row: what its rows need to become ours; None if they are.
      tolerance: of the set, see `MathSet`; 0 for a file.
    """

    paths: tuple[pathlib.Path, ...]
    row: Callable[[Row], Row] | None
    tolerance: float = 0.0


def locate(path: str | pathlib.Path, split: str) -> Source:
    """Finds the files that a task's `path` means; fetches them if they are on the hub.

    Raises:
      Refused: there are none, the set has no such split, or the hub cannot be
        reached.
    """
    text = str(path)
    if text.startswith(hub.PREFIX):
        return Source(hub.fetch(text, split), None)
    folder, name = pathlib.Path(text).parent, pathlib.Path(text).name
    if name not in SETS or pathlib.Path(text).is_file():
        return Source(files.find(text, split), None)
    known = SETS[name]
    if text != name:
        own = known.files.get(split)
        if pathlib.Path(text).is_dir() and not (own and (folder / own).exists()):
            return Source(files.find(text, split), None, known.tolerance)
        found = files.find(folder / _of(known.files, split, name))
        return Source(found, None, known.tolerance)
    found = hub.fetch(hub.PREFIX + _of(known.hub, split, name))
    return Source(found, lambda row: known.row(row) | {"source": name}, known.tolerance)


def _of(known: Mapping[str, str], split: str, name: str) -> str:
    """The file of a split."""
    if split not in known:
        raise Refused(
            f"the set {name!r} has no {split=}, only {', '.join(known)}; name another "
            "set or a file."
        )
    return known[split]
