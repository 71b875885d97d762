"""The entropy score: statistics of a batch, and the score of a token under them.

The only copy of the normalisation. The sampler calls it with the statistics of the
previous step (temperature), the learner with those of the current one (clip range and
redistribution). Entropies are in nats, of the untempered distribution.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from hapo_jax.algo import masked

Array = jax.Array

SPREADS = ("std", "quantile_rms")
LOW_SIGNS = ("paper", "public")
CONTROLS = ("none", "shuffled", "constant")

# Floor of the public code's spread, so that equal entropies do not divide by zero.
_PUBLIC_MIN_SPREAD = 1e-4


class EntropyStats(NamedTuple):
    """Statistics of x = log(entropy) over one batch; float32 scalars.

    Attributes:
      quantile: the order statistic Q of x that separates confident from uncertain.
      std: the spread sigma of x; inf where there is none, then every raw score is 0.
      max_score: largest raw score (x - Q) / std of the batch, >= 0.
      min_score: smallest raw score of the batch, <= 0.
    """

    quantile: Array
    std: Array
    max_score: Array
    min_score: Array


def initial_stats() -> EntropyStats:
    """Statistics before the first batch: std = inf.

    Every raw score is then 0, so every temperature is the base temperature, every
    clip range the plain one, and no advantage is redistributed.
    """
    zero = jnp.zeros((), jnp.float32)
    return EntropyStats(zero, jnp.full((), jnp.inf, jnp.float32), zero, zero)


def of_logits(logits: Array) -> Array:
    """H = log(sum(exp(l))) - sum(p l), of the untempered distribution.

    Args:
      logits: [..., V] float32, finite.

    Returns:
      [...] float32, nats, >= 0 up to rounding.
    """
    peak = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    return of_shifted_logits(logits - peak)[0]


def of_shifted_logits(logits: Array) -> tuple[Array, Array]:
    """`of_logits` for logits whose maximum is 0, and log(sum(exp(l))), [...] each."""
    weights = jnp.exp(logits)
    total = weights.sum(-1)
    log_total = jnp.log(total)
    return log_total - (weights * logits).sum(-1) / total, log_total


def fit(
    entropy: Array,
    mask: Array,
    *,
    quantile: float,
    floor: float,
    spread: str = "std",
    previous: EntropyStats,
) -> EntropyStats:
    """Statistics of the log-entropies of a batch.

        x = log(max(entropy, floor)),  h = (x - Q(x)) / sigma(x)

    arXiv 2509.16591, section on the entropy score. The paper fixes neither the rule of
    the quantile nor the kind of sigma; here Q is the exact order statistic of
    `masked.quantile`. A batch without spread gives std = inf for spread "std", so that
    a later batch is not scored on a scale that was never seen.

    Args:
      entropy: [B, T] float32 in nats, any value outside the mask.
      mask: [B, T] bool.
      quantile: in [0, 1]; the paper uses 0.8.
      floor: nats; smaller entropies count as this. It shapes the score: one token at
        1e-8 sets min_score for all.
      spread: "std", the population standard deviation, or "quantile_rms", the root
        mean square about Q that the public code uses. It cancels in the scaled score
        and matters for a temperature made from the raw one.
      previous: returned unchanged if the mask is empty.

    Returns:
      EntropyStats of float32 scalars.
    """
    chex.assert_rank([entropy, mask], 2)
    chex.assert_equal_shape([entropy, mask])
    x = _log(jnp.where(mask, entropy, 1.0), floor)
    pivot = masked.quantile(x, mask, quantile)
    low, high = masked.min(x, mask), masked.max(x, mask)
    if spread == "std":
        std = jnp.where(low < high, masked.std(x, mask), jnp.inf)
    elif spread == "quantile_rms":
        square = masked.mean(jnp.square(x - pivot), mask)
        std = jnp.maximum(jnp.sqrt(square), _PUBLIC_MIN_SPREAD)
    else:
        raise ValueError(f"{spread=} must be one of {SPREADS}.")
    fitted = EntropyStats(pivot, std, (high - pivot) / std, (low - pivot) / std)
    fitted = jax.lax.stop_gradient(fitted)
    keep = jnp.any(mask)
    return jax.tree.map(lambda new, old: jnp.where(keep, new, old), fitted, previous)


def raw_score(entropy: Array, stats: EntropyStats, *, floor: float) -> Array:
    """h = (log(max(entropy, floor)) - Q) / sigma; negative = confident.

    Args:
      entropy: float32 of any shape, nats.
      stats: of the batch that sets the scale.
      floor: nats, the one the statistics were fitted with.

    Returns:
      float32 of the shape of entropy, unbounded; no gradient.
    """
    h = (_log(entropy, floor) - stats.quantile) / stats.std
    return jax.lax.stop_gradient(h)


def score(
    entropy: Array, stats: EntropyStats, *, floor: float, low_sign: str = "paper"
) -> Array:
    """Entropy score in [-1, 1]; negative = confident, 0 at the quantile.

        h / h_max      for h > 0
        h / |h_min|    for h <= 0

    A side on which the statistics saw no token (h_max or h_min = 0) has no scale and
    scores 0. A token beyond the extremes of the statistics, possible when they come
    from another batch, is clipped to the end of the range.

    Args:
      entropy: float32 of any shape, nats.
      stats: of the batch that sets the scale.
      floor: nats, the one the statistics were fitted with.
      low_sign: "paper", or "public" for h / h_min on the lower side, which makes
        confident tokens positive: the sign error of the public code.

    Returns:
      float32 of the shape of entropy in [-1, 1]; no gradient.
    """
    if low_sign not in LOW_SIGNS:
        raise ValueError(f"{low_sign=} must be one of {LOW_SIGNS}.")
    h = raw_score(entropy, stats, floor=floor)
    low = _scale(h, -stats.min_score)
    if low_sign == "public":
        low = -low
    scaled = jnp.where(h > 0, _scale(h, stats.max_score), low)
    return jax.lax.stop_gradient(jnp.clip(scaled, -1, 1))


def shuffled(entropy: Array, mask: Array, key: Array) -> Array:
    """A control: each completion keeps its entropies, and its tokens swap them.

    Statistics of a batch stay as they are, and so do the sums of a completion's scores.
    What a method still gains by them is not due to which token is uncertain.

    Args:
      entropy: [B, T] float32, nats.
      mask: [B, T] bool; what is outside stays where it is.
      key: random, consumed.

    Returns:
      [B, T] float32.
    """
    chex.assert_rank([entropy, mask], 2)
    columns = jnp.arange(mask.shape[1])
    behind = jnp.where(mask, 0, 1 + columns)  # in their order, behind the tokens
    noise = jax.random.uniform(key, mask.shape)
    source = jnp.argsort(jnp.where(mask, noise, behind), axis=1)
    place = jnp.argsort(behind, axis=1, stable=True)
    drawn = jnp.take_along_axis(entropy, source, axis=1)
    return jax.vmap(lambda at, x: jnp.zeros_like(x).at[at].set(x))(place, drawn)


def constant(entropy: Array, mask: Array, *, floor: float) -> Array:
    """A control: every token has the geometric mean of the batch's entropies.

    Its raw score is then the mean raw score of the batch.

    Args:
      entropy, mask: see `shuffled`.
      floor: nats, see `fit`.

    Returns:
      [B, T] float32; what is outside the mask stays as it is.
    """
    return jnp.where(mask, jnp.exp(masked.mean(_log(entropy, floor), mask)), entropy)


def _scale(h: Array, extreme: Array) -> Array:
    """h / extreme, and 0 where the extreme is 0."""
    scaled = h / jnp.maximum(extreme, masked.EPSILON)
    return jnp.where(extreme > masked.EPSILON, scaled, 0)


def _log(entropy: Array, floor: float) -> Array:
    """Natural logarithm of an entropy that counts as at least `floor` nats."""
    return jnp.log(jnp.maximum(entropy, floor))
