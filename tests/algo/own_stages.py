"""Stages of a user's own, which configs name by `tests.algo.own_stages:function`."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import advantages as advantages_lib
from hapo_jax.algo import losses, masked, stages


@stages.declare(by_rows=True)
def uncertain(entropy, mask, *, quantile=0.8):
    """Tokens of high entropy."""
    threshold = masked.quantile(entropy, mask, quantile)
    selected = mask & (entropy >= threshold)
    return selected, selected


@stages.declare(by_rows=True)
def scarce(source_logprobs, advantages, mask):
    """The half of the tokens with an advantage that were least probable."""
    eligible = mask & (advantages != 0)
    threshold = masked.quantile(source_logprobs, eligible, 0.5)
    selected = eligible & (source_logprobs <= threshold)
    return selected, selected


@stages.declare(by_rows=True)
def over_groups(advantages, group_ids, old_entropy, mask):
    """Advantages times the size of the group, where the entropy is high."""
    size = advantages_lib.group_sum(jnp.ones(group_ids.shape), group_ids)
    return jnp.where(mask & (old_entropy > 1), advantages * size[:, None], advantages)


@stages.declare()
def weighted(logprobs, ratio, advantages, clip_low, clip_high):
    """A detached, bounded weight on the log-prob."""
    bounded = jax.lax.stop_gradient(jnp.clip(ratio, 1 - clip_low, 1 + clip_high))
    never = jnp.zeros(ratio.shape, bool)
    return losses.Surrogate(-bounded * advantages * logprobs, never, never, never)


@stages.declare()
def by_rank(ratio, advantages, rank):
    """Less of a token, the more there are that are more probable."""
    never = jnp.zeros(ratio.shape, bool)
    return losses.Surrogate(-ratio * advantages / rank, never, never, never)


def undeclared(ratio, advantages):
    never = jnp.zeros(ratio.shape, bool)
    return losses.Surrogate(-ratio * advantages, never, never, never)


def _mean_reward(values, state, decay):
    return decay * state + (1 - decay) * values["rewards"].mean()


@stages.declare(by_rows=True, init=lambda: jnp.float32(0), update=_mean_reward)
def above_mean(rewards, mask, state, *, decay=0.5):
    return jnp.where(mask, rewards[:, None] - state, 0)


def reads_nonsense(entropies):
    return entropies


@stages.declare()
def reads_rewards(ratio, rewards):
    return ratio * rewards


@stages.declare()
def reads_values(advantages, values):
    return advantages - values


@stages.declare()
def reads_logprobs(values, logprobs):
    return values * logprobs


def by_ratio(ratio):
    """A token's pass by what only the current policy knows."""
    return ratio > 1
