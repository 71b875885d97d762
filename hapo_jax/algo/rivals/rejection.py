"""Rejection masks: tokens or completions far from the sampler's policy are left out."""

import math

import jax
import jax.numpy as jnp

from hapo_jax.algo import importance, masked, row, stages
from hapo_jax.algo.ranges import Range

Array = jax.Array

LEVELS = ("token", "sum", "mean", "max")
ESTIMATORS = ("k1", "k2", "k3")


@stages.declare(
    by_rows=True,
    options={
        "level": LEVELS,
        "estimator": ESTIMATORS,
        "low": Range(0, 1, above=True),
        "high": Range(0, 1e9, above=True),
    },
)
def rejection(
    old_logprobs: Array,
    behavior_logprobs: Array,
    mask: Array,
    *,
    level: str = "mean",
    estimator: str = "k1",
    low: float = 0.999,
    high: float = 1.001,
) -> tuple[Array, Array]:
    """What lies within a trust region about the policy that was sampled from.

        d  = clip(old - behavior, -20, 20),   k1 = -d,   k2 = d**2 / 2,
        k3 = exp(d) - 1 - d,                  x  = k, or its sum, mean or maximum
        kept = log(low) <= x <= log(high)     for k1, the bounds of behavior over old
               x <= high                      for k2 and k3, nats

    verl, compute_rollout_rejection_mask. What is left out is not counted either. Known
    before the policy is run, so that it costs the learner nothing.

    Args:
      old_logprobs: [B, T] float32, nats, old policy at the base temperature.
      behavior_logprobs: [B, T] float32, nats, under the distribution drawn from.
      mask: [B, T] bool.
      level: "token", or over the tokens of a completion, which is kept whole or not.
      estimator: of the divergence.
      low: smallest ratio; of k1 alone.
      high: largest ratio for k1; largest divergence for k2 and k3, nats.
    """
    limit = importance.LOG_LIMIT
    d = jnp.clip(jnp.where(mask, old_logprobs - behavior_logprobs, 0), -limit, limit)
    x = {"k1": -d, "k2": jnp.square(d) / 2, "k3": jnp.exp(d) - 1 - d}[estimator]
    if level == "max":
        x = jnp.max(jnp.where(mask, x, -jnp.inf), axis=1, keepdims=True)
    elif level != "token":
        over = masked.sum if level == "sum" else masked.mean
        x = over(x, mask, axis=1)[:, None]
    if estimator == "k1":
        inside = (x >= math.log(low)) & (x <= math.log(high))
    else:
        inside = x <= high
    kept = mask & inside
    return kept, kept


STAGES = {"algo.mask": {"rejection": rejection}}
METHODS = {
    "reinforce_rejection": row.Row(
        {
            **row.GRPO,
            "algo.surrogate": {"name": "reinforce"},
            "algo.mask": {"name": "rejection"},
            "algo.aggregation": {"name": "token_mean"},
        },
        source="verl, bypass_pg_geo_rs",
        open="level, estimator and bounds: options of algo.mask; old policy against "
        "the sampler's, where verl's preset has the current one",
    ),
}
