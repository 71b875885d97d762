"""The output layer over scored tokens, some at a time: never an array [tokens, V].

Log-prob and entropy of a token, and the derivative of a loss in them, need no logits
but the token's own. So `gradients` makes the logits of a chunk once and takes from them
log-probs, the loss's derivative, and the gradients in states and weights: nothing is
kept and nothing is made twice. `scores` is its first half. What else logits tell of a
token (`OUTPUTS`) is computed where somebody asks for it.

S shards of N tokens each; a chunk is the same columns of every shard, so that each
device works on its own tokens. Loops end behind the last token there is.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hapo_jax.algo import entropy as entropy_lib
from hapo_jax.learner import packing
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
    """What the logits say of the given tokens; [..., N] float32, None if not wanted.

    Attributes:
      logprobs: nats, at the base temperature, or as the token was drawn.
      entropy: nats, of the untempered distribution.
      rank: 1 + how many tokens are more probable.
      square_sum: of the squared probabilities of all tokens, in the distribution that
        log-probs are of.
      cut_logprobs: nats, under that distribution without all that is less probable
        than `cut_share` times the most probable token; -inf where the token itself is.
      values: of a critic, which is no output of this head: it has no vocabulary.
    """

    logprobs: Array
    entropy: Array | None = None
    rank: Array | None = None
    square_sum: Array | None = None
    cut_logprobs: Array | None = None
    values: Array | None = None

    @classmethod
    def each(cls, value: Any, outputs: frozenset[str]) -> "Scores":
        """The same value for log-probs and all that is wanted."""
        return cls(**dict.fromkeys({"logprobs", *outputs}, value))


class _Logits(NamedTuple):
    """Of a chunk.

    Attributes:
      raw: [S, width, V] float32.
      chosen: [S, width], those of the tokens.
      temperature: float, or [S, width] float32.
      tempered: raw, divided by it, up to a constant of each token; -inf for tokens that
        are out of the question.
      tempered_chosen: [S, width], those of the tokens.
      log_total: [S, width], log-sum-exp of the tempered ones.
    """

    raw: Array
    chosen: Array
    temperature: float | Array
    tempered: Array
    tempered_chosen: Array
    log_total: Array


def _rank(logits: _Logits, cut_share: float) -> Array:
    del cut_share
    above = logits.raw > logits.chosen[..., None]
    return 1 + above.sum(-1, dtype=jnp.float32)


def _square_sum(logits: _Logits, cut_share: float) -> Array:
    del cut_share
    return jnp.exp(2 * (logits.tempered - logits.log_total[..., None])).sum(-1)


def _cut_logprobs(logits: _Logits, cut_share: float) -> Array:
    least = logits.tempered.max(-1) + np.log(cut_share)
    kept = logits.tempered >= least[..., None]
    log_total = jax.nn.logsumexp(logits.tempered, axis=-1, where=kept)
    own = logits.tempered_chosen
    return jnp.where(own >= least, own - log_total, -jnp.inf)


# Beside the log-probs: name → (logits of a chunk, cut_share) → [S, width] float32.
_OUTPUTS: dict[str, Callable[[_Logits, float], Array]] = {
    "entropy": lambda logits, cut_share: entropy_lib.of_logits(logits.raw),
    "rank": _rank,
    "square_sum": _square_sum,
    "cut_logprobs": _cut_logprobs,
}
OUTPUTS = frozenset(_OUTPUTS)
ENTROPY = frozenset({"entropy"})


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
    drawn: packing.Drawn | None = None,
    width: int,
    outputs: frozenset[str] = ENTROPY,
    **options,
) -> Scores:
    """Scores of tokens, without gradients.

    Args:
      hidden: [S, N, D], the states that predict the tokens; N a multiple of `width`.
      weight: [V, D], the unembedding in the dtype of `hidden`.
      targets: [S, N] int32, the tokens.
      counts: [S] int32, how many of the N there are.
      drawn: of [S, N], how the tokens were drawn: log-probs are then of the softmax of
        the logits above `cut_logit`, and the token's own, at its temperature. None, or
        temperature 0: of all logits at the base temperature.
      width: columns of a chunk.
      outputs: of `OUTPUTS`, those that are wanted.
      **options: base_temperature; unused_ids: of probability 0, see `ModelConfig`;
        cut_share: of `cut_logprobs`.

    Returns:
      Scores [S, N]; 0 or meaningless behind `counts`.
    """

    def chunk(k, out: Scores) -> Scores:
        part, _ = _chunk(
            _columns(hidden, k, width),
            weight,
            _columns(targets, k, width),
            jax.tree.map(lambda x: _columns(x, k, width), drawn),
            outputs=outputs,
            **options,
        )
        return jax.tree.map(lambda x, y: _put(x, y, k, width), out, part)

    start = Scores.each(jnp.zeros(targets.shape, jnp.float32), outputs)
    return jax.lax.fori_loop(0, _num_chunks(counts, width), chunk, start)


def gradients(
    slopes: Callable,
    hidden: Array,
    weight: Array,
    targets: Array,
    counts: Array,
    constants,
    *,
    drawn: packing.Drawn | None = None,
    width: int,
    outputs: frozenset[str] = frozenset(),
    **options,
):
    """Gradients of a sum over tokens in states and unembedding.

    By hand and not by `jax.grad`: that would keep the logits of every chunk for its
    backward pass, [tokens, V] in all, and it cannot go back through a loop whose length
    is data.

    Args:
      slopes: (Scores of a chunk [S, width], constants of it) -> (sums, slope): a tree
        of scalars to add up over chunks, and as Scores the derivatives of the loss in
        the log-probs and, or None, in the entropies, 0 behind `counts`. The other
        scores have none.
      hidden, weight, targets, counts, drawn, width, outputs, **options: as in `scores`.
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
        how, given = jax.tree.map(lambda x: _columns(x, k, width), (drawn, constants))
        part, logits = _chunk(states, weight, tokens, how, outputs=outputs, **options)
        new, slope = slopes(part, given)
        # d log softmax(z)[token] / dz = onehot - softmax(z), and z = logits / T. What
        # is cut has no part in z; that it is cut is no function of the logits here.
        d_logits = (slope.logprobs / logits.temperature)[..., None] * (
            _is_token(tokens, V)
            - jnp.exp(logits.tempered - logits.log_total[..., None])
        )
        if slope.entropy is not None:
            d_logits += slope.entropy[..., None] * _entropy_slope(logits.raw)
        # From here as in a layer's backward pass: factors in the compute dtype, and
        # what is added up over many tokens in float32.
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

    # What a loop carries has its shape from the start. Which sums there will be, only
    # `slopes` knows: it is asked for its shapes, without being run.
    example = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((S, width), x.dtype), constants
    )
    score = jax.ShapeDtypeStruct((S, width), jnp.float32)
    sums, _ = jax.eval_shape(slopes, Scores.each(score, outputs), example)
    carry = (
        jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sums),
        jnp.zeros_like(hidden),  # and 0 it stays behind the last chunk
        sharding.constrain_vocab(jnp.zeros((S, D, V), jnp.float32), axis=2),
    )
    sums, d_hidden, d_weight = jax.lax.fori_loop(
        0, _num_chunks(counts, width), chunk, carry
    )
    return sums, d_hidden, sharding.sum_shards(d_weight)


def _chunk(
    hidden: Array,
    weight: Array,
    tokens: Array,
    drawn: packing.Drawn | None,
    *,
    outputs: frozenset[str],
    base_temperature: float,
    unused_ids: tuple[tuple[int, int], ...] = (),
    cut_share: float = 0.0,
) -> tuple[Scores, _Logits]:
    """Scores of a chunk [S, width], and the logits that they are of."""
    # Sums in float32 also of bfloat16 factors: log-probs of large vocabularies are
    # differences of large numbers, and ratios are their exponentials.
    raw = jnp.einsum("SND,VD->SNV", hidden, weight, preferred_element_type=jnp.float32)
    raw = sharding.constrain_vocab(raw, axis=2)
    raw = transformer.mask_unused(raw, unused_ids)
    chosen = jnp.take_along_axis(raw, tokens[..., None], axis=-1)[..., 0]
    if drawn is None:
        logits = _tempered(raw, chosen, base_temperature)
    else:
        logits = _as_drawn(raw, chosen, tokens, drawn, base_temperature)
    others = {name: _OUTPUTS[name](logits, cut_share) for name in sorted(outputs)}
    return Scores(logits.tempered_chosen - logits.log_total, **others), logits


def _tempered(raw: Array, chosen: Array, temperature: float) -> _Logits:
    """All logits, at the base temperature."""
    tempered, tempered_chosen = (
        x if temperature == 1.0 else x / temperature for x in (raw, chosen)
    )
    return _Logits(
        raw=raw,
        chosen=chosen,
        temperature=temperature,
        tempered=tempered,
        tempered_chosen=tempered_chosen,
        log_total=jax.nn.logsumexp(tempered, axis=-1),
    )


def _as_drawn(
    raw: Array,
    chosen: Array,
    tokens: Array,
    drawn: packing.Drawn,
    base_temperature: float,
) -> _Logits:
    """The logits that the tokens were drawn from, under the policy of today.

    Temperature and cut are constants of the rollout. So the same policy keeps the same
    tokens in every pass, but for those whose logit is nearer to the cut than two passes
    round apart; and a policy that has moved keeps what is above the cut by now. The
    token itself is always kept: it was drawn.
    """
    known = drawn.temperature > 0
    temperature = jnp.where(known, drawn.temperature, base_temperature)
    cut = jnp.where(known, drawn.cut_logit, -jnp.inf)
    # As in the sampler: with a maximum of 0, no exponential needs another.
    peak = raw.max(-1)
    relative = raw - peak[..., None]
    kept = (relative > cut[..., None]) | _is_token(tokens, raw.shape[-1])
    tempered = jnp.where(kept, relative / temperature[..., None], -jnp.inf)
    return _Logits(
        raw=raw,
        chosen=chosen,
        temperature=temperature,
        tempered=tempered,
        tempered_chosen=(chosen - peak) / temperature,
        log_total=jnp.log(jnp.exp(tempered).sum(-1)),
    )


def _is_token(tokens: Array, V: int) -> Array:
    """[S, N] → [S, N, V] bool, one-hot."""
    # By a comparison, which each device makes for its own words: a scatter would have
    # to find out which of them has the token's.
    return jnp.arange(V)[None, None] == tokens[..., None]


def _entropy_slope(raw: Array) -> Array:
    """dH/dz = -p (log p + H) of logits z [S, width, V]."""
    log_p = jax.nn.log_softmax(raw, axis=-1)
    p = jnp.exp(log_p)
    entropy = -(p * log_p).sum(-1, keepdims=True)
    return -p * (log_p + entropy)


def _num_chunks(counts: Array, width: int) -> Array:
    # One program on all devices: it loops as often as the shard that has most needs.
    return (counts.max() + width - 1) // width


def _columns(x: Array, k: Array, width: int) -> Array:
    # Within a loop k is data: such a slice has a fixed size and begins anywhere.
    return jax.lax.dynamic_slice_in_dim(x, k * width, width, axis=1)


def _put(x: Array, part: Array, k: Array, width: int) -> Array:
    # A new array to JAX; the compiler writes into the old one, which has no other use.
    return jax.lax.dynamic_update_slice_in_dim(
        x, part.astype(x.dtype), k * width, axis=1
    )
