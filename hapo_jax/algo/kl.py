"""Estimators of the KL divergence from single samples, per token."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from hapo_jax.algo import stages
from hapo_jax.algo.ranges import Range

Array = jax.Array

ESTIMATORS = ("k1", "abs", "k2", "k3", "k3r", "k1+", "abs+", "k3+")


def estimate(
    logprobs: Array,
    reference_logprobs: Array,
    *,
    estimator: str,
    limit: float = 20.0,
    cap: float = 10.0,
    ratio: Array | float = 1.0,
) -> Array:
    """KL(policy | reference) of the sampled token, with d = logprobs - reference.

        k1 = d    abs = |d|    k2 = d**2 / 2    k3 = exp(-d) + d - 1    k3r = k3 * ratio

    http://joschu.net/blog/kl-approx.html. As a loss on samples of the policy, k1 has an
    expected gradient of 0, k2 that of the reverse KL, k3 that of the forward KL. On
    samples of the old policy k3r has the value and gradient of the reverse KL (arXiv
    2512.02556). A trailing "+" keeps the value and takes the gradient of k2
    (straight-through).

    Args:
      logprobs: float32 of any shape, nats; differentiable.
      reference_logprobs: float32 of the same shape, nats.
      estimator: one of `ESTIMATORS`.
      limit: k3 only; -d is clipped to [-limit, limit], no gradient beyond.
      cap: k3 only; the value is clipped to [-cap, cap], no gradient beyond.
      ratio: k3r only; importance ratio of the policy to the one sampled from, float32
        of the same shape, differentiable.

    Returns:
      float32 of the shape of logprobs, nats.

    Raises:
      ValueError: unknown estimator.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"{estimator=} must be one of {ESTIMATORS}.")
    difference = logprobs - jax.lax.stop_gradient(reference_logprobs)
    name = estimator.rstrip("+r")
    if name == "k1":
        value = difference
    elif name == "abs":
        # Not jnp.abs, whose gradient at 0 is 1: equal policies must not be pulled.
        value = difference * jnp.sign(difference)
    elif name == "k2":
        value = jnp.square(difference) / 2
    else:
        d = jnp.clip(difference, -limit, limit)
        value = jnp.clip(jnp.exp(-d) + d - 1, -cap, cap)
    if estimator == name:
        return value
    if estimator == "k3r":
        return value * ratio
    k2 = jnp.square(difference) / 2
    return k2 + jax.lax.stop_gradient(value - k2)


@stages.declare(silent_at_zero=False)
def term(
    logprobs: Array,
    reference_logprobs: Array,
    ratio: Array,
    *,
    strength: float,
    estimator: str,
    limit: float,
    cap: float,
) -> Array:
    """strength * KL(policy | reference); options as in `estimate`."""
    kl = estimate(
        logprobs,
        reference_logprobs,
        estimator=estimator,
        limit=limit,
        cap=cap,
        ratio=ratio,
    )
    return strength * kl


@stages.declare()
def none(mask: Array) -> Array:
    """No regulariser."""
    return jnp.zeros(mask.shape, jnp.float32)


@stages.declare(
    silent_at_zero=False,
    options={"strength": Range(0, 1_000), "estimator": ESTIMATORS[1:]},
)
def selected_reference(
    logprobs: Array,
    reference_logprobs: Array,
    selected: Array,
    *,
    strength: float = 1.0,
    estimator: str = "k3",
) -> Array:
    """selected * strength * KL(policy | reference).

    Args:
      logprobs, reference_logprobs: [B, T] float32, nats.
      selected: [B, T] float32, from `algo.selection`.
      strength: where `selected` is 1.
      estimator: see `estimate`; not k1, whose expected gradient is 0.
    """
    kl = estimate(logprobs, reference_logprobs, estimator=estimator)
    return selected * strength * kl


# Beside the KL term, which has settings of its own.
REGULARISERS: dict[str, Callable[..., Array]] = {
    "none": none,
    "selected_reference": selected_reference,
}
