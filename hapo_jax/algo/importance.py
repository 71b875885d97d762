"""Truncated importance sampling: old policy against the one that was sampled from.

The sampler's log-probs differ from the learner's: another numerical path, and with
adaptive temperature or truncation another distribution, unless log-probs are of the one
drawn from (`algo.ratio_of`). Weights, computed once per step and treated as constants,
multiply the token loss after clipping; denominators do not change.
"""

import math

import chex
import jax
import jax.numpy as jnp

from hapo_jax.algo import masked, stages

Array = jax.Array

LEVELS = ("token", "sequence", "geometric")
OUTSIDE = ("clip", "zero")

# Clamp of a log-ratio before exp, nats; exp(20) = 5e8 is far beyond any cap.
LOG_LIMIT = 20.0


@stages.declare(by_rows=True)
def weights(
    old_logprobs: Array,
    behavior_logprobs: Array,
    mask: Array,
    *,
    level: str,
    outside: str,
    floor: float,
    cap: float,
    normalize: bool = False,
) -> Array:
    """w = exp(clip(old - behavior, -20, 20)), bounded.

    Args:
      old_logprobs: [B, T] float32, nats, old policy.
      behavior_logprobs: [B, T] float32, nats, under the distribution drawn from.
      mask: [B, T] bool.
      level: "token", or "sequence" for exp of the log-ratios summed over the row, or
        "geometric" for the geometric mean of the row's bounded weights, as verl's GMPO.
      outside: "clip" moves a weight outside [floor, cap] to the bound (truncated
        importance sampling), "zero" drops the token or sequence (IcePop).
      floor: smallest weight, >= 0.
      cap: largest weight, > floor.
      normalize: divide by the mean weight of the batch: over tokens, or over the rows
        that have tokens where all tokens of a row have one weight.

    Returns:
      [B, T] float32, 0 outside the mask; no gradient.
    """
    if level not in LEVELS or outside not in OUTSIDE:
        raise ValueError(f"{level=} not in {LEVELS} or {outside=} not in {OUTSIDE}.")
    chex.assert_equal_shape([old_logprobs, behavior_logprobs, mask])
    log_ratio = jnp.where(mask, old_logprobs - behavior_logprobs, 0)
    if level == "sequence":
        total = jnp.sum(log_ratio, axis=1, keepdims=True)
        log_ratio = jnp.broadcast_to(total, mask.shape)
    raw = jnp.exp(jnp.clip(log_ratio, -LOG_LIMIT, LOG_LIMIT))
    if outside == "clip":
        bounded = jnp.clip(raw, floor, cap)
    else:
        bounded = jnp.where((raw >= floor) & (raw <= cap), raw, 0)
    if level == "geometric":
        mean = masked.mean(jnp.log(bounded), mask, axis=1)[:, None]
        bounded = jnp.broadcast_to(jnp.exp(mean), mask.shape)
    bounded = jnp.where(mask, bounded, 0)
    if normalize:
        bounded = bounded / _mean_weight(bounded, mask, level)
    return jax.lax.stop_gradient(bounded)


def mean_sequence_weight(tokens: int, *, spread: float, cap: float) -> float:
    """Mean weight of level "sequence" where sampler and learner differ by noise alone.

        log w ~ N(-n s²/2, n s²),   E[min(w, cap)],   w of mean 1

    It falls with the length: nearly all completions have a weight near 0, and the few
    large ones are cut.

    Args:
      tokens: n, of a completion.
      spread: s, standard deviation of a token's log-ratio, nats, > 0.
      cap: largest weight.
    """
    variance = tokens * spread**2
    scale, bound = math.sqrt(variance), math.log(cap)

    def below(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    kept = below((bound - variance / 2) / scale)
    return kept + cap * below(-(bound + variance / 2) / scale)


def _mean_weight(bounded: Array, mask: Array, level: str) -> Array:
    """Mean weight per token, or per row with tokens; 1 where every weight is 0."""
    if level == "token":
        mean = masked.mean(bounded, mask)
    else:
        mean = masked.mean(jnp.max(bounded, axis=1), jnp.any(mask, axis=1))
    return jnp.where(mean > 0, mean, 1)
