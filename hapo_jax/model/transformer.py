"""The policy: a dense decoder (Llama 3.x, Qwen2/2.5, Qwen3) in Flax NNX.

Layers are stacked along a leading axis and scanned, so one layer is compiled
whatever the depth. Training, scoring and prefill read whole sequences here;
`decoding.py` computes the same one token at a time.

Einsum letters: B rows, T queries, S keys, D width, F feed-forward, H query heads,
K key/value heads, R = H/K, C channels per head, V vocabulary.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hapo_jax.model import sharding
from hapo_jax.model.config import ModelConfig, RopeScaling

Array = jax.Array


class KVCache(NamedTuple):
    """Keys and values of every layer, in the order in which decoding reads them.

    Attributes:
      keys: per layer [B, K, C, S].
      values: per layer [B, K, S, C].
    """

    keys: tuple[Array, ...]
    values: tuple[Array, ...]

    @classmethod
    def empty(cls, config: ModelConfig, rows: int, slots: int, dtype) -> "KVCache":
        """A cache with nothing in it."""
        L, K, C = config.num_layers, config.num_kv_heads, config.head_dim
        return cls(
            tuple(jnp.zeros((rows, K, C, slots), dtype) for _ in range(L)),
            tuple(jnp.zeros((rows, K, slots, C), dtype) for _ in range(L)),
        )


class RMSNorm(nnx.Module):
    """`rms_norm` with a scale of its own."""

    def __init__(self, size: int, axis: str | None, eps: float):
        self.scale = nnx.Param(jnp.ones((size,), jnp.float32), axes=(axis,))
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        return rms_norm(x, self.scale.get_value(), eps=self.eps)


def rms_norm(x: Array, scale: Array, *, eps: float) -> Array:
    """x / sqrt(mean(x²) + eps) · scale over the last axis, computed in float32."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32**2, -1, keepdims=True) + eps)
    return (x32 * jax.lax.broadcast_to_rank(scale, x.ndim)).astype(x.dtype)


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        c = config
        D, H, K, C = c.d_model, c.num_heads, c.num_kv_heads, c.head_dim
        normal = _normal(c.init_std, rngs)
        self.query = nnx.Param(normal((D, H, C)), axes=("embed", "heads", "head_dim"))
        self.key = nnx.Param(normal((D, K, C)), axes=("embed", "kv_heads", "head_dim"))
        self.value = nnx.Param(
            normal((D, K, C)), axes=("embed", "kv_heads", "head_dim")
        )
        self.out = nnx.Param(normal((H, C, D)), axes=("heads", "head_dim", "embed"))
        if c.qkv_bias:
            self.query_bias = nnx.Param(jnp.zeros((H, C)), axes=("heads", "head_dim"))
            self.key_bias = nnx.Param(jnp.zeros((K, C)), axes=("kv_heads", "head_dim"))
            self.value_bias = nnx.Param(
                jnp.zeros((K, C)), axes=("kv_heads", "head_dim")
            )
        if c.qk_norm:
            self.query_norm = RMSNorm(C, "head_dim", c.rms_eps)
            self.key_norm = RMSNorm(C, "head_dim", c.rms_eps)
        self.config = c

    def project(self, x: Array, rope: tuple[Array, Array]):
        """[B, T, D] → queries [B, T, H, C], keys and values [B, T, K, C]."""
        q, k, v = (_to_heads(x, w) for w in (self.query, self.key, self.value))
        if self.config.qkv_bias:
            q = q + self.query_bias.get_value().astype(x.dtype)[None, None]
            k = k + self.key_bias.get_value().astype(x.dtype)[None, None]
            v = v + self.value_bias.get_value().astype(x.dtype)[None, None]
        if self.config.qk_norm:
            q, k = self.query_norm(q), self.key_norm(k)
        return rotate(q, rope), rotate(k, rope), v

    def project_out(self, heads: Array) -> Array:
        """[B, T, H, C] → [B, T, D]."""
        B, T, H, C = heads.shape
        w = self.out.get_value().astype(heads.dtype).reshape(H * C, -1)
        return heads.reshape(B, T, H * C) @ w


def _to_heads(x: Array, weight: nnx.Param) -> Array:
    """[B, T, D] · [D, H, C] → [B, T, H, C], as a product of matrices: given the three
    axes, XLA may lay the result out in an order that must be turned round again."""
    D, H, C = weight.get_value().shape
    flat = x @ weight.get_value().astype(x.dtype).reshape(D, H * C)
    return flat.reshape(*x.shape[:2], H, C)


class Mlp(nnx.Module):
    """SwiGLU: (silu(x·gate) ⊙ x·up)·down."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        D, F = config.d_model, config.d_ff
        normal = _normal(config.init_std, rngs)
        self.gate = nnx.Param(normal((D, F)), axes=("embed", "mlp"))
        self.up = nnx.Param(normal((D, F)), axes=("embed", "mlp"))
        self.down = nnx.Param(normal((F, D)), axes=("mlp", "embed"))

    def __call__(self, x: Array) -> Array:
        gate = jnp.einsum("BTD,DF->BTF", x, self.gate.get_value().astype(x.dtype))
        up = jnp.einsum("BTD,DF->BTF", x, self.up.get_value().astype(x.dtype))
        down = self.down.get_value().astype(x.dtype)
        return jnp.einsum("BTF,FD->BTD", jax.nn.silu(gate) * up, down)


class Block(nnx.Module):
    """One decoder layer: attention and feed-forward, each behind a norm."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.d_model, "embed", config.rms_eps)
        self.attention = Attention(config, rngs=rngs)
        self.mlp_norm = RMSNorm(config.d_model, "embed", config.rms_eps)
        self.mlp = Mlp(config, rngs=rngs)

    def __call__(self, x: Array, rope, mask: Array):
        """Whole sequences.

        Args:
          x: [B, T, D].
          rope: (cos, sin), each [B, T, 1, C/2] float32.
          mask: [B, 1, T, T] bool, True where query t may see key s.

        Returns:
          x [B, T, D], and this layer's (keys, values), each [B, T, K, C].
        """
        q, k, v = self.attention.project(self.attention_norm(x), rope)
        heads = jax.nn.dot_product_attention(q, k, v, mask=mask)
        x = sharding.constrain_batch(x + self.attention.project_out(heads))
        x = sharding.constrain_batch(x + self.mlp(self.mlp_norm(x)))
        return x, (k, v)


class Transformer(nnx.Module):
    """A decoder-only language model.

    Parameters are float32; `dtype` is what the layers compute in. Split it with
    `nnx.split(model, nnx.Param)` to use it as a pure function of its parameters.
    """

    def __init__(self, config: ModelConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        normal = _normal(config.init_std, rngs)
        shape = (config.vocab_size, config.d_model)
        self.embedding = nnx.Param(normal(shape), axes=("vocab", "embed"))

        @nnx.vmap
        def stack(key):
            return Block(config, rngs=nnx.Rngs(key))

        self.layers = stack(jax.random.split(rngs.params(), config.num_layers))
        self.final_norm = RMSNorm(config.d_model, "embed", config.rms_eps)
        if not config.tie_embeddings:
            self.head = nnx.Param(normal(shape), axes=("vocab", "embed"))
        self.config = config
        self.dtype = dtype

    def __call__(
        self,
        tokens: Array,
        positions: Array,
        segment_ids: Array,
        *,
        remat: bool = False,
        with_cache: bool = False,
    ):
        """Final hidden states of whole sequences.

        Args:
          tokens: [B, T] int32.
          positions: [B, T] int32, counted from 0 within a segment.
          segment_ids: [B, T] int32; a token sees earlier tokens of its own segment.
            0 marks padding.
          remat: recompute each layer in the backward pass instead of storing it.
          with_cache: return the KVCache of all T positions too.

        Returns:
          [B, T, D] in `dtype`, after the final norm; with `with_cache` also a KVCache.
        """
        chex.assert_equal_shape([tokens, positions, segment_ids])
        x = self._embed(tokens)
        rope = tuple(x[:, :, None] for x in rope_angles(self.config, positions))
        T = tokens.shape[1]
        causal = jnp.tril(jnp.ones((T, T), bool))
        same = segment_ids[:, :, None] == segment_ids[:, None, :]
        mask = (causal[None] & same)[:, None]
        graphdef, stacked = nnx.split(self.layers)

        def layer(x, params):
            x, kv = nnx.merge(graphdef, params)(x, rope, mask)
            return x, kv if with_cache else None

        x, kv = jax.lax.scan(jax.checkpoint(layer) if remat else layer, x, stacked)
        x = self.final_norm(x)
        if not with_cache:
            return x
        keys = kv[0].transpose(0, 1, 3, 4, 2)
        values = kv[1].transpose(0, 1, 3, 2, 4)
        return x, KVCache(tuple(keys), tuple(values))

    def unembedding(self) -> Array:
        """[V, D] float32, the rows that score each token."""
        tied = self.config.tie_embeddings
        return (self.embedding if tied else self.head).get_value()

    def logits(self, hidden: Array) -> Array:
        """[..., D] → untempered logits [..., V] in float32."""
        w = self.unembedding().astype(hidden.dtype)
        return jnp.einsum(
            "...D,VD->...V", hidden, w, preferred_element_type=jnp.float32
        )

    def _embed(self, tokens: Array) -> Array:
        table = sharding.gather_channels(self.embedding.get_value().astype(self.dtype))
        return sharding.constrain_batch(table[tokens])


def rope_angles(config: ModelConfig, positions: Array) -> tuple[Array, Array]:
    """Cosines and sines of the rotary angles: [...] int32 → two [..., C/2] float32."""
    frequencies = rope_frequencies(
        config.head_dim, config.rope_theta, config.rope_scaling
    )
    angles = positions.astype(jnp.float32)[..., None] * jax.lax.broadcast_to_rank(
        jnp.asarray(frequencies), positions.ndim + 1
    )
    return jnp.cos(angles), jnp.sin(angles)


def rope_frequencies(
    head_dim: int, theta: float, scaling: RopeScaling | None
) -> np.ndarray:
    """Rotary frequencies [C/2] float32, radians per position.

    With `scaling` the long wavelengths are stretched by `factor`, the short ones are
    kept and those between are blended (Llama 3.1; `rope_type: llama3`).
    """
    frequencies = theta ** -(np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    if scaling is None:
        return frequencies.astype(np.float32)
    turns = scaling.original_max_positions * frequencies / (2 * np.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    scaled = frequencies * (keep + (1 - keep) / scaling.factor)
    return scaled.astype(np.float32)


def rotate(x: Array, rope: tuple[Array, Array]) -> Array:
    """Turns the channel pairs (c, c + C/2) of [..., C] by their angles [..., C/2]."""
    cos, sin = rope
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


def _normal(std: float, rngs: nnx.Rngs):
    return lambda shape: std * jax.random.normal(rngs.params(), shape, jnp.float32)
