"""Whether two answers to a mathematical problem are one, for majority voting.

A grader like those of tasks, so that it runs in the pool, behind its limits: what
policies answer is no safer to compare with itself than with the gold answer.
"""

import json

from hapo_jax.tasks import math
from hapo_jax.tasks.problems import Grade


def item(first: str, second: str, answer: str) -> tuple[str, str]:
    """What the pool is given to compare two answers.

    Args:
      first, second: as `math.extract` cut them out.
      answer: of the problem, which says how it is graded.
    """
    _, *how = math.unpack(answer)
    return second, json.dumps([first, *how])


def grade(completion: str, answer: str) -> Grade:
    """1.0 if both answers are the same to the problem's grading; see `item`."""
    first, *how = json.loads(answer)
    return Grade(float(math.equal(first, completion, *how)), None)
