"""What is asked of `schedule.run`, and what it answers."""

from typing import NamedTuple

import numpy as np

from hapo_jax.rollout.batch import TokenRecord


class Request(NamedTuple):
    """One completion to be made.

    Attributes:
      prompt_id: part of the random keys; neighbours with the same id share a prefill.
      prompt_tokens: [n] int32, without padding.
      sample_id: which of the prompt's completions.
      max_tokens: longest completion, stop token included.
      base_temperature: 0 is greedy.
    """

    prompt_id: int
    prompt_tokens: np.ndarray
    sample_id: int
    max_tokens: int
    base_temperature: float = 1.0


class Completion(NamedTuple):
    """A finished request.

    Attributes:
      request: index of the request in its run.
      tokens: [n] int32, stop token included.
      record: [n], of the tokens.
      truncated: the token limit ended it.
    """

    request: int
    tokens: np.ndarray
    record: TokenRecord
    truncated: bool
