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
    """Rows of several batches one after another; group ids are numbered anew."""
    joined = RolloutBatch(*(np.concatenate(fields) for fields in zip(*batches)))
    starts = np.cumsum([0, *(len(b.group_ids) for b in batches[:-1])])
    shifted = [b.group_ids + start for b, start in zip(batches, starts)]
    return joined._replace(group_ids=np.concatenate(shifted).astype(np.int32))


def pad_rows(batch: RolloutBatch, num_rows: int) -> RolloutBatch:
    """Adds empty rows (no completion token, prompt id -1) up to `num_rows`.

    An empty row carries no loss and counts in no denominator. It keeps shapes fixed
    when dynamic sampling finds too few useful groups.
    """
    missing = num_rows - len(batch.rewards)
    fields = [
        np.pad(field, [(0, missing)] + [(0, 0)] * (field.ndim - 1)) for field in batch
    ]
    padded = RolloutBatch(*fields)
    filler = np.arange(num_rows) >= num_rows - missing
    return padded._replace(
        group_ids=np.where(filler, np.arange(num_rows), padded.group_ids).astype(
            np.int32
        ),
        prompt_ids=np.where(filler, -1, padded.prompt_ids),
        # A row of nothing but padding would attend to nothing; one token avoids it.
        prompt_lengths=np.where(filler, 1, padded.prompt_lengths).astype(np.int32),
    )
