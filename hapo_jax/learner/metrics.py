"""From what the updates of a step saw to its metrics; docs/metrics.md lists them all.

A metric is a quotient of sums over the step, so that every token weighs alike however
the step was cut into updates. What was not trained is not counted: an update that was
skipped, or a mini-batch without a completion that has an advantage. Where nothing is
left to divide by, the metric is absent, and not 0.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from hapo_jax.algo.terms import Rows
from hapo_jax.learner.head import Scores
from hapo_jax.learner.train_step import Prepared, Tally
from hapo_jax.rollout.batch import Array, RolloutBatch

# A token counts as off by much where the policy that drew it and the one whose
# gradient is taken differ by more than this in its probability.
_OFF = 0.1


def of_updates(tallies: Sequence[Tally]) -> dict[str, float]:
    """Metrics of the updates of a step, NumPy scalars; there may be none."""
    applied = [t for t in tallies if t.finite]
    trained = [t for t in applied if t.trained_tokens]
    metrics = {
        "learner/updates": float(len(trained)),
        "learner/updates_idle": float(len(applied) - len(trained)),
        "grad/skipped": float(len(tallies) - len(applied)),
    }
    if tallies:
        rate = (trained or tallies)[-1].learning_rate
        metrics["learner/learning_rate"] = float(rate)
    if not trained:
        return metrics
    metrics["grad/norm"] = float(np.mean([t.grad_norm for t in trained]))
    for name in ("deviation", "frac_off_5pct", "frac_off_10pct"):
        total, count = trained[0].sums[f"ratio/{name}"]
        if count:
            metrics[f"ratio/first_{name}"] = float(total / count)
    return metrics | of_losses([(t.numerator, t.denominator, t.sums) for t in trained])


def of_losses(
    parts: Sequence[tuple[Array, Array, Mapping[str, Array]]],
) -> dict[str, float]:
    """Metrics of losses; (numerator, denominator, sums) of each update, as in a Tally.

    At least one update.
    """
    numerators, denominators, sums = zip(*parts, strict=True)
    numerator, denominator = (sum(map(float, x)) for x in (numerators, denominators))
    # Without a denominator the loss is a sum, of which there is one per update.
    metrics = {"loss/policy": numerator / (denominator or len(parts))}
    for name in sums[0]:
        total, count = np.sum([s[name] for s in sums], axis=0, dtype=float)
        if count:
            metrics[name] = float(total / count)
    return metrics


def of_ledger(tallies: Sequence[Tally], tokens: Sequence[int]) -> dict[str, float]:
    """What the updates of a step add to the ledger; `tokens` that each trained on."""
    pairs = list(zip(tallies, tokens, strict=True))
    return {
        "ledger/trained_tokens": sum(n for t, n in pairs if t.finite),
        "ledger/updates": sum(bool(t.finite and n) for t, n in pairs),
    }


def own_tokens(mask: np.ndarray, beside: np.ndarray | None) -> np.ndarray:
    """[B, T] bool, the tokens of a mask that are not beside the batch, [B] bool."""
    return mask if beside is None else mask & ~beside[:, None]


def of_batch(rows: Rows, prepared: Prepared) -> dict[str, float]:
    """Metrics over all completion tokens of the batch; entropies in nats."""
    mask = own_tokens(rows.mask, rows.beside)
    stats = prepared.method_state["entropy"]
    metrics = {"batch/tokens": float(mask.sum())}
    if not mask.any():
        return metrics
    entropy, advantages = rows.old_entropy[mask], prepared.constants["advantages"][mask]
    # How much likelier the old policy finds a token than the distribution that it was
    # drawn from: adaptive temperature, truncation, and groups of earlier steps.
    ratio = np.exp(np.clip(rows.old_logprobs - rows.behavior_logprobs, -20, 20)[mask])
    off = np.abs(ratio - 1)
    return metrics | {
        "batch/entropy": float(entropy.mean()),
        "batch/entropy_p80": float(np.quantile(entropy, 0.8)),
        "advantages/frac_nonzero": float((advantages != 0).mean()),
        "advantages/max": float(advantages.max()),
        "advantages/min": float(advantages.min()),
        "behavior/ratio_mean": float(ratio.mean()),
        "behavior/frac_off_10pct": float((off > _OFF).mean()),
        "behavior/off_p95": float(np.quantile(off, 0.95)),
        "stats/log_entropy_quantile": float(stats.quantile),
        "stats/log_entropy_std": float(stats.std),
        "stats/max_score": float(stats.max_score),
        "stats/min_score": float(stats.min_score),
    }


def of_mismatch(batch: RolloutBatch, recorded: Scores, rows: Rows) -> dict[str, float]:
    """How far sampler and learner are apart where they are the same policy, in nats:
    nothing but rounding, and groups that were carried over from earlier steps."""
    mask = own_tokens(batch.completion_mask, batch.beside) & ~batch.given
    gap = np.abs(recorded.logprobs[mask] - rows.old_logprobs[mask])
    if not len(gap):
        return {}
    return {
        "mismatch/logprob_abs_mean": float(gap.mean()),
        "mismatch/logprob_abs_max": float(gap.max()),
        "mismatch/frac_off_10pct": float((np.expm1(gap) > _OFF).mean()),
    }
