"""Entropy-adaptive sampling temperature. Called by the sampler at every position."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import entropy as entropy_lib

Array = jax.Array

SCORES = ("raw", "scaled")


def adaptive(
    entropy: Array,
    stats: entropy_lib.EntropyStats,
    *,
    base_temperature: Array | float,
    strength: float,
    min_factor: float,
    max_factor: float,
    floor: float,
    score: str = "raw",
    low_sign: str = "paper",
) -> Array:
    """Cooler where the policy is confident, hotter where it is uncertain.

        T_t = T_base * clip(1 + strength * h_t, min_factor, max_factor)

    arXiv 2509.16591, Eq. (8), plus the bounds: the raw score h has none, and one very
    confident token would otherwise drive the temperature to 0 or below.

    Args:
      entropy: [...] float32, nats, of the distribution at temperature 1.
      stats: of the previous step; `entropy.initial_stats()` gives the base temperature.
      base_temperature: float or float32 that broadcasts to the shape of entropy.
      strength: tau of the paper (0.1); 0 gives exactly the base temperature.
      min_factor: smallest multiple of the base temperature, in (0, 1].
      max_factor: largest multiple of the base temperature, >= 1.
      floor: nats, the one the statistics were fitted with.
      score: "raw", h of the paper, or "scaled", the score in [-1, 1] that the public
        code uses instead.
      low_sign: sign of the scaled score for confident tokens, see `entropy.score`.

    Returns:
      float32 of the shape of entropy.
    """
    if score not in SCORES:
        raise ValueError(f"{score=} must be one of {SCORES}.")
    base = jnp.broadcast_to(jnp.float32(base_temperature), entropy.shape)
    if strength == 0:
        return base
    if score == "raw":
        h = entropy_lib.raw_score(entropy, stats, floor=floor)
    else:
        h = entropy_lib.score(entropy, stats, floor=floor, low_sign=low_sign)
    return base * jnp.clip(1 + strength * h, min_factor, max_factor)
