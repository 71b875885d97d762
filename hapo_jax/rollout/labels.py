"""Which tokens of a batch were choices, by a task that knows.

A task whose module has a function `labels` says it of each token of a completion: see
`tasks/forks.py`. Stages read it as `forks`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hapo_jax.rollout.batch import RolloutBatch
from hapo_jax.rollout.prompts import PromptSet
from hapo_jax.system.errors import Refused


def of_task(name: str, task: Any) -> Callable[[Sequence[str], str], list[str]]:
    """(tokens, answer) -> "forced" or "choice" for each token.

    Args:
      name: of the task.
      task: its module.

    Raises:
      Refused: it has no labels.
    """
    found = getattr(task, "labels", None)
    if found is None:
        raise Refused(
            f"task.name={name!r} has no function labels(tokens, answer), and this "
            "method reads `forks`, which tokens were choices; take the task 'forks', "
            "or another algo.mask."
        )
    return found


def mark(
    batch: RolloutBatch,
    prompts: PromptSet,
    pieces: Callable[[np.ndarray], list[str]],
    labels: Callable[[Sequence[str], str], list[str]],
) -> RolloutBatch:
    """The batch with its `forks`.

    Args:
      batch: any.
      prompts: where its prompt ids point to.
      pieces: token ids -> the text of each.
      labels: of the task.
    """
    forks = np.zeros_like(batch.completion_mask)
    for b in np.flatnonzero((batch.prompt_ids >= 0) & ~batch.beside):
        tokens = pieces(batch.completion_tokens[b][batch.completion_mask[b]])
        answer = prompts.problems[batch.prompt_ids[b]].answer
        found = labels(tokens, answer)
        forks[b, batch.completion_mask[b]] = [label == "choice" for label in found]
    return batch._replace(forks=forks)
