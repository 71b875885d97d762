"""EGSPO: an entropy gate between whole and attenuated updates."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import masked, row, stages
from hapo_jax.algo.ranges import Range

Array = jax.Array

ATTENUATIONS = ("p(1-p)", "4p(1-p)")


@stages.declare(
    by_rows=True, options={"share": Range(0, 1), "attenuation": ATTENUATIONS}
)
def entropy_gate(
    advantages: Array,
    entropy: Array,
    source_logprobs: Array,
    mask: Array,
    *,
    share: float,
    attenuation: str,
) -> Array:
    """The most uncertain tokens learn as they would, the others by a part of it.

        A' = A          for the `share` of tokens with the highest entropies
        A' = phi A      for the others, phi = p (1 - p) or 4 p (1 - p)

    arXiv 2602.03309 (EGSPO), as far as its abstract goes: both branches are PPO with
    the advantage, and the second is attenuated by a phi. That it is CHORD's is a guess.
    A clipped surrogate times phi is that of phi A.

    Args:
      advantages: [B, T] float32.
      entropy: [B, T] float32, nats.
      source_logprobs: [B, T] float32, nats, log p.
      mask: [B, T] bool.
      share: of all tokens; at least one token.
      attenuation: one of `ATTENUATIONS`; the second is 1 at p = 1/2.

    Returns:
      [B, T] float32.
    """
    high = masked.top(entropy, mask, masked.share(mask, share))
    return _attenuated(advantages, source_logprobs, high, attenuation)


@stages.declare(options={"nats": Range(0, 100), "attenuation": ATTENUATIONS})
def entropy_gate_nats(
    advantages: Array,
    entropy: Array,
    source_logprobs: Array,
    *,
    nats: float,
    attenuation: str,
) -> Array:
    """`entropy_gate` with a threshold: uncertain is an entropy of at least `nats`.

    Args:
      advantages, entropy, source_logprobs, attenuation: see `entropy_gate`.
      nats: the threshold.

    Returns:
      [B, T] float32.
    """
    return _attenuated(advantages, source_logprobs, entropy >= nats, attenuation)


def _attenuated(advantages, logprobs, high, attenuation: str) -> Array:
    p = jnp.exp(logprobs)
    phi = p * (1 - p) * (4 if attenuation == ATTENUATIONS[1] else 1)
    return jnp.where(high, advantages, phi * advantages)


STAGES = {
    "algo.shaping": {
        "entropy_gate": entropy_gate,
        "entropy_gate_nats": entropy_gate_nats,
    }
}
METHODS = {
    "egspo": row.Row(
        {
            **row.GRPO,
            "algo.aggregation": {"name": "token_mean"},
            "algo.shaping": {"name": "entropy_gate"},
            "algo.imitation": {"name": "phi"},
            "algo.demonstrations.share": None,
            "algo.demonstrations.weight": None,
            "algo.demonstrations.schedule": None,
        },
        source="arXiv 2602.03309, its abstract",
        status="part",
        open="which tokens are uncertain (a share, or a threshold: "
        "algo.shaping.name=entropy_gate_nats), what attenuates the others, how many "
        "demonstrations there are beside the rollout, how much they weigh and for how "
        "long; here advantages are those of GRPO and demonstrations weigh by phi",
        given={
            "algo.shaping.share": 0.2,
            "algo.shaping.attenuation": "p(1-p)",
            "algo.demonstrations.share": 0.2,
            "algo.demonstrations.weight": 0.1,
            "algo.demonstrations.schedule": "constant",
        },
    ),
}
