"""What a rollout hands to the learner. Every field has a shape, a dtype, an alignment.

Column t of every [B, T] array is about completion token t. Prompts are padded on the
left and completions on the right, so a sequence is contiguous across the seam.
"""

from typing import NamedTuple

import numpy as np


class RolloutBatch(NamedTuple):
    """B = N·G completions, the G of a prompt one after another. NumPy, on the host.

    Attributes:
      prompt_tokens: [B, P] int32, padded on the left.
      prompt_lengths: [B] int32, in tokens.
      completion_tokens: [B, T] int32, the stop token included, padded on the right.
      completion_mask: [B, T] bool, True on the tokens that were sampled.
      entropy: [B, T] float32, nats, of the untempered distribution.
      temperature: [B, T] float32, at which the token was drawn.
      behavior_logprobs: [B, T] float32, under the distribution drawn from.
      base_logprobs: [B, T] float32, under the same policy at the base temperature.
      group_ids: [B] int32 in [0, B), equal within a group.
      prompt_ids: [B] int64, row of the problem in its data set; -1 marks an empty row.
      sample_ids: [B] int32, which of the prompt's completions in its step.
      scores: [B] float32, what the verifier said; 1 is correct.
      rewards: [B] float32, score plus penalties.
      truncated: [B] bool, stopped by the token limit.
    """

    prompt_tokens: np.ndarray
    prompt_lengths: np.ndarray
    completion_tokens: np.ndarray
    completion_mask: np.ndarray
    entropy: np.ndarray
    temperature: np.ndarray
    behavior_logprobs: np.ndarray
    base_logprobs: np.ndarray
    group_ids: np.ndarray
    prompt_ids: np.ndarray
    sample_ids: np.ndarray
    scores: np.ndarray
    rewards: np.ndarray
    truncated: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """[B] int64, completion lengths in tokens."""
        return self.completion_mask.sum(axis=1)


def rows(batch: RolloutBatch, index) -> RolloutBatch:
    """The chosen rows (slice, mask or indices) of every field."""
    return RolloutBatch(*(field[index] for field in batch))


def concatenate(batches: list[RolloutBatch]) -> RolloutBatch:
    """Rows of several batches one after another; number the groups anew afterwards."""
    return RolloutBatch(*(np.concatenate(fields) for fields in zip(*batches)))


def number_groups(batch: RolloutBatch, group_size: int) -> RolloutBatch:
    """Sets `group_ids` to the index of each group's first row."""
    row = np.arange(len(batch.rewards), dtype=np.int32)
    return batch._replace(group_ids=row // group_size * group_size)


def pad_rows(batch: RolloutBatch, num_rows: int) -> RolloutBatch:
    """Adds empty rows (no completion token, prompt id -1) up to `num_rows`.

    An empty row carries no loss and counts in no denominator. It keeps shapes fixed
    when dynamic sampling finds too few useful groups.
    """
    present = len(batch.rewards)
    padded = RolloutBatch(
        *(np.pad(x, [(0, num_rows - present)] + [(0, 0)] * (x.ndim - 1)) for x in batch)
    )
    padded.prompt_ids[present:] = -1
    padded.prompt_lengths[present:] = 1  # a sequence has at least one token
    return padded
