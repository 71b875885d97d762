"""One step of learning from one rollout batch: score, prepare, update."""

import jax
import jax.numpy as jnp
import numpy as np

from hapo_jax.learner import train_step
from hapo_jax.rollout.batch import RolloutBatch


def learn(
    learner: train_step.Learner,
    state: train_step.TrainState,
    batch: RolloutBatch,
    *,
    minibatch_rows: int,
    passes: int,
    reference_params=None,
) -> tuple[train_step.TrainState, train_step.Rows, dict[str, float]]:
    """Makes `passes` passes of mini-batch updates over a batch.

    Old log-probs, entropies, statistics and advantages are taken once, under the
    parameters before the first update.

    Args:
      learner: the jitted functions.
      state: donated; use the returned one.
      batch: B rows, a multiple of `minibatch_rows`.
      minibatch_rows: rows per optimizer update.
      passes: over the batch.
      reference_params: of the reference policy, if the objective has a KL term.

    Returns:
      The new state, the rows as the updates saw them (on the devices), and metrics,
      averaged over the updates.
    """
    rows = put_rows(batch, minibatch_rows, learner.sharding)
    old = learner.score(state.params, rows)
    rows = rows._replace(old_logprobs=old.logprobs, old_entropy=old.entropy)
    if reference_params is not None:
        reference = learner.score(reference_params, rows)
        rows = rows._replace(reference_logprobs=reference.logprobs)
    advantages, stats = learner.prepare(rows, state.stats)
    rows = rows._replace(advantages=advantages)
    state = state._replace(stats=stats)

    history = []
    for _ in range(passes):
        for m in range(len(rows.rewards)):
            state, metrics = learner.update(state, rows, jnp.int32(m))
            history.append(metrics)
    history = jax.device_get(history)
    mean = {key: float(np.mean([h[key] for h in history])) for key in history[0]}
    mean["grad/skipped"] = float(sum(h["grad/skipped"] for h in history))
    return state, rows, mean | _describe(batch, rows, state.stats)


def look_back(
    learner: train_step.Learner, state: train_step.TrainState, rows: train_step.Rows
):
    """What the loss makes of each token now that the updates are done.

    Returns:
      TokenTerms, current and old log-probs, NumPy, [B, T] each. Ratios compare the
      policy after the step with the one before it.
    """
    scores = learner.score(state.params, rows)
    terms = jax.device_get(learner.inspect(rows, scores, state.stats))
    return (
        terms,
        np.asarray(scores.logprobs).reshape(terms.mask.shape),
        np.asarray(rows.old_logprobs).reshape(terms.mask.shape),
    )


def put_rows(batch: RolloutBatch, minibatch_rows: int, sharding) -> train_step.Rows:
    """Moves a batch of B rows to the devices as [B/minibatch_rows, minibatch_rows]."""
    rows = train_step.Rows(
        prompt_tokens=batch.prompt_tokens,
        prompt_lengths=batch.prompt_lengths,
        completion_tokens=batch.completion_tokens,
        completion_mask=batch.completion_mask,
        behavior_logprobs=batch.behavior_logprobs,
        rewards=batch.rewards,
        group_ids=batch.group_ids,
    )
    return jax.tree.map(
        lambda x: jax.device_put(x.reshape(-1, minibatch_rows, *x.shape[1:]), sharding),
        rows,
    )


def _describe(batch: RolloutBatch, rows: train_step.Rows, stats) -> dict[str, float]:
    """Metrics of the training batch; entropies and log-probs in nats."""
    mask = batch.completion_mask
    if not mask.any():
        return {"batch/tokens": 0.0}
    old, entropy, advantages = (
        np.asarray(x).reshape(mask.shape)[mask]
        for x in (rows.old_logprobs, rows.old_entropy, rows.advantages)
    )
    gap = batch.base_logprobs[mask] - old
    return {
        "batch/tokens": float(mask.sum()),
        "batch/entropy": float(entropy.mean()),
        "batch/entropy_p80": float(np.quantile(entropy, 0.8)),
        "advantages/max": float(advantages.max()),
        "advantages/min": float(advantages.min()),
        # Zero but for rounding (and for groups carried from an earlier step): sampler
        # and learner are the same policy.
        "mismatch/logprob_abs_mean": float(np.abs(gap).mean()),
        "mismatch/logprob_abs_max": float(np.abs(gap).max()),
        "stats/log_entropy_quantile": float(stats.quantile),
        "stats/log_entropy_std": float(stats.std),
        "stats/max_score": float(stats.max_score),
        "stats/min_score": float(stats.min_score),
    }
