r"""Mathematics: problems with a short answer, and three ways to grade one.

  lenient   the answer that `math_text.find` reads (an `Answer:` line, boxes, `####`, or
            the last number), equal to the gold answer as text or as value: units,
            percent, fractions, intervals, sets and lists in any order. The default.
            Numbers of a set with a tolerance (Minerva's) need not be equal, but near.
  strict    the same without the last number, equal as text alone once both are spelt
            alike. A list keeps its order, and a fraction must be reduced.
  dapo      what verl and DAPO score by, decision by decision: see `math_dapo.py`.
  hapo      dapo, with math-verify as a second chance, as the published HAPO code.

Each reads one answer, so naming several is naming a list, which equals only a list.
"""

import dataclasses
import json
import pathlib

from hapo_jax.tasks import math_dapo, math_sets, math_text, math_value
from hapo_jax.tasks.problems import (
    Demonstration,
    Grade,
    Problem,
    read_demonstrations,
    read_problems,
)

GRADINGS = ("lenient", "strict", "dapo", "hapo")


def problems(
    split: str,
    *,
    path: str | pathlib.Path,
    prompt_template: str,
    grading: str = "lenient",
    on_error: str = "stop",
) -> list[Problem]:
    """The problems of a file or set, with answers to grade by.

    Args:
      split: "train" or "test"; of a set by name, which of its files.
      path: file of this split, or a set by name: see `math_sets.py`.
      prompt_template: text around `{problem}`; empty for the bare problem, and for
        files of verl's kind, whose prompts are whole messages.
      grading: one of `GRADINGS`.
      on_error: "stop" at a broken row, or "skip" and count it. A gold answer that says
        nothing or is too long makes a row broken.

    Raises:
      ValueError: there is no such split or grading, or its file is missing or broken.
    """
    _check_split(split)
    _check_grading(grading)
    source = math_sets.locate(path, split)
    found = read_problems(
        source.path,
        prompt_template=prompt_template,
        row=source.row,
        on_error=on_error,
        check=_gold,
    )
    return [
        dataclasses.replace(
            problem, answer=pack(problem.answer, grading, source.tolerance)
        )
        for problem in found
    ]


def demonstrations(
    split: str, *, path: str | pathlib.Path, prompt_template: str, size: int
) -> list[Demonstration]:
    """Worked solutions of a file, for supervised fine-tuning.

    Args:
      split: "train" or "test".
      path: file of this split, whose rows have a `solution` or a `completion`.
      prompt_template: as in `problems`; use the template of the RL run that follows.
      size: how many, from the top of the file; 0 for all.

    Raises:
      ValueError: as `problems.read_demonstrations`, or there is no such split.
    """
    _check_split(split)
    return read_demonstrations(path, prompt_template=prompt_template, size=size)


def grade(completion: str, answer: str) -> Grade:
    """1.0 if the completion's answer equals the gold answer.

    Call it in a process's main thread: math-verify bounds its time with signals.

    Args:
      completion: what the policy wrote, special tokens removed.
      answer: from `problems`; or a gold answer alone, bare, in `$...$` or in a box,
        which is graded `lenient`.

    Raises:
      ValueError: the gold answer says nothing, or is too long.
    """
    answer, grading, tolerance = unpack(answer)
    gold = _gold(answer)
    pred = extract(completion, grading)
    if pred is None:
        return Grade(0.0, None)
    if grading in ("dapo", "hapo"):
        gold = answer  # their rules see it as it stands in the file
    return Grade(1.0 if equal(gold, pred, grading, tolerance) else 0.0, pred)


def extract(completion: str, grading: str = "lenient") -> str | None:
    """The answer that a grading reads in a completion, as written, or None."""
    if grading in ("dapo", "hapo"):
        return math_dapo.find(completion)
    return math_text.find(completion, unmarked=grading == "lenient")


def equal(
    gold: str, pred: str, grading: str = "lenient", tolerance: float = 0.0
) -> bool:
    """Whether two answers, cut out already, are the same to a grading.

    Args:
      gold, pred: answers.
      grading: one of `GRADINGS`.
      tolerance: by how much numbers may differ to `lenient`, relative to the gold one.
    """
    if grading in ("dapo", "hapo"):
        return math_dapo.same(gold, pred) or (
            grading == "hapo" and _second_chance(gold, pred)
        )
    if math_text.denied(gold, pred):
        return False
    gold, pred = math_text.clean(gold), math_text.clean(pred)
    if not math_text.speaks(gold) or not math_text.speaks(pred):
        return False
    if math_text.same(gold, pred):
        return True
    if grading == "strict":
        return math_value.same_reduced(gold, pred)
    if math_value.same(gold, pred, tolerance):
        return True
    spelt = math_text.as_intervals(gold), math_text.as_intervals(pred)
    return spelt != (gold, pred) and math_value.same(*spelt, tolerance)


def pack(gold: str, grading: str, tolerance: float = 0.0) -> str:
    """What a problem carries as its answer: the gold answer, and how to grade."""
    if grading == "lenient" and tolerance == 0:
        return gold
    return json.dumps({"gold": gold, "grading": grading, "tolerance": tolerance})


def unpack(answer: str) -> tuple[str, str, float]:
    """(gold answer, grading, tolerance); the inverse of `pack`."""
    if not answer.startswith('{"gold": '):
        return answer, "lenient", 0.0
    spec = json.loads(answer)
    return spec["gold"], spec["grading"], spec["tolerance"]


def _second_chance(gold: str, pred: str) -> bool:
    """math-verify on both, each in a box; the prediction after DAPO's cleaning."""
    cleaned = math_dapo.normalise(pred)
    return math_value.verify(rf"\boxed{{{gold}}}", rf"\boxed{{{cleaned}}}")


def _gold(answer: str) -> str:
    """The gold answer without its box.

    Raises:
      ValueError: it says nothing, or is too long.
    """
    gold = math_text.unboxed(answer)
    longest = math_text.MAX_CHARACTERS
    if gold is None or len(gold) > longest or not math_text.speaks(gold):
        raise ValueError(
            f"answer={answer[:80]!r} must hold a letter or a digit and at most "
            f"{longest} characters; drop the problem."
        )
    return gold


def _check_split(split: str) -> None:
    if split not in ("train", "test"):
        raise ValueError(f"{split=} must be one of train, test.")


def _check_grading(grading: str) -> None:
    if grading not in GRADINGS:
        raise ValueError(f"{grading=} must be one of {', '.join(GRADINGS)}.")
