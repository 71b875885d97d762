"""The clipped surrogate per token, and the ways to add tokens up.

Losses are quantities to minimise. An aggregation is (weights [B, T], denominator) of a
mask [B, T] alone: the loss is the sum over tokens of weight times token loss, divided
once by the denominator (by 1 where that is 0). So the weight of a token is known before
the policy is run, and sums over any parts of a mini-batch add up to the sum over the
whole: how it is cut changes nothing, `token_mean_micro` excepted, whose point it is.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from hapo_jax.algo import masked, stages
from hapo_jax.algo.ranges import Range

Array = jax.Array


class Surrogate(NamedTuple):
    """A policy loss per token and which bound acted; [B, T] each.

    Attributes:
      loss: float32.
      clipped_low: bool, the ratio is below its range; PPO's gradient is 0 there.
      clipped_high: bool, the ratio is above its range; PPO's gradient is 0 there.
      dual_clipped: bool, the dual clip acts; PPO's gradient is 0 there.
    """

    loss: Array
    clipped_low: Array
    clipped_high: Array
    dual_clipped: Array


@stages.declare()
def importance_ratio(logprobs: Array, old_logprobs: Array, *, limit: float) -> Array:
    """r = exp(clip(logprobs - old_logprobs, -limit, limit)).

    Args:
      logprobs: [B, T] float32, nats; differentiable.
      old_logprobs: [B, T] float32, nats.
      limit: nats; beyond it the gradient is 0. inf for none, as in the public code:
        a log-ratio above 88 then overflows and the gradient is NaN.

    Returns:
      [B, T] float32 > 0.
    """
    chex.assert_equal_shape([logprobs, old_logprobs])
    log_ratio = logprobs - jax.lax.stop_gradient(old_logprobs)
    return jnp.exp(jnp.clip(log_ratio, -limit, limit))


@stages.declare()
def ppo(
    ratio: Array, advantages: Array, clip_low: Array, clip_high: Array, *, dual: float
) -> Surrogate:
    """Clipped surrogate of PPO, with an optional dual clip.

        L = max(-A r, -A clip(r, 1 - low, 1 + high))
        L = min(L, -A dual)                                  for A < 0, if dual > 0

    arXiv 1707.06347, Eq. (7); dual clip: arXiv 1912.09729, Eq. (5). Written as -A times
    a bounded ratio, which is the same and has the whole gradient at the edges of the
    range, where a maximum of two equal branches would share it out.

    Args:
      ratio: [B, T] float32, differentiable.
      advantages: [B, T] float32, constant.
      clip_low: [B, T] float32, width of the range below 1.
      clip_high: [B, T] float32, width of the range above 1.
      dual: largest ratio that a negative advantage sees, > 1; 0 for no dual clip.

    Returns:
      Surrogate.
    """
    chex.assert_equal_shape([ratio, advantages, clip_low, clip_high])
    clipped_low = (advantages < 0) & (ratio < 1 - clip_low)
    clipped_high = (advantages > 0) & (ratio > 1 + clip_high)
    dual_clipped = jnp.zeros_like(clipped_low)
    bounded = jnp.where(clipped_low, 1 - clip_low, ratio)
    bounded = jnp.where(clipped_high, 1 + clip_high, bounded)
    if dual:
        dual_clipped = (advantages < 0) & (ratio > dual)
        bounded = jnp.where(dual_clipped, dual, bounded)
    return Surrogate(-advantages * bounded, clipped_low, clipped_high, dual_clipped)


@stages.declare()
def reinforce(logprobs: Array, advantages: Array) -> Surrogate:
    """L = -A log π(token), the plain policy gradient: no ratio, no clip."""
    never = jnp.zeros(logprobs.shape, bool)
    return Surrogate(-advantages * logprobs, never, never, never)


SURROGATES: dict[str, Callable[..., Surrogate]] = {
    "ppo": ppo,
    "reinforce": reinforce,
}


@stages.declare()
def token_mean(mask: Array) -> tuple[Array, Array]:
    """Every token alike: the mean over the tokens of the mini-batch."""
    return mask.astype(jnp.float32), masked.count(mask)


@stages.declare(by_rows=True)
def token_mean_micro(mask: Array) -> tuple[Array, Array]:
    """The mean over the tokens of this micro-batch, times its rows: public HAPO.

    Not invariant: a token in a short micro-batch weighs more. Rows are those with at
    least one token, so rows that only fill a micro-batch up do not count.
    """
    rows = _filled_rows(mask)
    return mask * (rows / jnp.maximum(masked.count(mask), 1)), rows


@stages.declare()
def seq_mean_token_mean(mask: Array) -> tuple[Array, Array]:
    """The mean over rows of the row's token mean: GRPO's paper."""
    lengths = jnp.maximum(masked.count(mask, axis=1), 1)
    return mask / lengths[:, None], _filled_rows(mask)


@stages.declare()
def seq_mean_token_sum(mask: Array) -> tuple[Array, Array]:
    """The mean over rows of the row's sum."""
    return mask.astype(jnp.float32), _filled_rows(mask)


@stages.declare(options={"scale_tokens": Range(0, 1e9, above=True)})
def seq_mean_token_sum_norm(mask: Array, *, scale_tokens: float) -> tuple[Array, Array]:
    """The mean over rows of the row's sum / scale_tokens: Dr.GRPO.

    `scale_tokens` is a constant, the longest completion that may be sampled. With the
    padded length of the batch the step size would change from batch to batch.
    """
    return mask / jnp.float32(scale_tokens), _filled_rows(mask)


@stages.declare()
def token_sum(mask: Array) -> tuple[Array, Array]:
    """The sum over tokens; its denominator of 0 stands for no division."""
    return mask.astype(jnp.float32), jnp.zeros((), jnp.float32)


def _filled_rows(mask: Array) -> Array:
    """Number of rows with at least one token, float32 scalar."""
    return masked.count(jnp.any(mask, axis=1))


RATIOS: dict[str, Callable[..., Array]] = {"token": importance_ratio}
AGGREGATIONS: dict[str, Callable[..., tuple[Array, Array]]] = {
    "token_mean": token_mean,
    "token_mean_micro": token_mean_micro,
    "seq_mean_token_mean": seq_mean_token_mean,
    "seq_mean_token_sum": seq_mean_token_sum,
    "seq_mean_token_sum_norm": seq_mean_token_sum_norm,
    "token_sum": token_sum,
}
