"""The problems of a split as token rows, and the order in which a run meets them."""

import dataclasses
import functools
import json
import logging
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

from hapo_jax.system.errors import Refused
from hapo_jax.tasks.problems import Problem

_log = logging.getLogger(__name__)

ORDERS = ("shuffled", "semantic_entropy")


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

    def checksums(self) -> dict[str, Any]:
        """What a run that goes on is to find again; see `checksums`."""
        return checksums(
            ids=[p.id for p in self.problems],
            prompts=[p.prompt for p in self.problems],
            answers=[p.answer for p in self.problems],
            tokens=self.tokens,
        )

    def rows(self, index: np.ndarray, columns: int, pad_id: int):
        """Prompts padded on the left: ([N, columns] int32, lengths [N] int32)."""
        lengths = np.array([len(self.tokens[i]) for i in index], np.int32)
        rows = np.full((len(index), columns), pad_id, np.int32)
        for row, i, length in zip(rows, index, lengths):
            row[columns - length :] = self.tokens[i]
        return rows, lengths


def checksums(**columns: Sequence[Any]) -> dict[str, Any]:
    """What tells rows from others: their number, each column, and the rows as a set.

    Args:
      **columns: one value per row, an array of integers or plain JSON.

    Returns:
      `number`; `crc <column>`; and `crc rows`, which does not depend on their order.
    """
    marks = np.array([[_crc(v) for v in values] for values in columns.values()])
    marks = marks.astype(np.uint32)
    found: dict[str, Any] = {"number": marks.shape[1]}
    for name, column in zip(columns, marks):
        found[f"crc {name}"] = f"{zlib.crc32(column.tobytes()):08x}"
    rows = np.sort([zlib.crc32(row.tobytes()) for row in marks.T]).astype(np.uint32)
    return found | {"crc rows": f"{zlib.crc32(rows.tobytes()):08x}"}


def _crc(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return zlib.crc32(np.ascontiguousarray(value).tobytes())
    return zlib.crc32(json.dumps(value).encode())


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
      Refused: nothing is left, a prompt is empty, or `encode` refuses it.
    """
    kept, rows, num_overlong = [], [], 0
    for problem in problems:
        try:
            ids = np.asarray(encode(problem.prompt), np.int32)
        except Refused as error:
            raise Refused(
                f"problem {problem.id!r} of {problem.source}: {error}"
            ) from error
        if not len(ids):
            raise Refused(f"problem {problem.id!r} of {problem.source} has no prompt.")
        if len(ids) > max_prompt_tokens:
            num_overlong += 1
            if overlong == "drop":
                continue
            ids = ids[-max_prompt_tokens:]
        kept.append(problem)
        rows.append(ids)
    if not problems:
        raise Refused(
            "there are no problems; see the options of task.train and task.test."
        )
    if not kept:
        raise Refused(
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
    return PromptSet(
        problems=tuple(kept), tokens=tuple(rows), num_overlong=num_overlong
    )


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


def take_staged(
    stages: Sequence[np.ndarray], seed: int, cursor: int, count: int
) -> np.ndarray:
    """`take`, of a stream that goes through stages of problems one after another.

    Every pass over the problems goes through all stages, each in a new order.

    Args:
      stages: places of problems; each problem in one of them.
      seed, cursor, count: as in `take`.

    Returns:
      [count] int64.
    """
    size = sum(map(len, stages))
    passes = range(cursor // size, (cursor + count - 1) // size + 1)
    orders = [
        np.random.default_rng([seed, epoch, i]).permutation(stage)
        for epoch in passes
        for i, stage in enumerate(stages)
    ]
    first = cursor - passes.start * size
    return np.concatenate(orders)[first : first + count].astype(np.int64)
