"""STARE: surprising tokens count more or less, by the sign of their advantage."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hapo_jax.algo import masked, row, stages
from hapo_jax.algo.ranges import Range

Array = jax.Array


class Weights(NamedTuple):
    """Of the step: whether they apply, on positive and on negative advantages."""

    gate: Array
    positive: Array
    negative: Array


def init(w: float, m: float) -> Weights:
    """Before the first step."""
    return Weights(jnp.float32(0), jnp.float32(w), jnp.float32(m))


def update(values, state: Weights, target: float, alpha: float) -> Weights:
    """By the mean entropy of the step, under the policy before its updates."""
    mean = masked.mean(values["old_entropy"], values["mask"])
    gate = (mean < target).astype(jnp.float32)
    if not alpha:
        return state._replace(gate=gate)
    step = alpha * jnp.sign(target - mean)
    return Weights(
        gate,
        jnp.clip(state.positive + step, 1.0, 1.5),
        jnp.clip(state.negative - step, 0.5, 1.0),
    )


@stages.declare(
    by_rows=True,
    options={
        "variant": ("O1", "C2"),
        "share": Range(0, 1),
        "w": Range(1, 1_000),
        "m": Range(0, 1),
        "target": Range(0, 100),
        "alpha": Range(0, 1),
    },
    init=init,
    update=update,
)
def stare(
    source_logprobs: Array,
    advantages: Array,
    mask: Array,
    state: Weights,
    *,
    variant: str = "O1",
    share: float = 0.1,
    w: float = 1.1,
    m: float = 0.9,
    target: float = 0.3,
    alpha: float = 0.0,
) -> Array:
    """STARE: while entropy is low, advantages of surprising tokens are weighted.

        A' = W A   on the ceil(share * n) least probable tokens with A > 0
        A' = M A   on those with A < 0, in variant C2
        A' = A     elsewhere, and everywhere unless mean H < target

    arXiv 2606.19236; larger models have w = 1.05 and m = 0.95. The weights of the
    adaptive form move with each step: W by alpha, up while mean H < target and down
    otherwise, in [1, 1.5], M against it in [0.5, 1]. w = 1 and m = 1 is DAPO.

    Args:
      source_logprobs: [B, T] float32, nats, of the policy that algo.entropy.source
        names.
      advantages: [B, T] float32.
      mask: [B, T] bool.
      state: mean H is of the step, under the policy before its updates.
      variant: O1 weighs positive advantages alone.
      share: of the tokens with an advantage of the sign, at most four decimals.
      w, m: W and M, or where they start.
      target: nats.
      alpha: 0 for fixed weights; the paper's adaptive form has 0.01.

    Returns:
      [B, T] float32.
    """

    def surprising(pool):
        rest = masked.share(pool, round(1 - share, 4), least=0)
        return masked.top(-source_logprobs, pool, masked.size(pool) - rest)

    weights = jnp.where(surprising(mask & (advantages > 0)), state.positive, 1)
    if variant == "C2":
        negative = surprising(mask & (advantages < 0))
        weights = jnp.where(negative, state.negative, weights)
    return advantages * jnp.where(state.gate > 0, weights, 1)


STAGES = {"algo.shaping": {"stare": stare}}
METHODS = {
    "stare": row.Row(
        {**row.DAPO, "algo.shaping": {"name": "stare"}, "algo.clip.dual": 10.0},
        source="arXiv 2606.19236, and its published code",
        open=f"{row.STATISTICS}, as in its code",
    ),
}
