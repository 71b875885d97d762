"""The output layer over scored tokens, some at a time: never an array [tokens, V].

Log-prob and entropy of a token, and the derivative of a loss in them, need no logits
but the token's own. So `gradients` makes the logits of a chunk once and takes from them
log-probs, the loss's derivative, and the gradients in states and weights: nothing is
kept and nothing is made twice. `scores` is its first half.

S shards of N tokens each; a chunk is the same columns of every shard, so that each
device works on its own tokens. Loops end behind the last token there is.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hapo_jax.algo import entropy as entropy_lib
from hapo_jax.model import sharding, transformer
from hapo_jax.system import target

Array = jax.Array

# Of the logits of a chunk, in bytes; a few arrays of this size exist at a time. A CPU's
# devices share it, as they share its memory.
_CPU_BYTES = 128 * 2**20
# Of an accelerator's memory. Each chunk reads the unembedding, and reads and writes its
# gradient: few tokens would leave the multipliers idle.
_SHARE = 1 / 32
_FEWEST_TOKENS, _MOST_TOKENS = 128, 4096


class Scores(NamedTuple):
    """Attributes:
    logprobs: [..., N] float32, nats, of the given tokens at the base temperature.
    entropy: float32, nats, of the untempered distribution; or None.
    values: float32, of a critic; or None. Not of this head: it has no vocabulary.
    """

    logprobs: Array
    entropy: Array | None
    values: Array | None = None


def chunk_tokens(
    vocab_size: int, *, shards: int = 1, tensor: int = 1, usable: float = 0.0
) -> int:
    """Tokens per device whose float32 logits fill the memory that a chunk may take.

    Args:
      vocab_size: V.
      shards: devices with tokens of their own.
      tensor: devices that share the logits of a token.
      usable: bytes of a device; not read on a CPU.
    """
    of_token = 4 * vocab_size / tensor
    if target.platform() == "cpu":
        return max(1, int(_CPU_BYTES / of_token) // shards)
    fits = int(usable * _SHARE / of_token) // _FEWEST_TOKENS * _FEWEST_TOKENS
    return min(max(fits, _FEWEST_TOKENS), _MOST_TOKENS)


def scores(
    hidden: Array,
    weight: Array,
    targets: Array,
    counts: Array,
    *,
    base_temperature: float,
    width: int,
    unused_ids: tuple[tuple[int, int], ...] = (),
    with_entropy: bool = True,
) -> Scores:
    """Log-probs and entropies of tokens, without gradients.

    Args:
      hidden: [S, N, D], the states that predict the tokens; N a multiple of `width`.
      weight: [V, D], the unembedding in the dtype of `hidden`.
      targets: [S, N] int32, the tokens.
      counts: [S] int32, how many of the N there are.
      base_temperature: log-probs are of softmax(logits / base_temperature).
      width: columns of a chunk.
      unused_ids: of probability 0, see `ModelConfig`.
      with_entropy: also give entropies.

    Returns:
      Scores [S, N]; 0 or meaningless behind `counts`.
    """
    empty = jnp.zeros(targets.shape, jnp.float32)

    def chunk(k, out: Scores) -> Scores:
        part, *_ = _chunk(
            _columns(hidden, k, width),
            weight,
            _columns(targets, k, width),
            base_temperature,
            unused_ids,
            with_entropy,
        )
        return jax.tree.map(lambda x, y: _put(x, y, k, width), out, part)

    start = Scores(empty, empty if with_entropy else None)
    return jax.lax.fori_loop(0, _num_chunks(counts, width), chunk, start)


def gradients(
    slopes: Callable,
    hidden: Array,
    weight: Array,
    targets: Array,
    counts: Array,
    constants,
    *,
    base_temperature: float,
    width: int,
    unused_ids: tuple[tuple[int, int], ...] = (),
    with_entropy: bool,
):
    """Gradients of a sum over tokens in states and unembedding.

    Args:
      slopes: (Scores of a chunk [S, width], constants of it) -> (sums, slope): a tree
        of scalars to add up over chunks, and the derivative of the loss in the
        log-probs, [S, width] float32, 0 behind `counts`.
      hidden, weight, targets, counts, base_temperature, width, unused_ids,
        with_entropy: as in `scores`.
      constants: a tree of arrays [S, N], handed to `slopes` chunk by chunk.

    Returns:
      The sums, the gradient in `hidden` [S, N, D] in its dtype, and that in `weight`
      [V, D] float32.
    """
    S = targets.shape[0]
    V, D = weight.shape

    def chunk(k, carry):
        sums, d_hidden, d_weight = carry
        states, tokens = _columns(hidden, k, width), _columns(targets, k, width)
        part, logits, log_total = _chunk(
            states, weight, tokens, base_temperature, unused_ids, with_entropy
        )
        new, slope = slopes(
            part, jax.tree.map(lambda x: _columns(x, k, width), constants)
        )
        # d log softmax(z)[token] / dz = onehot - softmax(z), and z = logits / T.
        chosen = jnp.arange(V)[None, None] == tokens[..., None]
        d_logits = (slope / base_temperature)[..., None] * (
            chosen - jnp.exp(logits - log_total[..., None])
        )
        d_logits = d_logits.astype(hidden.dtype)
        d_states = jnp.einsum("SNV,VD->SND", d_logits, weight)
        # Summed over shards behind the loop: one reduction per call, not per chunk.
        # [D, V] and not [V, D]: a product turns its first factor round, on a CPU for
        # half as long again, so that is the small one.
        d_weight += jnp.einsum(
            "SND,SNV->SDV", states, d_logits, preferred_element_type=jnp.float32
        )
        sums = jax.tree.map(jnp.add, sums, new)
        return sums, _put(d_hidden, d_states, k, width), d_weight

    example = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((S, width), x.dtype), constants
    )
    score = jax.ShapeDtypeStruct((S, width), jnp.float32)
    sums, _ = jax.eval_shape(
        slopes, Scores(score, score if with_entropy else None), example
    )
    carry = (
        jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sums),
        jnp.zeros_like(hidden),
        sharding.constrain_vocab(jnp.zeros((S, D, V), jnp.float32), axis=2),
    )
    sums, d_hidden, d_weight = jax.lax.fori_loop(
        0, _num_chunks(counts, width), chunk, carry
    )
    return sums, d_hidden, sharding.sum_shards(d_weight)


def _chunk(hidden, weight, tokens, base_temperature, unused_ids, with_entropy):
    """Scores of a chunk, its tempered logits [S, width, V] and their log-sum-exp."""
    logits = jnp.einsum(
        "SND,VD->SNV", hidden, weight, preferred_element_type=jnp.float32
    )
    logits = sharding.constrain_vocab(logits, axis=2)
    logits = transformer.mask_unused(logits, unused_ids)
    entropy = entropy_lib.of_logits(logits) if with_entropy else None
    if base_temperature != 1.0:
        logits = logits / base_temperature
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    log_total = jax.nn.logsumexp(logits, axis=-1)
    return Scores(chosen - log_total, entropy), logits, log_total


def _num_chunks(counts: Array, width: int) -> Array:
    return (counts.max() + width - 1) // width


def _columns(x: Array, k: Array, width: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, k * width, width, axis=1)


def _put(x: Array, part: Array, k: Array, width: int) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(
        x, part.astype(x.dtype), k * width, axis=1
    )
