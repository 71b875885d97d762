"""Demonstrations as completions that nobody sampled, alone or beside a rollout."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from hapo_jax.model.tokenizer import Tokenizer
from hapo_jax.rollout import batch as batch_lib
from hapo_jax.rollout import prompts
from hapo_jax.rollout.batch import RolloutBatch
from hapo_jax.system.errors import Refused
from hapo_jax.tasks.problems import Demonstration


class Demonstrations(NamedTuple):
    """Attributes:
    texts: as the task gives them.
    rows: the same as token rows, in their order.
    """

    texts: Sequence[Demonstration]
    rows: RolloutBatch


def per_minibatch(share: float, sampled_rows: int) -> int:
    """Demonstrations beside the sampled completions of a mini-batch.

    Args:
      share: of all its completions, in [0, 1); the number is rounded, and is at least
        one unless the share is 0.
      sampled_rows: of it.
    """
    return max(1, round(sampled_rows * share / (1 - share))) if share else 0


def put_beside(
    batch: RolloutBatch,
    shown: RolloutBatch,
    *,
    step: int,
    seed: int,
    number: int,
    num_minibatches: int,
    free: int,
) -> RolloutBatch:
    """The batch of a step with demonstrations behind each of its mini-batches.

    Every demonstration comes once before any comes again, in an order of the seed.

    Args:
      batch: of the rollout.
      shown: all demonstrations.
      step: of the run, from 1.
      seed: of the run.
      number: per mini-batch.
      num_minibatches: of the batch.
      free: rows for them behind each, at least `number`.
    """
    count = number * num_minibatches
    chosen = prompts.take(len(shown.rewards), seed, (step - 1) * count, count)
    rows = batch_lib.rows(shown, chosen)
    return batch_lib.behind_minibatches(batch, rows, num_minibatches, free)


def tokenise(
    demonstrations: Sequence[Demonstration],
    tokenizer: Tokenizer,
    encode_prompt: Callable[[str | list[dict[str, str]]], list[int]],
    *,
    max_prompt_tokens: int,
    max_completion_tokens: int,
    section: str,
) -> RolloutBatch:
    """Demonstrations as a batch of completions, with zeros where nothing was sampled.

    Args:
      demonstrations: at least one.
      tokenizer, encode_prompt: of the run.
      max_prompt_tokens, max_completion_tokens: longer ones are an error.
      section: of the config, where they come from, for messages.

    Raises:
      Refused: there is none, a prompt or completion is longer than it may be, or a
        completion contains a word that the tokenizer does not know.
    """
    P, T = max_prompt_tokens, max_completion_tokens
    n = len(demonstrations)
    if not n:
        raise Refused(f"there are no demonstrations; see {section}.")
    prompt_tokens = np.full((n, P), tokenizer.pad_id, np.int32)
    completion_tokens = np.full((n, T), tokenizer.pad_id, np.int32)
    prompt_lengths, lengths = np.zeros(n, np.int32), np.zeros(n, np.int32)
    for i, example in enumerate(demonstrations):
        try:
            prompt = encode_prompt(example.prompt)
            completion = [*tokenizer.encode(example.completion), tokenizer.stop_ids[0]]
        except Refused as error:
            raise Refused(f"demonstration {i + 1} of {section}: {error}") from error
        if len(prompt) > P or len(completion) > T:
            raise Refused(
                f"demonstration {i + 1} of {section} has {len(prompt)} prompt and "
                f"{len(completion)} completion tokens, and max_prompt_tokens={P}, "
                f"max_completion_tokens={T}; raise them or shorten the data."
            )
        prompt_lengths[i], lengths[i] = len(prompt), len(completion)
        prompt_tokens[i, P - len(prompt) :] = prompt
        completion_tokens[i, : len(completion)] = completion
    unknown = tokenizer.backend.unk_token_id
    if unknown is not None and (completion_tokens == unknown).any():
        i = int((completion_tokens == unknown).any(1).argmax())
        raise Refused(
            f"demonstration {i + 1} of {section} has a word outside the vocabulary: "
            f"{demonstrations[i].completion!r}; add it to the tokenizer (task.words)."
        )
    return RolloutBatch.of_tokens(
        prompt_tokens=prompt_tokens,
        prompt_lengths=prompt_lengths,
        completion_tokens=completion_tokens,
        completion_mask=np.arange(T)[None] < lengths[:, None],
    )
