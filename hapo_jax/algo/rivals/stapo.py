"""STAPO: improbable tokens of low entropy are not rewarded."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import masked, row, stages
from hapo_jax.algo.ranges import Range

Array = jax.Array


@stages.declare(
    by_rows=True,
    options={
        "tau_p": Range(0, 1),
        "quantile": Range(0, 1),
        "entropy_pool": ("low_prob_correct", "all"),
        "tau_h": Range(0, 100),
    },
)
def stapo(
    source_logprobs: Array,
    entropy: Array,
    advantages: Array,
    mask: Array,
    *,
    tau_p: float = 0.002,
    quantile: float = 0.75,
    entropy_pool: str = "low_prob_correct",
    tau_h: float = 0.0,
) -> tuple[Array, Array]:
    """STAPO: leaves out spurious tokens, improbable ones where the policy was certain.

        spurious = A > 0  and  p < tau_p  and  H < tau_h
        tau_h    = quantile of H over the tokens with A > 0 and p < tau_p

    arXiv 2602.15620. Spurious tokens leave the denominator as well. The quantile is by
    linear interpolation. tau_p = 0 is DAPO.

    Args:
      source_logprobs, entropy: [B, T] float32, nats, of the policy that
        algo.entropy.source names.
      advantages: [B, T] float32.
      mask: [B, T] bool.
      tau_p: probability below which a token is improbable.
      quantile: at most four decimals.
      entropy_pool: tokens that the quantile is of; "all" as in the paper's first
        version, whose quantile is 0.8.
      tau_h: nats, in place of the quantile; 0 for the quantile.

    Returns:
      (kept, kept).
    """
    improbable = mask & (advantages > 0) & (jnp.exp(source_logprobs) < tau_p)
    threshold = jnp.float32(tau_h)
    if not tau_h:
        pool = mask if entropy_pool == "all" else improbable
        index = masked.order_index(masked.size(pool), quantile, rounding="up")
        threshold = masked.order_statistic(entropy, pool, index)
    kept = mask & ~(improbable & (entropy < threshold))
    return kept, kept


STAGES = {"algo.mask": {"stapo": stapo}}
METHODS = {
    "stapo": row.Row(
        {
            **row.DAPO,
            "algo.mask": {"name": "stapo"},
            "rollout.dynamic_sampling": False,
        },
        source="arXiv 2602.15620",
        open=f"{row.STATISTICS}; the paper's are of a mini-batch under the current one",
    ),
}
