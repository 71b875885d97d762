"""DeepSeek-V3.2's mask: wrong completions that the policy has moved away from."""

import jax

from hapo_jax.algo import masked, row, stages
from hapo_jax.algo.ranges import Range

Array = jax.Array


@stages.declare(by_rows=True, across_rows=False, options={"threshold": Range(0, 1e6)})
def off_policy(
    advantages: Array,
    behavior_logprobs: Array,
    logprobs: Array,
    mask: Array,
    *,
    threshold: float = 0.5,
) -> tuple[Array, Array]:
    """Off-policy sequence mask: a negative advantage acts near the sampler alone.

        left out:  A < 0  and  mean over the completion of (log π_b - log π) > threshold

    arXiv 2512.02556, §3.1, as in TRL. Denominators and the KL term keep all tokens.

    Args:
      advantages: [B, T] float32.
      behavior_logprobs: [B, T] float32, nats, under the distribution drawn from.
      logprobs: [B, T] float32, nats, current policy.
      mask: [B, T] bool.
      threshold: nats per token; the paper prints none, 0.5 is what TRL proposes.
    """
    divergence = masked.mean(behavior_logprobs - logprobs, mask, axis=1)[:, None]
    return mask & ~((advantages < 0) & (divergence > threshold)), mask


STAGES = {"algo.mask": {"off_policy": off_policy}}
METHODS = {
    "v32_mask": row.Row(
        {**row.GRPO, "algo.mask": {"name": "off_policy"}},
        source="arXiv 2512.02556, §3.1",
        status="part",
        open="the threshold, not printed: algo.mask.threshold is TRL's proposal. The "
        "paper's KL is algo.kl.estimator=k3r, its strength by domain",
    ),
}
