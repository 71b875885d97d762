"""DPPO: a trust region of the token's probability in place of its ratio."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import importance, row, stages
from hapo_jax.algo.losses import Surrogate
from hapo_jax.algo.ranges import Range

Array = jax.Array

# Inside logarithms of 1 - probability, as in verl.
PROBABILITY_EPSILON = 1e-8


@stages.declare(
    options={
        "divergence": ("tv", "kl"),
        "base": ("old", "behavior"),
        "weight": ("detached", "ratio"),
        "cap": Range(1, 1e9),
    }
)
def dppo(
    logprobs: Array,
    old_logprobs: Array,
    behavior_logprobs: Array,
    advantages: Array,
    clip_low: Array,
    clip_high: Array,
    *,
    divergence: str = "tv",
    base: str = "old",
    weight: str = "detached",
    cap: float = 20.0,
) -> Surrogate:
    """DPPO: no loss where the probability has moved too far the way A pushes it.

        D = |π - μ|  or  μ log(μ / π) + (1 - μ) log((1 - μ) / (1 - π))
        dropped:  A > 0, π > μ and D > high;   A < 0, π < μ and D > low
        L = -A * sg(min(r, cap)) * log π,  or  -A * r          of what is left

    arXiv 2602.04879, of the token against all others ("binary"), with r = π / μ. The
    widths of the clip range are bounds of D here, as in verl, whose weight is detached
    and whose μ is the old policy; SkyRL has the ratio, and the sampler's. What is
    dropped is counted.

    Args:
      logprobs, old_logprobs, behavior_logprobs: [B, T] float32, nats; the first is
        differentiable.
      advantages: [B, T] float32.
      clip_low, clip_high: [B, T] float32, bounds of D, in probability or nats.
      divergence: "tv" for the absolute difference, "kl" for the divergence.
      base: the policy μ.
      weight: "detached", bounded by cap; or "ratio", whose gradient is the same inside.
      cap: largest detached weight.
    """
    of_base = old_logprobs if base == "old" else behavior_logprobs
    fixed = jax.lax.stop_gradient(jnp.minimum(logprobs, 0))
    p, q = jnp.exp(fixed), jnp.exp(of_base)
    if divergence == "tv":
        distance = jnp.abs(p - q)
    else:
        rest = (1 - q + PROBABILITY_EPSILON) / (1 - p + PROBABILITY_EPSILON)
        distance = q * (of_base - fixed) + (1 - q) * jnp.log(rest)
    below = (advantages < 0) & (p < q) & (distance > clip_low)
    above = (advantages > 0) & (p > q) & (distance > clip_high)
    limit = importance.LOG_LIMIT
    ratio = jnp.exp(jnp.clip(logprobs - of_base, -limit, limit))
    if weight == "detached":
        ratio = jax.lax.stop_gradient(jnp.minimum(ratio, cap)) * logprobs
    loss = jnp.where(below | above, 0, -advantages * ratio)
    return Surrogate(loss, below, above, jnp.zeros_like(below))


def _row(divergence: str, width: float) -> row.Row:
    return row.Row(
        {
            **row.GRPO,
            "algo.surrogate": {"name": "dppo", "divergence": divergence},
            "algo.clip.low": width,
            "algo.clip.high": width,
            "algo.aggregation": {"name": "token_mean"},
        },
        source="arXiv 2602.04879, as in verl",
        open="the policy that starts the step or the sampler's, and the weight: "
        "algo.surrogate.base and .weight; the bound: algo.clip.low and .high",
    )


STAGES = {"algo.surrogate": {"dppo": dppo}}
METHODS = {"dppo_tv": _row("tv", 0.2), "dppo_kl": _row("kl", 0.05)}
