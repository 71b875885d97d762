r"""Mathematics: problems with a short answer, and three ways to grade one.

  lenient   the answer that `math_text.find` reads (an `Answer:` line, boxes, `####`, or
            the last formula), equal to the gold answer as text or in meaning: values,
            units, percent, intervals, equations, lists in any order. The default.
            Numbers of a set with a tolerance (Minerva's) need not be equal, but near.
  strict    the same without the last formula, equal as text alone once both are spelt
            alike. A list keeps its order, and a fraction must be reduced.
  dapo      what verl and DAPO score by, decision by decision: see `math_dapo.py`.
  hapo      dapo, with math-verify as a second chance, as the published HAPO code.

Each reads one answer, so naming several is naming a list, which equals only a list.
`dapo` and `hapo` see the gold answer as it is in the file, as the graders do that they
stand for, once it is an answer alone (`golds.py`); the others see it without its box.
docs/math_grading.md says what is equal.
"""

import dataclasses
import functools
import json
import pathlib

from hapo_jax.system.errors import Refused
from hapo_jax.tasks import (
    data_checks,
    golds,
    math_dapo,
    math_sets,
    math_text,
    math_value,
)
from hapo_jax.tasks.answers import equality
from hapo_jax.tasks.problems import (
    Demonstration,
    Grade,
    Problem,
    check_split,
    path_text,
    read_demonstrations,
    read_problems,
)

GRADINGS = ("lenient", "strict", "dapo", "hapo")
_REFERENCES = ("dapo", "hapo")
_AS_TEXT = _REFERENCES  # to which 18.0 is another answer than 18
_CHANCES = 50
_PACKED = '{"gold": '


def problems(
    split: str,
    *,
    path: str | pathlib.Path,
    prompt_template: str,
    grading: str = "lenient",
    columns: str = "",
    on_error: str = "stop",
) -> list[Problem]:
    """The problems of a file or set, with answers to grade by.

    Each gold answer is graded against itself, once: those that nothing can equal are
    named.

    Args:
      split: "train" or "test"; of a set by name, which of its files.
      path: files of this split, or a set by name: see `math_sets.py`.
      prompt_template: text around `{problem}`; empty for the bare problem, and for
        files of verl's kind, whose prompts are whole messages.
      grading: one of `GRADINGS`.
      columns: which fields are read, as in "problem=question,answer=gold"; empty to
        guess, see `schemas.py`.
      on_error: "stop" at a broken row, or "skip" and count it. A gold answer in which
        the grading finds nothing, or too much, makes a row broken.

    Raises:
      Refused: there is no such split or grading, its files are missing or broken,
        or none of the gold answers can be equalled.
    """
    check_split(split)
    _check_grading(grading)
    source = math_sets.locate(path, split)
    found = read_problems(
        source.paths,
        prompt_template=prompt_template,
        columns=columns,
        row=None if columns else source.row,
        on_error=on_error,
        gold=functools.partial(golds.text, compared_as_text=grading in _AS_TEXT),
        check=functools.partial(_check_gold, grading=grading),
    )
    packed = [
        dataclasses.replace(
            problem, answer=pack(problem.answer, grading, source.tolerance)
        )
        for problem in found
    ]
    data_checks.check_golds(
        packed,
        _SelfGrading(grading).wins,
        lambda problem: unpack(problem.answer)[0],
        grading=grading,
        source=path_text(source.paths),
    )
    return packed


def demonstrations(
    split: str,
    *,
    path: str | pathlib.Path,
    prompt_template: str,
    size: int,
    columns: str = "",
) -> list[Demonstration]:
    """Worked solutions or conversations, for supervised fine-tuning.

    Args:
      split: "train" or "test".
      path: files of this split, as in `problems`.
      prompt_template: as in `problems`; use the template of the RL run that follows.
      size: how many, from the top; 0 for all.
      columns: which fields are read, as in "problem=question,completion=reply"; empty
        to guess, see `schemas.py`.

    Raises:
      Refused: as `problems.read_demonstrations`, or there is no such split.
    """
    check_split(split)
    return read_demonstrations(
        math_sets.locate(path, split).paths,
        prompt_template=prompt_template,
        size=size,
        columns=columns,
    )


def grade(completion: str, answer: str) -> Grade:
    """1.0 if the completion's answer equals the gold answer.

    Call it in a process's main thread: math-verify bounds its time with signals.

    Args:
      completion: what the policy wrote, special tokens removed.
      answer: from `problems`; or a gold answer alone, bare, in `$...$` or in a box,
        which is graded `lenient`.

    Raises:
      Refused: the gold answer says nothing, or is too long.
    """
    answer, grading, tolerance = unpack(answer)
    # The rules of dapo and hapo see the gold answer as it stands in the file.
    gold = answer if grading in _REFERENCES else _gold(answer)
    pred = extract(completion, grading)
    if pred is None:
        return Grade(0.0, None)
    return Grade(1.0 if equal(gold, pred, grading, tolerance) else 0.0, pred)


def extract(completion: str, grading: str = "lenient") -> str | None:
    """The answer that a grading reads in a completion, as written, or None."""
    if grading in _REFERENCES:
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
    if grading in _REFERENCES:
        return math_dapo.same(gold, pred) or (
            grading == "hapo" and _second_chance(gold, pred)
        )
    if grading == "strict":
        return equality.same_written(gold, pred)
    return equality.same(gold, pred, tolerance)


def pack(gold: str, grading: str, tolerance: float = 0.0) -> str:
    """What a problem carries as its answer: the gold answer, and how to grade."""
    if grading == "lenient" and tolerance == 0 and not gold.startswith(_PACKED):
        return gold
    return json.dumps({"gold": gold, "grading": grading, "tolerance": tolerance})


def unpack(answer: str) -> tuple[str, str, float]:
    """(gold answer, grading, tolerance); the inverse of `pack`."""
    if not answer.startswith(_PACKED):
        return answer, "lenient", 0.0
    spec = json.loads(answer)
    return spec["gold"], spec["grading"], spec["tolerance"]


def gold_text(answer: str) -> str:
    """The gold answer as it may be written in a box."""
    return unpack(answer)[0]


class _SelfGrading:
    """Grades gold answers against themselves."""

    def __init__(self, grading: str):
        self._mark = "Answer: {}" if grading in _REFERENCES else r"\boxed{{{}}}"
        # math-verify takes up to seconds: 17,000 of its verdicts would be an hour.
        self._chances = _CHANCES

    def wins(self, problem: Problem) -> bool:
        """Whether a completion that gives a problem's own gold answer is right."""
        answer, grading, _ = unpack(problem.answer)
        gold = answer if grading in _REFERENCES else _gold(answer)
        completion = self._mark.format(gold)
        if grading != "hapo":
            return grade(completion, problem.answer).score == 1
        pred = extract(completion, grading)
        if pred is None or math_dapo.same(gold, pred):
            return pred is not None
        self._chances -= 1
        return self._chances >= 0 and _second_chance(gold, pred)


def _second_chance(gold: str, pred: str) -> bool:
    """math-verify on both, each in a box; the prediction after DAPO's cleaning."""
    cleaned = math_dapo.normalise(pred)
    return math_value.verify(rf"\boxed{{{gold}}}", rf"\boxed{{{cleaned}}}")


def _gold(answer: str) -> str:
    """The gold answer without its box.

    Raises:
      Refused: it says nothing, or is too long.
    """
    gold = math_text.unboxed(answer)
    longest = math_text.MAX_CHARACTERS
    if gold is None or len(gold) > longest or not math_text.speaks(gold):
        raise Refused(
            f"answer={answer[:80]!r} must say something, its box be closed if it has "
            f"one, and {longest} characters be enough for it; drop the problem."
        )
    return gold


def _check_gold(answer: str, grading: str) -> None:
    """Raises Refused if no completion could be right to the grading."""
    if grading not in _REFERENCES:
        _gold(answer)
    elif not math_dapo.normalise(answer):
        raise Refused(
            f"answer={answer[:80]!r} has nothing left once {grading!r} has taken units "
            "and words out; drop the problem, or grade it 'lenient'."
        )


def _check_grading(grading: str) -> None:
    if grading not in GRADINGS:
        raise Refused(f"{grading=} must be one of {', '.join(GRADINGS)}.")
