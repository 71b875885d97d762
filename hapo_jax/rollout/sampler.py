"""Draws one token per row, and reads prompts: the mathematics of sampling.

At every position the entropy of the untempered distribution sets the temperature
(`algo/temperature.py`), the token is drawn from the tempered and truncated
distribution, and what the learner must know about it is recorded. `slots.py` does this
for many positions in a jitted scan, `schedule.py` for any number of requests.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hapo_jax.algo import entropy as entropy_lib
from hapo_jax.algo import masked
from hapo_jax.model import decoding, transformer
from hapo_jax.rollout.batch import NO_CUT, TokenRecord

Array = jax.Array
# (entropy [B], state of the method, base_temperature [B]) -> temperature [B]
TemperatureFn = Callable[[Array, entropy_lib.EntropyStats, Array], Array]


class Truncation(NamedTuple):
    """Which tokens may be drawn; applied to the tempered distribution in this order.

    Tokens as likely as the last one kept are kept too, so the kept set does not
    depend on how a sort breaks ties.

    Attributes:
      top_k: keep the k most likely; 0 keeps all.
      top_p: then the fewest most likely with at least this mass; in (0, 1].
      min_p: then those at least this fraction as likely as the likeliest; in [0, 1).
    """

    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


class Sampling(NamedTuple):
    """How completions are drawn, fixed for a set of programs.

    Attributes:
      stop_ids: tokens that end a completion; they are part of it.
      pad_id: fills what is behind a completion and before a prompt.
      truncation: which tokens may be drawn.
      temperature_fn: entropy → temperature; None for the base temperature.
    """

    stop_ids: tuple[int, ...]
    pad_id: int
    truncation: Truncation = Truncation()
    temperature_fn: TemperatureFn | None = None


def row_keys(
    seed: int, step: int, prompt_ids: np.ndarray, sample_ids: np.ndarray
) -> Array:
    """One key per row from (seed, step, prompt, sample); see `row_uniforms`.

    Args:
      seed: of the run.
      step: optimizer step that the rollout is for.
      prompt_ids: [B] row of each problem in its data set.
      sample_ids: [B] which of the prompt's completions.

    Returns:
      [B] keys.
    """
    seeds = np.broadcast_to(seed, prompt_ids.shape)
    steps = np.broadcast_to(step, prompt_ids.shape)
    return _row_keys(
        *(np.asarray(x, np.uint32) for x in (seeds, steps, prompt_ids, sample_ids))
    )


@jax.jit
@jax.vmap
def _row_keys(seed, step, prompt_id, sample_id):
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.random.fold_in(jax.random.fold_in(key, prompt_id), sample_id)


def row_uniforms(keys: Array, positions: Array) -> Array:
    """[B] keys and int32 positions in the completion → [B] float32 in [0, 1)."""
    return jax.vmap(lambda key, t: jax.random.uniform(jax.random.fold_in(key, t)))(
        keys, positions
    )


def draw(
    logits: Array,
    uniforms: Array,
    method_state,
    base_temperature: Array,
    *,
    truncation: Truncation,
    temperature_fn: TemperatureFn | None,
) -> tuple[Array, TokenRecord]:
    """One token per row by inverse CDF, and what the learner must know about it.

    Args:
      logits: [B, V] float32, untempered.
      uniforms: [B] float32 in [0, 1), one per row.
      method_state: of the method, after the last step, for the temperature.
      base_temperature: [B] float32; 0 means greedy: the likeliest token, recorded with
        temperature 0 and behavior log-prob 0.
      truncation: which tokens may be drawn.
      temperature_fn: entropy → temperature; None for the base temperature.

    Returns:
      [B] int32 tokens, and their TokenRecord.
    """
    # Everything below is the same for logits shifted to a maximum of 0, and no
    # exponential needs another maximum then.
    logits = logits - logits.max(-1, keepdims=True)
    entropy, log_total = entropy_lib.of_shifted_logits(logits)
    temperature = base_temperature
    if temperature_fn is not None:
        temperature = temperature_fn(entropy, method_state, base_temperature)
    greedy = base_temperature <= 0
    tempered = logits / jnp.where(greedy, 1.0, temperature)[:, None]
    tempered = truncate(tempered, truncation)
    cut_logit = _cut_logit(logits, tempered, truncation)
    weights = jnp.exp(tempered)
    token = inverse_cdf(weights, uniforms).astype(jnp.int32)
    token = jax.lax.cond(
        greedy.any(),  # an argmax costs as much as the rest, and is seldom wanted
        lambda: jnp.where(greedy, logits.argmax(-1).astype(jnp.int32), token),
        lambda: token,
    )
    behavior = _pick(tempered, token) - jnp.log(weights.sum(-1))
    base_temperature = jnp.where(greedy, 1.0, base_temperature)
    base_log_total = jax.lax.cond(
        (base_temperature == 1.0).all(),
        lambda: log_total,
        lambda: jax.nn.logsumexp(logits / base_temperature[:, None], axis=-1),
    )
    return token, TokenRecord(
        entropy=entropy,
        temperature=jnp.where(greedy, 0.0, temperature),
        cut_logit=jnp.where(greedy, NO_CUT, cut_logit),
        behavior_logprobs=jnp.where(greedy, 0.0, behavior),
        base_logprobs=_pick(logits, token) / base_temperature - base_log_total,
    )


def truncate(logits: Array, truncation: Truncation) -> Array:
    """Sets the logits [B, V] of tokens that must not be drawn to -inf."""
    top_k, top_p, min_p = truncation
    if top_k and top_k < logits.shape[-1]:
        logits = _cut(logits, jnp.ones_like(logits), top_k)
    if top_p < 1.0:
        logits = _cut(logits, jax.nn.softmax(logits, axis=-1), top_p)
    if min_p > 0.0:
        least = logits.max(-1, keepdims=True) + np.log(min_p)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits


def _cut_logit(logits: Array, truncated: Array, truncation: Truncation) -> Array:
    """What separates the logits [B, V] of tokens that were kept from the others; [B].

    Halfway between the last that was kept and the first that was not. At the former
    itself, half of all later passes over the same policy would lose the token, since
    they round its logit in another way.
    """
    if truncation == Truncation():
        return jnp.full(len(logits), NO_CUT)
    kept = truncated > -jnp.inf
    last = jnp.where(kept, logits, jnp.inf).min(-1)
    first = jnp.where(kept, -jnp.inf, logits).max(-1)
    return jnp.maximum((last + first) / 2, NO_CUT)


def _cut(logits: Array, weights: Array, enough: float) -> Array:
    """Keeps the fewest largest logits whose weights sum to `enough`; [B, V].

    Finds the smallest of them without a sort, which takes 12 times as long: bit by bit
    from the highest, on the order-preserving image of float32, as `masked.quantile`.
    """
    image = masked.ordered_bits(logits)

    def enough_kept(bits: Array) -> Array:
        kept = jnp.where(image >= bits, weights, 0).sum(-1, keepdims=True)
        return kept >= enough

    least = masked.largest_bits(enough_kept, (len(logits), 1))
    return jnp.where(image < least, -jnp.inf, logits)


_BLOCK = 128  # of the vocabulary; two short prefix sums instead of one long


def inverse_cdf(weights: Array, uniforms: Array) -> Array:
    """The token at fraction `uniforms` of the summed weights.

    Two levels: first the block of the vocabulary, then the token within it. A weight
    of zero is never chosen, whatever the rounding of the sums.

    Args:
      weights: [B, V] float32, non-negative, not all zero in a row.
      uniforms: [B] float32 in [0, 1).

    Returns:
      [B] int32.
    """
    B, V = weights.shape
    blocks = jnp.pad(weights, [(0, 0), (0, -V % _BLOCK)]).reshape(B, -1, _BLOCK)
    sums = blocks.sum(-1)
    cdf = jnp.cumsum(sums, -1)
    target = uniforms * cdf[:, -1]
    block = _first_above(cdf, sums, target)
    before = _pick(cdf, block) - _pick(sums, block)
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    return block * _BLOCK + _first_above(
        jnp.cumsum(inside, -1), inside, target - before
    )


def _first_above(cdf: Array, weights: Array, target: Array) -> Array:
    """First index of positive weight with cdf > target; the last such if none is."""
    positive = weights > 0
    hit = positive & (cdf > target[:, None])
    last = weights.shape[-1] - 1 - jnp.argmax(positive[:, ::-1], axis=-1)
    return jnp.where(hit.any(-1), jnp.argmax(hit, axis=-1), last)


def _pick(x: Array, index: Array) -> Array:
    """x[b, index[b]] of [B, V]."""
    return jnp.take_along_axis(x, index[:, None], axis=-1)[:, 0]


def prefill(
    model: transformer.Transformer, tokens: Array, lengths: Array
) -> tuple[Array, decoding.Prompts]:
    """Reads prompts, padded on the left.

    Args:
      model: the policy.
      tokens: [N, P] int32.
      lengths: [N] int32.

    Returns:
      The hidden state of each prompt's last token [N, D], which predicts the first of
      a completion, and the Prompts to attend to.
    """
    P = tokens.shape[1]
    column = jnp.arange(P)[None]
    start = (P - lengths)[:, None]
    visible = column >= start
    hidden, cache = model(
        tokens,
        jnp.maximum(column - start, 0),
        visible.astype(jnp.int32),
        with_cache=True,
    )
    return hidden[:, -1], decoding.Prompts(cache=cache, visible=visible)
