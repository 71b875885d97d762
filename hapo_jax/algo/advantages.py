"""Advantages: from one reward per completion to one number per token.

All functions take `rewards` [B] float32, `mask` [B, T] bool and `group_ids` [B] int32
in [0, B), the prompt of each completion in any order, and return [B, T] float32, zero
outside the mask. Groups are added up by segment, so the rows of a group may lie on
different devices. Equal rewards in a group give exactly 0 (tested by max == min): with
a reward that float32 cannot represent, rounding over a tiny deviation would not.

A group of one has no baseline. `singleton` says what it gets: "zero", or "verl" for
the raw reward, as that library does.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from hapo_jax.algo import masked, stages
from hapo_jax.algo.ranges import Range

Array = jax.Array

SINGLETONS = ("zero", "verl")

# Added to a group's standard deviation, in units of reward; verl and HAPO use 1e-6.
STD_EPSILON = 1e-6

# Of every function here. It is computed once per step, before the policy is run.
_declare = stages.declare(
    by_rows=True,
    options={"singleton": SINGLETONS, "fallback": Range(0, 1e6)},
)


@_declare
def grpo(
    rewards: Array,
    mask: Array,
    group_ids: Array,
    *,
    scale_by_std: bool = True,
    singleton: str = "zero",
) -> Array:
    """Group-relative advantage: A = (R - mean_G) / (std_G + 1e-6).

    arXiv 2402.03300, outcome supervision. The deviation is that of a sample (divided
    by G - 1), as in TRL, verl and OpenRLHF.

    Args:
      rewards, mask, group_ids: see the module.
      scale_by_std: False leaves the division out (Dr.GRPO).
      singleton: what a group of one gets.

    Returns:
      [B, T] float32.
    """
    _check(rewards, mask, group_ids)
    centred, size = centre(rewards, group_ids)
    scaled = centred
    if scale_by_std:
        scaled = centred / (group_std(centred, size, group_ids) + STD_EPSILON)
    single = rewards / (1 + STD_EPSILON) if scale_by_std else rewards
    scaled = jnp.where(size == 1, _singleton(single, singleton), scaled)
    return per_token(scaled, mask)


@_declare
def dr_grpo(
    rewards: Array, mask: Array, group_ids: Array, *, singleton: str = "zero"
) -> Array:
    """Group-relative advantage without the deviation: A = R - mean_G.

    arXiv 2503.20783 (Dr.GRPO).
    """
    return grpo(rewards, mask, group_ids, scale_by_std=False, singleton=singleton)


@_declare
def rloo(
    rewards: Array, mask: Array, group_ids: Array, *, singleton: str = "zero"
) -> Array:
    """Leave-one-out baseline: A_i = R_i - mean_{j != i} R_j = G/(G-1) (R_i - mean_G).

    arXiv 2402.14740.
    """
    _check(rewards, mask, group_ids)
    centred, size = centre(rewards, group_ids)
    left_out = centred * size / jnp.maximum(size - 1, 1)
    left_out = jnp.where(size == 1, _singleton(rewards, singleton), left_out)
    return per_token(left_out, mask)


@_declare
def opo(
    rewards: Array, mask: Array, group_ids: Array, *, singleton: str = "zero"
) -> Array:
    """Length-weighted baseline: A_i = R_i - sum_j len_j R_j / sum_j len_j.

    arXiv 2505.23585 (OPO), the baseline of least variance.
    """
    _check(rewards, mask, group_ids)
    weights = masked.count(mask, axis=1)
    centred, size = centre(rewards, group_ids, weights)
    centred = jnp.where(size == 1, _singleton(rewards, singleton), centred)
    return per_token(centred, mask)


@stages.declare(
    by_rows=True, silent_at_zero=False, options={"gamma": Range(0, 1, above=True)}
)
def reinforce_pp(
    rewards: Array, mask: Array, group_ids: Array, *, gamma: float = 1.0
) -> Array:
    """REINFORCE++: returns to go, whitened over all tokens of the batch.

        return_t = gamma**(tokens of the completion after t) * R
        A        = (return - mean) / sqrt(var + 1e-8)

    arXiv 2501.03262. The group plays no part.

    Args:
      rewards, mask, group_ids: see the module.
      gamma: discount per token, in (0, 1].

    Returns:
      [B, T] float32.
    """
    _check(rewards, mask, group_ids)
    return masked.whiten(returns_to_go(rewards, mask, gamma=gamma), mask)


def returns_to_go(rewards: Array, mask: Array, *, gamma: float) -> Array:
    """gamma**(masked tokens after t) * R, [B, T] float32; 0 outside the mask."""
    present = mask.astype(jnp.float32)
    after = jnp.cumsum(present[:, ::-1], axis=1)[:, ::-1] - present
    return jnp.where(mask, rewards[:, None] * jnp.power(gamma, after), 0)


@_declare
def reinforce_pp_baseline(
    rewards: Array, mask: Array, group_ids: Array, *, singleton: str = "zero"
) -> Array:
    """REINFORCE++ with baseline: R - mean_G, whitened over all tokens of the batch.

    arXiv 2501.03262. A group of one enters the whitening with 0 or its raw reward.
    """
    baselined = dr_grpo(rewards, mask, group_ids, singleton=singleton)
    return masked.whiten(baselined, mask)


@_declare
def hapo_token_group(
    rewards: Array,
    mask: Array,
    group_ids: Array,
    *,
    fallback: float = 0.0,
    scale_by_std: bool = True,
    singleton: str = "zero",
) -> Array:
    """Token-level group average.

        A = (R - mu) / (sigma + 1e-6),   mu, sigma over all tokens of the group

    arXiv 2509.16591, token-level group average: each token of completion i carries
    R_i, so a completion weighs with its length; sigma is the population deviation.

    The public code gives a group the `grpo` advantages instead, raw reward for a group
    of one included, if any |A| of it reaches 5. It looks at padding as well, where the
    reward reads 0, so that the outcome depends on the padded length.

    Args:
      rewards, mask, group_ids: see the module.
      fallback: 5.0 for the rule of the public code, 0.0 for none.
      scale_by_std: False leaves the division by sigma out (and that of `grpo`).
      singleton: what a group of one gets; under the fallback rule only through `grpo`.

    Returns:
      [B, T] float32.
    """
    _check(rewards, mask, group_ids)
    lengths = masked.count(mask, axis=1)
    centred, size = centre(rewards, group_ids, lengths)
    divisor = jnp.ones_like(rewards)
    if scale_by_std:
        tokens = group_sum(lengths, group_ids)
        square = group_sum(lengths * jnp.square(centred), group_ids)
        divisor = jnp.sqrt(square / jnp.maximum(tokens, 1)) + STD_EPSILON
    token_level = centred / divisor
    if not fallback:
        single = jnp.where(size == 1, _singleton(rewards, singleton), token_level)
        return per_token(single, mask)
    baseline = group_mean(rewards, group_ids, lengths)
    in_padding = jnp.where(lengths < mask.shape[1], jnp.abs(baseline / divisor), 0)
    at_tokens = jnp.where(lengths > 0, jnp.abs(centred / divisor), 0)
    largest = group_max(jnp.maximum(in_padding, at_tokens), group_ids)
    group_level = grpo(
        rewards, mask, group_ids, scale_by_std=scale_by_std, singleton=singleton
    )
    fall_back = largest >= fallback
    return jnp.where(fall_back[:, None], group_level, per_token(token_level, mask))


def centre(
    rewards: Array, group_ids: Array, weights: Array | None = None
) -> tuple[Array, Array]:
    """(R - mean of its group, size of its group), [B] each; 0 for equal rewards.

    With weights [B] >= 0 the mean is weighted; completions of weight 0 have no part in
    it, nor in the question whether the rewards of the group are equal.
    """
    size = group_sum(jnp.ones_like(rewards), group_ids)
    weights = jnp.ones_like(rewards) if weights is None else weights
    counts = weights > 0
    high = group_max(jnp.where(counts, rewards, -jnp.inf), group_ids)
    low = -group_max(jnp.where(counts, -rewards, -jnp.inf), group_ids)
    centred = rewards - group_mean(rewards, group_ids, weights)
    return jnp.where(low < high, centred, 0), size


def group_std(centred: Array, size: Array, group_ids: Array) -> Array:
    """[B] deviation of a sample, of each row's group; of what `centre` gives."""
    square = group_sum(jnp.square(centred), group_ids)
    return jnp.sqrt(square / jnp.maximum(size - 1, 1))


def group_mean(rewards: Array, group_ids: Array, weights: Array) -> Array:
    """[B] weighted mean reward of each row's group; 0 where the weights are all 0."""
    total = group_sum(weights, group_ids)
    weighted = group_sum(weights * rewards, group_ids)
    return weighted / jnp.maximum(total, 1)


def group_sum(x: Array, group_ids: Array) -> Array:
    """[B] sum of x over each row's group."""
    size = x.shape[0]
    return jax.ops.segment_sum(x, group_ids, num_segments=size)[group_ids]


def group_max(x: Array, group_ids: Array) -> Array:
    """[B] maximum of x over each row's group."""
    size = x.shape[0]
    return jax.ops.segment_max(x, group_ids, num_segments=size)[group_ids]


def _singleton(raw: Array, singleton: str) -> Array:
    """What a group of one gets: 0 or its raw reward; [B]."""
    if singleton not in SINGLETONS:
        raise ValueError(f"{singleton=} must be one of {SINGLETONS}.")
    return raw if singleton == "verl" else jnp.zeros_like(raw)


def per_token(advantages: Array, mask: Array) -> Array:
    """[B] to [B, T], zero outside the mask."""
    return jnp.where(mask, advantages[:, None], 0)


def _check(rewards: Array, mask: Array, group_ids: Array) -> None:
    """Shapes and types that every advantage shares."""
    chex.assert_rank([rewards, mask, group_ids], [1, 2, 1])
    chex.assert_type([rewards, mask, group_ids], [jnp.float32, bool, jnp.int32])
    chex.assert_equal_shape_prefix([rewards, mask, group_ids], 1)


@stages.declare(by_rows=True, silent_at_zero=False)
def ones(rewards: Array, mask: Array, group_ids: Array) -> Array:
    """1 for every token: maximum likelihood, as for supervised fine-tuning."""
    _check(rewards, mask, group_ids)
    return per_token(jnp.ones_like(rewards), mask)


ADVANTAGES: dict[str, Callable[..., Array]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
    "opo": opo,
    "reinforce_pp": reinforce_pp,
    "reinforce_pp_baseline": reinforce_pp_baseline,
    "ones": ones,
}
