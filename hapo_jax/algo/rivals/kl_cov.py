"""KL-Cov: tokens that drive the entropy down are held back."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import kl, masked, row, selections, stages
from hapo_jax.algo.losses import Surrogate
from hapo_jax.algo.ranges import Range

Array = jax.Array


@stages.declare(by_rows=True, options={"share": Range(0, 1)})
def top_covariance(
    source_logprobs: Array, advantages: Array, mask: Array, *, share: float = 2e-3
) -> Array:
    """KL-Cov: the tokens whose log-prob and advantage covary most.

        cov      = (A - mean A) * (l - mean l)
        selected = 1 for the max(1, floor(share * N)) tokens of largest cov, else 0

    arXiv 2505.22617. The paper's share is 0.002 (7B) and 0.0002 (32B); in its own code
    the setting is in percent.

    Args:
      source_logprobs: [B, T] float32, nats, l, of the policy that algo.entropy.source
        names.
      advantages: [B, T] float32, A.
      mask: [B, T] bool.
      share: of the tokens, at most four decimals.
    """
    cov = selections.covariance(source_logprobs, advantages, mask)
    return masked.top(cov, mask, masked.share(mask, share)).astype(jnp.float32)


@stages.declare(silent_at_zero=False, options={"strength": Range(0, 1_000)})
def kl_cov(
    logprobs: Array,
    old_logprobs: Array,
    ratio: Array,
    advantages: Array,
    selected: Array,
    *,
    strength: float = 1.0,
) -> Surrogate:
    """KL-Cov: no clip, and a pull towards the old policy on what is selected.

        L = -A r + strength * selected * |l - l_old|

    arXiv 2505.22617. At r = 1 the pull has no gradient.

    Args:
      logprobs, old_logprobs: [B, T] float32, nats.
      ratio, advantages: as in `ppo`.
      selected: [B, T] float32, from `algo.selection`.
      strength: of the pull.
    """
    pull = kl.estimate(logprobs, old_logprobs, estimator="abs")
    never = jnp.zeros(ratio.shape, bool)
    loss = -advantages * ratio + strength * selected * pull
    return Surrogate(loss, never, never, never)


STAGES = {
    "algo.selection": {"top_covariance": top_covariance},
    "algo.surrogate": {"kl_cov": kl_cov},
}
METHODS = {
    "kl_cov": row.Row(
        {
            **row.DAPO,
            "algo.selection": {"name": "top_covariance"},
            "algo.surrogate": {"name": "kl_cov"},
        },
        source="arXiv 2505.22617",
        open=f"share: 0.002 for 7B, 0.0002 for 32B; {row.STATISTICS}, as in its code",
    ),
}
