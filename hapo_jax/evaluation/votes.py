"""Majority voting: which of a problem's answers are one, and what the vote scores.

`sampling.py` asks the graders about `pairs` and gives what they say to `classes`.
"""

import collections
import itertools
from collections.abc import Collection, Sequence

Pair = tuple[str, str]


def pairs(answers: Sequence[str | None], scores: Sequence[float]) -> list[Pair]:
    """Pairs of distinct answers whose equality can decide the vote.

    Right answers are known to be one, as they equal the gold answer, and a wrong one
    is not equal to it. Where the right ones outnumber all others nothing is left to
    ask.

    Args:
      answers: [k] what the grader read in each completion, None for nothing.
      scores: [k] its scores, 1 is right.

    Returns:
      (more frequent answer, other answer) of wrong ones; equal counts in the order of
      their first appearance.
    """
    wrong = [a for a, s in zip(answers, scores) if s < 1 and a is not None]
    right = sum(s >= 1 for s in scores)
    if right > len(wrong):
        return []
    distinct = [answer for answer, _ in collections.Counter(wrong).most_common()]
    return list(itertools.combinations(distinct, 2))


def classes(
    answers: Sequence[str | None],
    scores: Sequence[float],
    equal: Collection[Pair] | None,
) -> list[int | None]:
    """A number per completion, the same for equal answers.

    Args:
      answers, scores: as in `pairs`.
      equal: those of `pairs` that are equal; None where answers are compared as text,
        right or wrong, because the task's verifier spells them in one way.

    Returns:
      [k] int in the order of first appearance; None where there is no answer.
    """
    keys: list[str | None] = []
    if equal is None:
        keys = list(answers)
    else:
        wrong = [a for a, s in zip(answers, scores) if s < 1 and a is not None]
        heads: dict[str, str] = {}
        # From the most frequent on, each answer joins the first that it equals. Equal
        # answers need not be transitive, so the order is part of the definition.
        for answer, _ in collections.Counter(wrong).most_common():
            known = (h for h in dict.fromkeys(heads.values()) if (h, answer) in equal)
            heads[answer] = next(known, answer)
        keys = [
            "right" if s >= 1 else None if a is None else f"wrong {heads[a]}"
            for a, s in zip(answers, scores)
        ]
    numbers: dict[str, int] = {}
    return [
        None if key is None else numbers.setdefault(key, len(numbers)) for key in keys
    ]


def majority_score(votes: Sequence[int | None], scores: Sequence[float]) -> float:
    """maj@k of one problem: the mean score of those who gave the most frequent answer.

    Answers that are equally frequent share, which is the expectation of a fair draw
    among them. Completions without an answer do not vote; 0 if none has one.

    Args:
      votes: [k] from `classes`.
      scores: [k] in [0, 1].
    """
    counts = collections.Counter(vote for vote in votes if vote is not None)
    if not counts:
        return 0.0
    most = max(counts.values())
    chosen = [s for v, s in zip(votes, scores) if counts.get(v, 0) == most]
    return float(sum(chosen) / len(chosen))
