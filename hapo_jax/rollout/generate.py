"""Prompts in, graded completions out: sampler, decoding to text, verifier, rewards."""

import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from hapo_jax.algo import entropy as entropy_lib
from hapo_jax.algo import rewards as rewards_lib
from hapo_jax.rollout import batch as batch_lib
from hapo_jax.rollout import sampler as sampler_lib
from hapo_jax.rollout.batch import RolloutBatch
from hapo_jax.rollout.prompts import PromptSet

# (completion, gold answer) pairs -> scores in [0, 1], and counts of what went wrong
GradeFn = Callable[[list[tuple[str, str]]], tuple[np.ndarray, dict[str, int]]]


@dataclasses.dataclass(frozen=True)
class Rewards:
    """From score to reward.

    Attributes:
      correct, wrong: reward at score 1 and 0; between them it is linear.
      max_tokens, buffer_tokens, factor: soft overlong penalty, see
        `algo.rewards.overlong_penalty`; buffer_tokens 0 switches it off.
    """

    correct: float
    wrong: float
    max_tokens: int
    buffer_tokens: int
    factor: float

    def __call__(self, scores: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """[B] scores and completion lengths in tokens → [B] float32 rewards."""
        rewards = self.wrong + (self.correct - self.wrong) * scores
        if self.buffer_tokens:
            rewards = rewards + np.asarray(
                rewards_lib.overlong_penalty(
                    jnp.asarray(lengths),
                    max_tokens=self.max_tokens,
                    buffer_tokens=self.buffer_tokens,
                    factor=self.factor,
                )
            )
        return rewards.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Generator:
    """Everything that stays the same from one call of `generate` to the next.

    Attributes:
      sampler: jitted, for `num_prompts` prompts of `prompt_columns` columns.
      prompts: where prompt ids point to.
      decode: token ids → text.
      grade: the verifier.
      rewards: from score to reward.
      num_prompts: N of one call of the sampler.
      group_size: G.
      prompt_columns: P.
      pad_id: fills prompts on the left.
      stop_ids: tokens that end a completion.
      seed: of the run.
    """

    sampler: sampler_lib.Sampler
    prompts: PromptSet
    decode: Callable[[np.ndarray], str]
    grade: GradeFn
    rewards: Rewards
    num_prompts: int
    group_size: int
    prompt_columns: int
    pad_id: int
    stop_ids: tuple[int, ...]
    seed: int


def generate(
    generator: Generator,
    params,
    stats: entropy_lib.EntropyStats,
    *,
    base_temperature: float,
    step: int,
    prompt_ids: np.ndarray,
    first_sample: np.ndarray,
) -> tuple[RolloutBatch, dict[str, float]]:
    """Draws and grades G completions for each of N prompts.

    Args:
      generator: see above.
      params: the policy's, in the sampler's sharding.
      stats: entropy statistics for the adaptive temperature.
      base_temperature: 0 is greedy.
      step: part of the random keys.
      prompt_ids: [n] int64, n ≤ `num_prompts` (missing ones are filled and dropped).
      first_sample: [n] int, id of each prompt's first completion in this step.

    Returns:
      RolloutBatch of n·G rows; and seconds spent (`time/sample`, `time/grade`) with the
      verifier's counts.
    """
    g, n = generator, len(prompt_ids)
    started = time.perf_counter()
    filled = np.resize(prompt_ids, g.num_prompts)
    prompt_tokens, prompt_lengths = g.prompts.rows(filled, g.prompt_columns, g.pad_id)
    row_prompts = np.repeat(filled, g.group_size)
    sample_ids = np.repeat(np.resize(first_sample, g.num_prompts), g.group_size)
    sample_ids = sample_ids + np.tile(np.arange(g.group_size), g.num_prompts)
    samples = g.sampler(
        params,
        prompt_tokens,
        prompt_lengths,
        sampler_lib.row_keys(g.seed, step, row_prompts, sample_ids),
        stats,
        jnp.float32(base_temperature),
    )
    samples = jax.tree.map(lambda x: np.asarray(x)[: n * g.group_size], samples)
    sampled = time.perf_counter()

    lengths = samples.mask.sum(1)
    texts = [g.decode(row[:k]) for row, k in zip(samples.tokens, lengths)]
    row_prompts = row_prompts[: n * g.group_size]
    answers = [g.prompts.problems[i].answer for i in row_prompts]
    scores, counts = g.grade(list(zip(texts, answers)))
    last = samples.tokens[:, -1]
    batch = RolloutBatch(
        prompt_tokens=np.repeat(prompt_tokens[:n], g.group_size, 0),
        prompt_lengths=np.repeat(prompt_lengths[:n], g.group_size),
        completion_tokens=samples.tokens,
        completion_mask=samples.mask,
        entropy=samples.entropy,
        temperature=samples.temperature,
        behavior_logprobs=samples.behavior_logprobs,
        base_logprobs=samples.base_logprobs,
        group_ids=np.zeros(len(scores), np.int32),
        prompt_ids=row_prompts,
        sample_ids=sample_ids[: n * g.group_size].astype(np.int32),
        scores=scores,
        rewards=g.rewards(scores, lengths),
        truncated=samples.mask[:, -1] & ~np.isin(last, g.stop_ids),
    )
    times = {
        "time/sample": sampled - started,
        "time/grade": time.perf_counter() - sampled,
    }
    return batch_lib.number_groups(batch, g.group_size), times | counts
