"""The problems of a split as token rows, and the order in which a run meets them."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence

import grain
import numpy as np

from hapo_jax.tasks.problems import Problem

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """Tokenised problems.

    Attributes:
      problems: the ones whose prompts fit.
      tokens: one int32 array per problem.
      num_overlong: problems left out, or prompts cut, for their length.
    """

    problems: tuple[Problem, ...]
    tokens: tuple[np.ndarray, ...]
    num_overlong: int

    def __len__(self) -> int:
        return len(self.problems)

    def rows(self, index: np.ndarray, columns: int, pad_id: int):
        """Prompts padded on the left: ([N, columns] int32, lengths [N] int32)."""
        lengths = np.array([len(self.tokens[i]) for i in index], np.int32)
        rows = np.full((len(index), columns), pad_id, np.int32)
        for row, i, length in zip(rows, index, lengths):
            row[columns - length :] = self.tokens[i]
        return rows, lengths


def tokenise(
    problems: Sequence[Problem],
    encode: Callable[[str | list[dict]], list[int]],
    *,
    max_prompt_tokens: int,
    overlong: str,
) -> PromptSet:
    """Encodes every prompt once; says by a log line how many are too long.

    Args:
      problems: at least one.
      encode: prompt → token ids, see `model/tokenizer.py`.
      max_prompt_tokens: P.
      overlong: what to do with a longer prompt: "drop" the problem, or "truncate" the
        prompt on the left as the paper's recipes do.

    Raises:
      ValueError: nothing is left, or a prompt is empty.
    """
    kept, rows, num_overlong = [], [], 0
    for problem in problems:
        ids = np.asarray(encode(problem.prompt), np.int32)
        if not len(ids):
            raise ValueError(
                f"problem {problem.id!r} of {problem.source} has no prompt."
            )
        if len(ids) > max_prompt_tokens:
            num_overlong += 1
            if overlong == "drop":
                continue
            ids = ids[-max_prompt_tokens:]
        kept.append(problem)
        rows.append(ids)
    if not problems:
        raise ValueError(
            "there are no problems; see the options of task.train and task.test."
        )
    if not kept:
        raise ValueError(
            f"none of {len(problems)} prompts fits "
            f"rollout.max_prompt_tokens={max_prompt_tokens}; raise it, or set "
            "rollout.overlong_prompts='truncate'."
        )
    if num_overlong:
        _log.warning(
            "%d of %d prompts are longer than rollout.max_prompt_tokens=%d: %s",
            num_overlong,
            len(problems),
            max_prompt_tokens,
            "left out" if overlong == "drop" else "cut on the left",
        )
    return PromptSet(tuple(kept), tuple(rows), num_overlong)


@functools.lru_cache(maxsize=4)
def _order(size: int, seed: int) -> grain.MapDataset:
    return grain.MapDataset.range(size).shuffle(seed=seed).repeat()


def take(size: int, seed: int, cursor: int, count: int) -> np.ndarray:
    """Prompts `cursor … cursor + count` of an endless shuffled stream.

    Every epoch is a new permutation of 0 … size - 1. The stream's whole state is the
    cursor, so a resumed run goes on where it stopped.

    Returns:
      [count] int64.
    """
    order = _order(size, seed)
    return np.array([order[i] for i in range(cursor, cursor + count)], np.int64)
