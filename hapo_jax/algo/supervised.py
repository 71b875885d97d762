"""Supervised losses: how much each token of a demonstration weighs.

    L = -weight * log π(token)

They read no advantage, no ratio and no reward. `hapo-sft` takes one by `loss.name`,
and a run of reinforcement learning that has demonstrations beside its rollout one by
`algo.imitation.name`. As surrogates they would imitate whatever was sampled.
"""

import jax
import jax.numpy as jnp

from hapo_jax.algo import stages
from hapo_jax.algo.losses import Surrogate
from hapo_jax.algo.row import Row

Array = jax.Array

# How the weight of demonstrations beside a rollout falls.
SCHEDULES = ("constant", "linear", "cosine")

_declare = stages.declare(silent_at_zero=False)


@_declare
def uniform(logprobs: Array) -> Surrogate:
    """Supervised: weight 1, maximum likelihood."""
    return _weighted(logprobs, jnp.ones_like(logprobs))


@_declare
def dft(logprobs: Array) -> Surrogate:
    """Supervised: weight p, the probability of the token, constant.

    arXiv 2508.05629 (dynamic fine-tuning). An unlikely token has hardly a gradient.
    """
    return _weighted(logprobs, jax.lax.stop_gradient(jnp.exp(logprobs)))


@_declare
def phi(logprobs: Array) -> Surrogate:
    """Supervised: weight p (1 - p), constant.

    arXiv 2508.11408 (CHORD) and its code. Neither a token that the policy knows nor one
    that it cannot believe has much of a gradient.
    """
    p = jax.lax.stop_gradient(jnp.exp(logprobs))
    return _weighted(logprobs, p * (1 - p))


@stages.declare(
    silent_at_zero=False, options={"base": ("p", "one"), "detach": (True, False)}
)
def ranktuner(
    logprobs: Array,
    entropy: Array,
    rank: Array,
    *,
    base: str = "p",
    detach: bool = True,
) -> Surrogate:
    """Supervised: weight w S, larger where the token's rank is bad for such an entropy.

        S = (p s)^-K,   s = 2^H / 4 + 1 with H in bits,   K = log2(max(R, s) + 1)^-2

    arXiv 2602.01745 (RankTuner), its practical form. w is p, as in its runs on
    mathematics, or 1. The paper does not say whether weights are constant.

    Args:
      logprobs: [B, T] float32, nats.
      entropy: [B, T] float32, nats.
      rank: [B, T] float32, R; 1 is the most probable token.
      base: w, "p" or "one".
      detach: the weight is a constant; otherwise the gradient goes through its p, too,
        but not through H.
    """
    p_of = jax.lax.stop_gradient(logprobs) if detach else logprobs
    expected = jnp.exp(entropy) / 4 + 1  # 2^H with H in bits is e^H with H in nats
    power = jnp.log2(jnp.maximum(rank, expected) + 1) ** -2
    log_weight = -power * (p_of + jnp.log(expected))
    if base == "p":
        log_weight += p_of
    return _weighted(logprobs, jnp.exp(log_weight))


def _weighted(logprobs: Array, weights: Array) -> Surrogate:
    never = jnp.zeros(logprobs.shape, bool)
    return Surrogate(-weights * logprobs, never, never, never)


def weight_beside(
    steps_done: Array,
    *,
    weight: float,
    schedule: str,
    final_weight: float,
    decay_steps: int,
) -> Array:
    """w of L = (1 - w) L_rollout + w L_demonstrations, float32 scalar.

        linear:  w = first + (final - first) x
        cosine:  w = final + (first - final) (1 + cos(pi x)) / 2
        x = min(steps / decay_steps, 1)

    arXiv 2508.11408 and its code, which falls by a cosine.

    Args:
      steps_done: int32 scalar, steps of the run before this one.
      weight: of the first step, in [0, 1].
      schedule: one of `SCHEDULES`.
      final_weight: in [0, 1], from `decay_steps` on; not read by "constant".
      decay_steps: > 0; not read by "constant".
    """
    if schedule == "constant":
        return jnp.float32(weight)
    x = jnp.minimum(steps_done / decay_steps, 1)
    fallen = x if schedule == "linear" else (1 - jnp.cos(jnp.pi * x)) / 2
    return weight + (final_weight - weight) * fallen


LOSSES = {"uniform": uniform, "dft": dft, "phi": phi, "ranktuner": ranktuner}
# Of hapo-sft; the name is that of the loss.
METHODS = {
    "uniform": Row({}, source="maximum likelihood"),
    "dft": Row({"loss": {"name": "dft"}}, source="arXiv 2508.05629"),
    "phi": Row({"loss": {"name": "phi"}}, source="arXiv 2508.11408 and its code"),
    "ranktuner": Row(
        {"loss": {"name": "ranktuner"}},
        source="arXiv 2602.01745",
        status="part",
        open="whether weights are constant: loss.detach; p or 1 before S: loss.base",
    ),
}
