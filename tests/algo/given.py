"""A method on tokens with given advantages, as the tests of `algo` need it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hapo_jax.algo import batch_loss
from hapo_jax.algo.terms import Rows


class Tokens(NamedTuple):
    """What a loss may read, current policy included; [B, T], see `stages.NAMES`.

    A critic's values are 0 before the updates.
    """

    logprobs: jax.Array
    entropy: jax.Array | None
    old_logprobs: jax.Array
    old_entropy: jax.Array
    behavior_logprobs: jax.Array
    reference_logprobs: jax.Array | None
    advantages: jax.Array
    mask: jax.Array

    def current(self):
        """Of the current policy."""
        rank = jnp.full(self.mask.shape, 2.0)
        given = {"logprobs": self.logprobs, "entropy": self.entropy, "rank": rank}
        return {name: x for name, x in given.items() if x is not None}


def rows(tokens, rewards=None, group_ids=None):
    """Rows of tokens; without rewards they are 0 and every row is a group.

    What tokens do not say of the old policy follows from its log-probs: the token is
    all the mass there is, and a fifth more likely where others are cut.
    """
    size = len(tokens.mask)
    zeros = jnp.zeros(size)
    return Rows(
        mask=tokens.mask,
        old_logprobs=tokens.old_logprobs,
        old_entropy=tokens.old_entropy,
        behavior_logprobs=tokens.behavior_logprobs,
        reference_logprobs=tokens.reference_logprobs,
        rewards=zeros if rewards is None else rewards,
        scores=zeros if rewards is None else rewards,
        group_ids=jnp.arange(size) if group_ids is None else group_ids,
        prompt_ids=jnp.arange(size) if group_ids is None else group_ids,
        old_values=jnp.zeros(tokens.mask.shape),
        baselines=zeros,
        forks=jnp.arange(tokens.mask.size).reshape(tokens.mask.shape) % 3 == 0,
        old_square_sum=jnp.exp(2 * tokens.old_logprobs),
        old_cut_logprobs=tokens.old_logprobs + 0.2,
    )


def state(method, stats):
    """The method's first state, with these statistics of the entropies."""
    return {**method.init_state(), "entropy": stats}


def constants(method, tokens, stats, **others):
    """Those of the method but for the advantages, which are the tokens', and others."""
    given = jnp.where(tokens.mask, tokens.advantages, 0)
    return method.constants(rows(tokens), state(method, stats), given) | others


def terms(method, tokens, stats, **others):
    """`Method.terms` of whole rows."""
    given = constants(method, tokens, stats, **others)
    return method.terms(tokens.current(), given, state(method, stats))


def loss(method, tokens, stats, **others):
    """`batch_loss.rows_loss` of whole rows."""
    given = constants(method, tokens, stats, **others)
    return batch_loss.rows_loss(method, tokens.current(), given, state(method, stats))


def advantages(method, rewards, mask, group_ids, entropy=None):
    """[B, T] advantages of rewards; entropies are 1 where none are given."""
    numbers = jnp.ones(mask.shape) if entropy is None else entropy
    tokens = Tokens(numbers, None, numbers, numbers, numbers, numbers, numbers, mask)
    found = method.constants(rows(tokens, rewards, group_ids), method.init_state())
    return found["advantages"]


def fit(method, entropy, mask, previous):
    """Statistics of entropies as the method takes them."""
    tokens = Tokens(entropy, None, entropy, entropy, entropy, entropy, entropy, mask)
    return method.update_state(rows(tokens), state(method, previous))["entropy"]
