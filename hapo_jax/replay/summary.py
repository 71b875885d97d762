"""A replayed step in a few numbers, for tables."""

import numpy as np

from hapo_jax.learner import metrics
from hapo_jax.replay.step import Replayed


def summary(found: Replayed, *, quantile: float = 0.8) -> dict[str, float]:
    """How much push tokens get by their entropy, and how many are clipped.

    Args:
      found: the step.
      quantile: of the old policy's entropies over the batch; above it tokens are
        uncertain, the others confident.

    Returns:
      Mean absolute push × 1000 of both, shares of clipped tokens in percent, and the
      loss; nan where the step learns nothing.
    """
    rows, terms = found.recorded.rows, found.terms
    mask = metrics.own_tokens(rows.mask, rows.beside)
    pivot = np.quantile(rows.old_entropy[mask], quantile)
    uncertain = mask & (rows.old_entropy > pivot)
    push = 1e3 * np.abs(found.push)
    return {
        "push × 1000, confident": float(push[mask & ~uncertain].mean()),
        "push × 1000, uncertain": float(push[uncertain].mean()),
        "clipped below, %": 100 * float(terms.clipped_low[mask].mean()),
        "clipped above, %": 100 * float(terms.clipped_high[mask].mean()),
        "loss": found.metrics.get("loss/policy", float("nan")),
    }
