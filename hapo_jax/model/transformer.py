"""The policy: a dense decoder (Llama 3.x, Mistral, Qwen2/2.5, Qwen3) in Flax NNX.

Layers are stacked along a leading axis and scanned, so one layer is compiled
whatever the depth. Training, scoring and prefill read whole sequences here;
`decoding.py` computes the same one token at a time.

Einsum letters: B rows, T queries, S keys, D width, F feed-forward, H query heads,
K key/value heads, C channels per head, V vocabulary.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from hapo_jax.model import attention, sharding
from hapo_jax.model import rope as rope_lib
from hapo_jax.model.config import ModelConfig

Array = jax.Array

# What the backward pass of a layer computes again: nothing, all but the products with
# weights, or everything.
REMATS = ("none", "dots", "full")
# Below every score and logit, and finite: times a probability of 0 it is 0.
NEVER = -1e30


class KVCache(NamedTuple):
    """Keys and values of every layer, in the order in which decoding reads them.

    Attributes:
      keys: per layer [B, K, C, S].
      values: per layer [B, K, S, C].
    """

    keys: tuple[Array, ...]
    values: tuple[Array, ...]

    @classmethod
    def empty(cls, config: ModelConfig, rows: int, columns: int, dtype) -> "KVCache":
        """A cache with nothing in it."""
        L, K, C = config.num_layers, config.num_kv_heads, config.head_dim
        return cls(
            tuple(jnp.zeros((rows, K, C, columns), dtype) for _ in range(L)),
            tuple(jnp.zeros((rows, K, columns, C), dtype) for _ in range(L)),
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
        return _matmul(heads.reshape(B, T, H * C), w)


@jax.custom_vjp
def _matmul(x: Array, weight: Array) -> Array:
    """[B, T, D] · [D, F] → [B, T, F].

    What the weight's gradient multiplies is made once, as it lies, with its rows on one
    axis. XLA would make it a second time, transposed, element by element, which on a
    CPU costs as much as the product.
    """
    return x @ weight


def _matmul_forward(x, weight):
    return x @ weight, (x, weight)


def _matmul_backward(saved, gradient):
    x, weight = saved
    rows = (x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1]))
    d_weight = jnp.einsum("ND,NF->DF", *jax.lax.optimization_barrier(rows))
    gradient = rows[1].reshape(gradient.shape)
    return gradient @ weight.T, d_weight


_matmul.defvjp(_matmul_forward, _matmul_backward)


def _to_heads(x: Array, weight: nnx.Param) -> Array:
    """[B, T, D] · [D, H, C] → [B, T, H, C], as a product of matrices: given the three
    axes, XLA may lay the result out in an order that must be turned round again."""
    D, H, C = weight.get_value().shape
    flat = _matmul(x, weight.get_value().astype(x.dtype).reshape(D, H * C))
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
        gate, up, down = (
            w.get_value().astype(x.dtype) for w in (self.gate, self.up, self.down)
        )
        return _matmul(jax.nn.silu(_matmul(x, gate)) * _matmul(x, up), down)


class Block(nnx.Module):
    """One decoder layer: attention and feed-forward, each behind a norm."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.d_model, "embed", config.rms_eps)
        self.attention = Attention(config, rngs=rngs)
        self.mlp_norm = RMSNorm(config.d_model, "embed", config.rms_eps)
        self.mlp = Mlp(config, rngs=rngs)

    def __call__(self, x: Array, rope, seen: attention.View, *, keep_scores: bool):
        """Whole sequences.

        Args:
          x: [B, T, D].
          rope: (cos, sin), each [B, T, 1, C/2] float32.
          seen: who sees whom.
          keep_scores: see `attention.attend`.

        Returns:
          x [B, T, D], and this layer's (keys, values), each [B, T, K, C].
        """
        q, k, v = self.attention.project(self.attention_norm(x), rope)
        heads = attention.attend(q, k, v, seen, keep_scores=keep_scores)
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
        branch_ids: Array | None = None,
        *,
        remat: str = "none",
        with_cache: bool = False,
    ):
        """Final hidden states of whole sequences.

        Args:
          tokens: [B, T] int32.
          positions: [B, T] int32, counted from 0 within a segment.
          segment_ids: [B, T] int32; a token sees earlier tokens of its own segment.
            0 marks padding.
          branch_ids: [B, T] int32; of its segment a token sees branch 0 and its own.
            None: no segment branches.
          remat: what the backward pass computes again, one of `REMATS`.
          with_cache: return the KVCache of all T positions too.

        Returns:
          [B, T, D] in `dtype`, after the final norm; with `with_cache` also a KVCache.
        """
        chex.assert_equal_shape([tokens, positions, segment_ids])
        x = self._embed(tokens)
        rope = tuple(x[:, :, None] for x in rope_angles(self.config, positions))
        seen = attention.view(segment_ids, branch_ids, self.dtype)
        graphdef, stacked = nnx.split(self.layers)

        def layer(x, params):
            block = nnx.merge(graphdef, params)
            x, kv = block(x, rope, seen, keep_scores=remat == "none")
            return x, kv if with_cache else None

        x, kv = jax.lax.scan(_rematerialised(layer, remat), x, stacked)
        x = self.final_norm(x)
        if not with_cache:
            return x
        keys = kv[0].transpose(0, 1, 3, 4, 2)
        values = kv[1].transpose(0, 1, 3, 2, 4)
        return x, KVCache(tuple(keys), tuple(values))

    @property
    def unembedding_name(self) -> str:
        """The parameter that `unembedding` gives."""
        return "embedding" if self.config.tie_embeddings else "head"

    def unembedding(self) -> Array:
        """[V, D], the rows that score each token."""
        return getattr(self, self.unembedding_name).get_value()

    def logits(self, hidden: Array) -> Array:
        """[..., D] → untempered logits [..., V] in float32."""
        w = self.unembedding().astype(hidden.dtype)
        logits = jnp.einsum(
            "...D,VD->...V", hidden, w, preferred_element_type=jnp.float32
        )
        return mask_unused(logits, self.config.unused_ids)

    def _embed(self, tokens: Array) -> Array:
        return sharding.lookup(self.embedding.get_value().astype(self.dtype), tokens)


def mask_unused(logits: Array, unused_ids: tuple[tuple[int, int], ...]) -> Array:
    """Gives ids of these ranges probability 0; logits [..., V], see `ModelConfig`."""
    if not unused_ids:
        return logits
    ids = jnp.arange(logits.shape[-1])
    unused = functools.reduce(
        jnp.logical_or, [(ids >= first) & (ids < end) for first, end in unused_ids]
    )
    unused = jax.lax.broadcast_to_rank(unused, logits.ndim)
    return jnp.where(unused, NEVER, logits)


def rope_angles(config: ModelConfig, positions: Array) -> tuple[Array, Array]:
    """`rope.angles` of a model: [...] int32 → two [..., C/2] float32."""
    return rope_lib.angles(
        positions,
        head_dim=config.head_dim,
        theta=config.rope_theta,
        scaling=config.rope_scaling,
    )


def compute_params(params: nnx.State, dtype) -> nnx.State:
    """Parameters as the layers read them: all but the norms' scales in `dtype`.

    Layers cast by themselves; who runs them many times casts once before.
    """

    def cast(path, param: nnx.Variable):
        if path[-1] == "scale":
            return param
        return param.replace(param.get_value().astype(dtype))

    flat = nnx.to_flat_state(params)
    return nnx.from_flat_state([(path, cast(path, param)) for path, param in flat])


def _rematerialised(layer, remat: str):
    """A scan body that keeps for its backward pass what `remat` says."""
    if remat == "none":
        return layer
    policies = jax.checkpoint_policies
    keep = {
        # The products with weights; attention and all that is elementwise is remade.
        "dots": policies.dots_with_no_batch_dims_saveable,
        "full": policies.nothing_saveable,
    }
    # A scan runs one layer at a time anyway: nothing to keep XLA from merging.
    return jax.checkpoint(layer, policy=keep[remat], prevent_cse=False)


def rotate(x: Array, rope: tuple[Array, Array]) -> Array:
    """Turns the channel pairs (c, c + C/2) of [..., C] by their angles [..., C/2]."""
    cos, sin = rope
    # By reversal, since XLA on a CPU concatenates element by element.
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], 2, -1)
    crossed = jnp.flip(pairs, -2) * jnp.stack([-sin, sin], -2)
    return (pairs * cos[..., None, :] + crossed).reshape(x.shape).astype(x.dtype)


def _normal(std: float, rngs: nnx.Rngs):
    return lambda shape: std * jax.random.normal(rngs.params(), shape, jnp.float32)
