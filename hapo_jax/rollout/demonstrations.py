"""Demonstrations as completions that nobody sampled."""

from collections.abc import Callable, Sequence

import numpy as np

from hapo_jax.model.tokenizer import Tokenizer
from hapo_jax.rollout.batch import RolloutBatch
from hapo_jax.system.errors import Refused
from hapo_jax.tasks.problems import Demonstration


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
