"""Does entropy find the forks? A number for each record of a run on the task `forks`.

    python examples/find_forks.py runs/forks

The probability that a choice is more uncertain than a forced token: 1 if entropy finds
all forks, 0.5 if it knows nothing of them. Needs no JAX.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hapo_jax.runs import records as records_lib
from hapo_jax.tasks import forks


def found(completions: Sequence[Mapping[str, Any]], answers: Mapping[str, str]):
    """(probability, mean entropy of choices, of forced tokens), entropies in nats.

    Args:
      completions: of a record.
      answers: by id of the problem.
    """
    entropy = {forks.CHOICE: [], forks.FORCED: []}
    for row in completions:
        labels = forks.labels(row["token_strings"], answers[row["problem_id"]])
        for label, nats in zip(labels, row["old_entropy"], strict=True):
            entropy[label].append(nats)
    choice, forced = (np.array(entropy[k]) for k in (forks.CHOICE, forks.FORCED))
    above = (choice[:, None] > forced).mean() + (choice[:, None] == forced).mean() / 2
    return float(above), float(choice.mean()), float(forced.mean())


def main(workdir: str) -> None:
    """Prints a line per record."""
    options = records_lib.read_config(workdir)["task"]["train"]
    answers = {p.id: p.answer for p in forks.problems(**options)}
    print("step  found  choice  forced  nats")
    for step in records_lib.rollout_steps(workdir):
        numbers = found(records_lib.read_rollouts(workdir, step), answers)
        print("{:4d}{:7.3f}{:8.3f}{:8.4f}".format(step, *numbers))


if __name__ == "__main__":
    main(sys.argv[1])
