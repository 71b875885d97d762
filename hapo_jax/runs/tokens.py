"""Per-token records of a step, for the run folder, TensorBoard and the notebooks."""

import numpy as np

from hapo_jax.algo.terms import Terms
from hapo_jax.learner.head import Scores
from hapo_jax.learner.learn import Learnt
from hapo_jax.model.tokenizer import Tokenizer
from hapo_jax.rollout.prompts import PromptSet
from hapo_jax.runs.folder import RunFolder

_TABLE_ROWS = 64  # of text on a board; the records have all


def save(
    folder: RunFolder,
    step: int,
    learnt: Learnt,
    terms: Terms,
    now: Scores,
    *,
    prompts: PromptSet,
    tokenizer: Tokenizer,
    num_rows: int,
) -> None:
    """Writes histograms of a batch and the records of its first rows.

    Args:
      folder: where to.
      step: the update that the batch was sampled for.
      learnt: the batch of B rows, and what the updates knew of it.
      terms, now: [B, T], see `learn.look_back`.
      prompts: where the batch's prompt ids point to.
      tokenizer: of the policy.
      num_rows: rows to record, whole groups; 0 records none. Empty rows are left out,
        and what is imitated beside the batch.
    """
    batch, rows = learnt.batch, learnt.rows
    own = (batch.prompt_ids >= 0) & ~batch.beside
    mask = batch.completion_mask & own[:, None]
    folder.log_histograms(
        step,
        {
            "tokens/entropy": batch.record.entropy[mask],
            "tokens/temperature": batch.record.temperature[mask],
            "tokens/ratio": terms.ratio[mask],
            "tokens/advantages": terms.advantages[mask],
            "completions/length": batch.lengths[own],
        },
    )
    index = np.flatnonzero(own[:num_rows])
    if not len(index):
        return
    tokens = [batch.completion_tokens[i][mask[i]] for i in index]
    problems = [prompts.problems[i] for i in batch.prompt_ids[index]]
    asked = [
        tokenizer.decode(batch.prompt_tokens[i][-batch.prompt_lengths[i] :])
        for i in index
    ]
    completions = [tokenizer.decode(t) for t in tokens]
    folder.save_rollouts(
        step,
        completion_mask=mask[index],
        per_completion={
            "problem_id": [p.id for p in problems],
            "group": batch.group_ids[index],
            "prompt": asked,
            "completion": completions,
            "score": batch.scores[index],
            "reward": batch.rewards[index],
            "truncated": batch.truncated[index],
        },
        per_token={
            "tokens": batch.completion_tokens[index],
            "token_strings": [tokenizer.pieces(t) for t in tokens],
            "entropy": batch.record.entropy[index],
            "old_entropy": rows.old_entropy[index],
            "entropy_score": terms.score[index],
            "temperature": batch.record.temperature[index],
            "cut_logit": batch.record.cut_logit[index],
            "behavior_logprobs": batch.record.behavior_logprobs[index],
            "old_logprobs": rows.old_logprobs[index],
            "logprobs": now.logprobs[index],
            "ratio": terms.ratio[index],
            "importance_weight": terms.weight[index],
            "base_advantages": terms.base_advantages[index],
            "advantages": terms.advantages[index],
            "loss": terms.loss[index],
            "counted": terms.counted[index],
            "clip_low": terms.clip_low[index],
            "clip_high": terms.clip_high[index],
            "clipped_low": terms.clipped_low[index],
            "clipped_high": terms.clipped_high[index],
            "dual_clipped": terms.dual_clipped[index],
        },
    )
    folder.log_table(
        step,
        "rollouts/completions",
        ["prompt", "completion", "reward"],
        list(zip(asked, completions, batch.rewards[index]))[:_TABLE_ROWS],
    )
