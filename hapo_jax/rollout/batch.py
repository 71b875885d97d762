"""What a rollout hands to the learner. Every field has a shape, a dtype, an alignment.

Column t of every [B, T] array is about completion token t. Prompts are padded on the
left and completions on the right, so a sequence is contiguous across the seam.
"""

from typing import NamedTuple

import jax
import numpy as np

Array = jax.Array | np.ndarray

# `TokenRecord.cut_logit` where every token could be drawn: below any logit.
NO_CUT = -1e30


class TokenRecord(NamedTuple):
    """What is kept of a token that was drawn.

    The same numbers wherever the token goes, float32 each: [B] when it is drawn, [B, T]
    in a batch, [n] in a completion of n tokens.

    Attributes:
      entropy: nats, of the untempered distribution.
      temperature: at which the token was drawn; 0 if greedily, or by nobody.
      cut_logit: between the smallest logit of a token that could be drawn and the
        largest of one that could not; untempered, relative to the largest of all, so
        below 0. `NO_CUT` if all could be drawn, or the token was drawn greedily.
      behavior_logprobs: under the distribution drawn from.
      base_logprobs: under the same policy at the base temperature.
    """

    entropy: Array
    temperature: Array
    cut_logit: Array
    behavior_logprobs: Array
    base_logprobs: Array

    @classmethod
    def zeros(cls, shape: tuple[int, ...]) -> "TokenRecord":
        """NumPy arrays of a shape, as of tokens that nobody drew."""
        return cls(**{name: np.zeros(shape, np.float32) for name in cls._fields})


class RolloutBatch(NamedTuple):
    """B = N·G completions, the G of a prompt one after another. NumPy, on the host.

    Attributes:
      prompt_tokens: [B, P] int32, padded on the left.
      prompt_lengths: [B] int32, in tokens.
      completion_tokens: [B, T] int32, the stop token included, padded on the right.
      completion_mask: [B, T] bool, True on the tokens that were sampled.
      record: [B, T], of the tokens; 0 outside the mask, and where nobody drew one.
      group_ids: [B] int32 in [0, B), equal within a group.
      prompt_ids: [B] int64, row of the problem in its data set; -1 marks an empty row.
      sample_ids: [B] int32, which of the prompt's completions in its step.
      scores: [B] float32, what the verifier said; 1 is correct.
      rewards: [B] float32, score plus penalties.
      baselines: [B] float32, reward of the prompt's greedy completion; 0 where none
        was drawn.
      truncated: [B] bool, stopped by the token limit.
      given: [B, T] bool, tokens that were put there and not drawn; `correction.py`.
      beside: [B] bool, learnt from beside the batch: of a second rollout, or a
        demonstration.
      forks: [B, T] bool, tokens that the task's `labels` call a choice, where the
        method reads them; see `labels.py`.
    """

    prompt_tokens: np.ndarray
    prompt_lengths: np.ndarray
    completion_tokens: np.ndarray
    completion_mask: np.ndarray
    record: TokenRecord
    group_ids: np.ndarray
    prompt_ids: np.ndarray
    sample_ids: np.ndarray
    scores: np.ndarray
    rewards: np.ndarray
    baselines: np.ndarray
    truncated: np.ndarray
    given: np.ndarray
    beside: np.ndarray
    forks: np.ndarray

    @classmethod
    def of_tokens(
        cls,
        *,
        prompt_tokens: np.ndarray,
        prompt_lengths: np.ndarray,
        completion_tokens: np.ndarray,
        completion_mask: np.ndarray,
        group_size: int = 1,
    ) -> "RolloutBatch":
        """Completions of which the tokens alone are known.

        Their record, scores, rewards and baselines are 0, none is truncated, beside
        the batch or a choice. Groups are `group_size` rows one after another, and
        prompts are numbered like them.
        """
        B, T = completion_tokens.shape
        row = np.arange(B, dtype=np.int32)
        return cls(
            prompt_tokens=prompt_tokens,
            prompt_lengths=prompt_lengths,
            completion_tokens=completion_tokens,
            completion_mask=completion_mask,
            record=TokenRecord.zeros((B, T)),
            group_ids=row // group_size * group_size,
            prompt_ids=(row // group_size).astype(np.int64),
            sample_ids=row % group_size,
            scores=np.zeros(B, np.float32),
            rewards=np.zeros(B, np.float32),
            baselines=np.zeros(B, np.float32),
            truncated=np.zeros(B, bool),
            given=np.zeros((B, T), bool),
            beside=np.zeros(B, bool),
            forks=np.zeros((B, T), bool),
        )

    @classmethod
    def empty(
        cls,
        *,
        prompt_tokens: np.ndarray,
        prompt_lengths: np.ndarray,
        completion_tokens: int,
        pad_id: int,
        group_size: int = 1,
    ) -> "RolloutBatch":
        """`of_tokens` before the first token, with room for `completion_tokens`."""
        shape = len(prompt_tokens), completion_tokens
        return cls.of_tokens(
            prompt_tokens=prompt_tokens,
            prompt_lengths=prompt_lengths,
            completion_tokens=np.full(shape, pad_id, np.int32),
            completion_mask=np.zeros(shape, bool),
            group_size=group_size,
        )

    @property
    def lengths(self) -> np.ndarray:
        """[B] int64, completion lengths in tokens."""
        return self.completion_mask.sum(axis=1)


def rows(batch: RolloutBatch, index) -> RolloutBatch:
    """The chosen rows (slice, mask or indices) of every field."""
    return jax.tree.map(lambda x: x[index], batch)


def concatenate(batches: list[RolloutBatch]) -> RolloutBatch:
    """Rows of several batches one after another; number the groups anew afterwards."""
    return jax.tree.map(lambda *parts: np.concatenate(parts), *batches)


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
    missing = (0, num_rows - present)
    padded = jax.tree.map(
        lambda x: np.pad(x, [missing] + [(0, 0)] * (x.ndim - 1)), batch
    )
    padded.prompt_ids[present:] = -1
    padded.prompt_lengths[present:] = 1  # a sequence has at least one token
    return padded


def behind_minibatches(
    batch: RolloutBatch, extra: RolloutBatch, num_minibatches: int, free: int
) -> RolloutBatch:
    """Each mini-batch's rows, then its share of the extra ones, and empty rows where
    they are fewer than `free`."""
    size = len(batch.rewards) // num_minibatches
    parts = []
    for i in range(num_minibatches):
        own = rows(batch, slice(i * size, (i + 1) * size))
        more = pad_rows(rows(extra, slice(i, None, num_minibatches)), free)
        shift = i * (size + free)
        parts += [
            own._replace(group_ids=own.group_ids - i * size + shift),
            # A completion of its own: its group is not the prompt's of the batch.
            more._replace(
                group_ids=np.arange(free, dtype=np.int32) + shift + size,
                beside=np.ones(free, bool),
            ),
        ]
    return concatenate(parts)
