"""Log-probs and entropy of given completions, without an array [B, T, V].

Every pass of the learner over a batch (old log-probs, reference, gradient, SFT) goes
through `score_rows`, so their numbers can be compared with each other and with the
sampler's. The shift between a token and the position that predicts it is in
`predicting_states` and nowhere else.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from hapo_jax.algo import entropy as entropy_lib
from hapo_jax.model import sharding

Array = jax.Array


class Scores(NamedTuple):
    """Attributes:
    logprobs: [B, T] float32, nats, of the given tokens at the base temperature.
    entropy: [B, T] float32, nats, of the untempered distribution; or None.
    """

    logprobs: Array
    entropy: Array | None


def score_rows(
    model: nnx.Module,
    prompt_tokens: Array,
    prompt_lengths: Array,
    completion_tokens: Array,
    completion_mask: Array,
    *,
    base_temperature: float,
    chunk_tokens: int,
    with_entropy: bool,
    remat: bool = False,
) -> Scores:
    """Scores completions under a policy in one teacher-forced pass.

    Args:
      model: a `transformer.Transformer`.
      prompt_tokens: [B, P] int32, padded on the left.
      prompt_lengths: [B] int32.
      completion_tokens: [B, T] int32, padded on the right.
      completion_mask: [B, T] bool.
      base_temperature: log-probs are of softmax(logits / base_temperature).
      chunk_tokens: logits are made for about this many tokens at a time.
      with_entropy: also return the entropy.
      remat: recompute layers in the backward pass.

    Returns:
      Scores; values where the mask is False are finite and meaningless.
    """
    P = prompt_tokens.shape[1]
    tokens = jnp.concatenate([prompt_tokens, completion_tokens], axis=1)
    column = jnp.arange(tokens.shape[1])[None]
    start = (P - prompt_lengths)[:, None]
    in_prompt = (column >= start) & (column < P)
    in_completion = jnp.pad(completion_mask, [(0, 0), (P, 0)])
    hidden = model(
        tokens,
        jnp.maximum(column - start, 0),
        (in_prompt | in_completion).astype(jnp.int32),
        remat=remat,
    )
    return token_scores(
        predicting_states(hidden, P),
        model.unembedding(),
        completion_tokens,
        base_temperature=base_temperature,
        chunk_tokens=chunk_tokens,
        with_entropy=with_entropy,
    )


def predicting_states(hidden: Array, prompt_columns: int) -> Array:
    """[B, P + T, D] → [B, T, D]: column t holds the state that predicts token t.

    Token 0 is predicted by the last prompt column, so this is a shift by one.
    """
    return hidden[:, prompt_columns - 1 : -1]


def token_scores(
    hidden: Array,
    unembedding: Array,
    tokens: Array,
    *,
    base_temperature: float,
    chunk_tokens: int,
    with_entropy: bool,
) -> Scores:
    """Log-probs and entropy of `tokens`, some columns at a time.

    The logits of a chunk are recomputed in the backward pass, so at no time more than
    about `chunk_tokens`·V of them exist. Chunks are made of columns, not of rows, so
    that a batch split over devices stays split.

    Args:
      hidden: [B, T, D], the predicting states.
      unembedding: [V, D].
      tokens: [B, T] int32.
      base_temperature, chunk_tokens, with_entropy: see `score_rows`.

    Returns:
      Scores.
    """
    B, T, _ = hidden.shape
    width = max(1, min(T, chunk_tokens // B))
    weight = unembedding.astype(hidden.dtype)
    chunk = jax.checkpoint(
        functools.partial(
            _chunk_scores, base_temperature=base_temperature, with_entropy=with_entropy
        )
    )

    def columns(x: Array) -> Array:
        """[B, T, ...] → [T/width, B, width, ...], padded behind."""
        widths = [(0, 0), (0, -T % width)] + [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, widths)
        return x.reshape(B, -1, width, *x.shape[2:]).swapaxes(0, 1)

    _, scores = jax.lax.scan(
        lambda _, x: (None, chunk(*x, weight)), None, (columns(hidden), columns(tokens))
    )
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(B, -1)[:, :T], scores)


def _chunk_scores(
    hidden: Array,
    tokens: Array,
    weight: Array,
    *,
    base_temperature: float,
    with_entropy: bool,
) -> Scores:
    """Scores of one chunk; its logits [B, width, V] are float32."""
    logits = jnp.einsum(
        "BTD,VD->BTV", hidden, weight, preferred_element_type=jnp.float32
    )
    logits = sharding.constrain_batch(logits)
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    log_total = jax.nn.logsumexp(logits, axis=-1)
    entropy = entropy_lib.of_logits(logits) if with_entropy else None
    if base_temperature != 1.0:
        log_total = jax.nn.logsumexp(logits / base_temperature, axis=-1)
        chosen = chosen / base_temperature
    return Scores(chosen - log_total, entropy)
