"""Draws completions: prefill once per group, then a jitted scan over positions.

At every position the entropy of the untempered distribution sets the temperature
(`algo/temperature.py`), the token is drawn from the tempered and truncated
distribution, and what the learner must know about it is recorded.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hapo_jax.algo import entropy as entropy_lib
from hapo_jax.model import sharding, transformer

Array = jax.Array
# (entropy [B], stats, base_temperature [B]) -> temperature [B]
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


class Samples(NamedTuple):
    """Sampled completions; fields as in `batch.RolloutBatch`, each [B, T]."""

    tokens: Array
    mask: Array
    entropy: Array
    temperature: Array
    behavior_logprobs: Array
    base_logprobs: Array


# (params, prompt_tokens, prompt_lengths, keys, stats, base_temperature) -> Samples
Sampler = Callable[..., Samples]


def make_sampler(
    graphdef: nnx.GraphDef,
    mesh: jax.sharding.Mesh,
    param_shardings: nnx.State,
    *,
    group_size: int,
    max_tokens: int,
    chunk_tokens: int,
    stop_ids: tuple[int, ...],
    pad_id: int,
    truncation: Truncation,
    temperature_fn: TemperatureFn,
    cache_dtype=jnp.float32,
) -> Sampler:
    """Compiles `sample` for one set of shapes; prompts are split over data and fsdp."""
    by_row, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    fn = functools.partial(
        sample,
        graphdef,
        group_size=group_size,
        max_tokens=max_tokens,
        chunk_tokens=chunk_tokens,
        stop_ids=stop_ids,
        pad_id=pad_id,
        truncation=truncation,
        temperature_fn=temperature_fn,
        cache_dtype=cache_dtype,
    )
    return jax.jit(
        fn,
        in_shardings=(param_shardings, by_row, by_row, by_row, whole, whole),
        out_shardings=by_row,
    )


def row_keys(
    seed: int | np.ndarray, step: int, prompt_ids: np.ndarray, sample_ids: np.ndarray
) -> Array:
    """One key per row from (seed, step, prompt, sample); the position joins in `draw`.

    Args:
      seed: of the run, or [B] of each row.
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
def _row_keys(*columns):
    # Split by rows, as the sampler takes them: it refuses another layout.
    return sharding.constrain_batch(jax.vmap(_row_key)(*columns))


def _row_key(seed, step, prompt_id, sample_id):
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.random.fold_in(jax.random.fold_in(key, prompt_id), sample_id)


def sample(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    prompt_tokens: Array,
    prompt_lengths: Array,
    keys: Array,
    stats: entropy_lib.EntropyStats,
    base_temperature: Array,
    *,
    group_size: int,
    max_tokens: int,
    chunk_tokens: int,
    stop_ids: tuple[int, ...],
    pad_id: int,
    truncation: Truncation,
    temperature_fn: TemperatureFn,
    cache_dtype=jnp.float32,
) -> Samples:
    """Draws `group_size` completions for each prompt.

    Args:
      graphdef, params: the policy, a `transformer.Transformer`.
      prompt_tokens: [N, P] int32, padded on the left.
      prompt_lengths: [N] int32.
      keys: [N·G] keys, see `row_keys`; consumed.
      stats: of the previous step, for the temperature.
      base_temperature: scalar float32; 0 means greedy: the likeliest token, recorded
        with temperature 0 and behavior log-prob 0.
      group_size: G.
      max_tokens: T, the stop token included.
      chunk_tokens: tokens per inner scan; whether every row has stopped is tested
        between scans.
      stop_ids: tokens that end a completion; they are part of it.
      pad_id: fills the tail of the stopped rows.
      truncation: which tokens may be drawn.
      temperature_fn: entropy → temperature.
      cache_dtype: of keys and values.

    Returns:
      Samples of N·G rows, the G of a prompt one after another.
    """
    model = nnx.merge(graphdef, params)
    N = len(prompt_tokens)
    B, T = N * group_size, -(-max_tokens // chunk_tokens) * chunk_tokens

    hidden, prompts = prefill(model, prompt_tokens, prompt_lengths, cache_dtype)
    hidden = sharding.constrain_batch(jnp.repeat(hidden, group_size, axis=0))
    cache = transformer.KVCache.empty(model.config, B, T, cache_dtype)
    lengths = jnp.repeat(prompt_lengths, group_size)
    base_temperature = jnp.broadcast_to(base_temperature, (B,))
    stops = jnp.asarray(stop_ids, jnp.int32)
    layers = model.unstack()

    def position(carry, t):
        hidden, cache, alive = carry
        uniforms = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, t)))(
            keys
        )
        token, record = draw(
            model.logits(hidden),
            uniforms,
            stats,
            base_temperature,
            truncation=truncation,
            temperature_fn=temperature_fn,
        )
        token = jnp.where(alive, token, pad_id)
        visible = jnp.broadcast_to(jnp.arange(T) <= t, (B, T))
        hidden, cache = model.decode(
            layers, token, lengths + t, prompts, cache, t, visible
        )
        stopped = (token[:, None] == stops[None]).any(-1)
        return (hidden, cache, alive & ~stopped), (token, alive, *record)

    def chunk(state):
        t, carry, out = state
        carry, new = jax.lax.scan(position, carry, t + jnp.arange(chunk_tokens))
        out = jax.tree.map(
            lambda all_, x: jax.lax.dynamic_update_slice_in_dim(all_, x.T, t, axis=1),
            out,
            Samples(*new),
        )
        return t + chunk_tokens, carry, out

    def unfinished(state):
        t, (_, _, alive), _ = state
        return (t < T) & alive.any()

    zeros = jnp.zeros((B, T), jnp.float32)
    out = Samples(
        jnp.full((B, T), pad_id, jnp.int32), jnp.zeros((B, T), bool), *[zeros] * 4
    )
    carry = (hidden, cache, jnp.ones((B,), bool))
    _, _, out = jax.lax.while_loop(unfinished, chunk, (jnp.int32(0), carry, out))
    # Where nothing was drawn the records are zero, as the padding of a batch is.
    return Samples(
        *(
            jnp.where(out.mask, field, jnp.zeros_like(field))[:, :max_tokens]
            if i > 1
            else field[:, :max_tokens]
            for i, field in enumerate(out)
        )
    )


class Record(NamedTuple):
    """What is kept of one drawn token; each [B] float32."""

    entropy: Array
    temperature: Array
    behavior_logprobs: Array
    base_logprobs: Array


def draw(
    logits: Array,
    uniforms: Array,
    stats: entropy_lib.EntropyStats,
    base_temperature: Array,
    *,
    truncation: Truncation,
    temperature_fn: TemperatureFn,
) -> tuple[Array, Record]:
    """One token per row by inverse CDF, and what the learner must know about it.

    Args:
      logits: [B, V] float32, untempered.
      uniforms: [B] float32 in [0, 1), one per row.
      base_temperature: [B] float32; 0 is greedy.
      stats, truncation, temperature_fn: see `sample`.

    Returns:
      [B] int32 tokens, and their Record.
    """
    # Everything below is the same for logits shifted to a maximum of 0, and no
    # exponential needs another maximum then.
    logits = logits - logits.max(-1, keepdims=True)
    entropy, log_total = entropy_lib.of_shifted_logits(logits)
    temperature = temperature_fn(entropy, stats, base_temperature)
    greedy = base_temperature <= 0
    tempered = logits / jnp.where(greedy, 1.0, temperature)[:, None]
    tempered = truncate(tempered, truncation)
    weights = jnp.exp(tempered)
    token = jnp.where(greedy, logits.argmax(-1), inverse_cdf(weights, uniforms))
    token = token.astype(jnp.int32)
    behavior = _pick(tempered, token) - jnp.log(weights.sum(-1))
    base_temperature = jnp.where(greedy, 1.0, base_temperature)
    base_log_total = jax.lax.cond(
        (base_temperature == 1.0).all(),
        lambda: log_total,
        lambda: jax.nn.logsumexp(logits / base_temperature[:, None], axis=-1),
    )
    return token, Record(
        entropy,
        jnp.where(greedy, 0.0, temperature),
        jnp.where(greedy, 0.0, behavior),
        _pick(logits, token) / base_temperature - base_log_total,
    )


def truncate(logits: Array, truncation: Truncation) -> Array:
    """Sets the logits [B, V] of tokens that must not be drawn to -inf."""
    top_k, top_p, min_p = truncation
    if top_k and top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if top_p < 1.0:
        ordered = -jnp.sort(-logits, axis=-1)
        probs = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(probs, axis=-1) - probs
        least = jnp.where(before < top_p, ordered, jnp.inf).min(-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if min_p > 0.0:
        least = logits.max(-1, keepdims=True) + np.log(min_p)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits


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
    model: transformer.Transformer, tokens: Array, lengths: Array, cache_dtype
) -> tuple[Array, transformer.Prompts]:
    """Reads prompts, padded on the left.

    Args:
      model: the policy.
      tokens: [N, P] int32.
      lengths: [N] int32.
      cache_dtype: of keys and values.

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
    cache = jax.tree.map(lambda x: x.astype(cache_dtype), cache)
    return hidden[:, -1], transformer.Prompts(cache, visible)
