"""What is asked of the engine, and what it answers."""

from typing import NamedTuple

import numpy as np


class Request(NamedTuple):
    """One completion to be made.

    Attributes:
      prompt_id: part of the random keys; neighbours with the same id share a prefill.
      prompt_tokens: [n] int32, without padding.
      sample_id: which of the prompt's completions.
      max_tokens: longest completion, stop token included.
      base_temperature: None for that of the run; 0 is greedy.
      seed: None for that of the run.
    """

    prompt_id: int
    prompt_tokens: np.ndarray
    sample_id: int
    max_tokens: int
    base_temperature: float | None = None
    seed: int | None = None


class Completion(NamedTuple):
    """A finished request; fields of n tokens as in `batch.RolloutBatch`.

    Attributes:
      request: index of the request in its run.
      tokens: [n] int32, stop token included.
      entropy, temperature, behavior_logprobs, base_logprobs: [n] float32.
      truncated: the token limit ended it.
    """

    request: int
    tokens: np.ndarray
    entropy: np.ndarray
    temperature: np.ndarray
    behavior_logprobs: np.ndarray
    base_logprobs: np.ndarray
    truncated: bool
