"""The policy: a dense decoder (Llama 3.x, Qwen2/2.5, Qwen3) in Flax NNX.

Layers are stacked along a leading axis and scanned, so one layer is compiled
whatever the depth; only decoding unrolls them, since a scan would copy each
layer's weights at every token. Training, prefill and decoding share `Block`.

Einsum letters: B rows, T queries, S keys, D width, F feed-forward, H query heads,
K key/value heads, R = H/K, C channels per head, V vocabulary.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hapo_jax.model import attention, sharding
from hapo_jax.model.config import ModelConfig, RopeScaling

Array = jax.Array

# What the backward pass of a layer computes again: nothing, all but the products with
# weights, or everything.
REMATS = ("none", "dots", "full")


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


class Prompts(NamedTuple):
    """The prompts that decoding rows attend to, each kept once for all its rows.

    Rows b = n·R … n·R + R - 1 continue prompt n: N prompts, R = B/N rows each.

    Attributes:
      cache: N rows, P slots.
      visible: [N, P] bool, False on padding; at least one True per prompt.
    """

    cache: KVCache
    visible: Array


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x²) + eps) · scale, computed in float32."""

    def __init__(self, size: int, axis: str | None, eps: float):
        self.scale = nnx.Param(jnp.ones((size,), jnp.float32), axes=(axis,))
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        x32 = x.astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32**2, -1, keepdims=True) + self.eps)
        scale = jax.lax.broadcast_to_rank(self.scale.get_value(), x.ndim)
        return (x32 * scale).astype(x.dtype)


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
        return _rotate(q, rope), _rotate(k, rope), v

    def project_out(self, heads: Array) -> Array:
        """[B, T, H, C] → [B, T, D]."""
        B, T, H, C = heads.shape
        w = self.out.get_value().astype(heads.dtype).reshape(H * C, -1)
        return _matmul(heads.reshape(B, T, H * C), w)


@jax.custom_vjp
def _matmul(x: Array, weight: Array) -> Array:
    """[B, T, D] · [D, F] → [B, T, F].

    The gradient that comes back is made once, as it lies, for both products of the
    backward pass. XLA would make it a second time, transposed, for the weight's, which
    on a CPU costs as much as the product and halves its speed.
    """
    return x @ weight


def _matmul_forward(x, weight):
    return x @ weight, (x, weight)


def _matmul_backward(saved, gradient):
    x, weight = saved
    gradient = jax.lax.optimization_barrier(gradient)
    d_weight = jnp.einsum("BTD,BTF->DF", x, gradient)
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

    def decode(self, x: Array, rope, prompt, keys: Array, values: Array, at, visible):
        """One token per row, which sees its prompt and its own earlier tokens.

        Args:
          x: [B, 1, D].
          rope: (cos, sin), each [B, 1, 1, C/2] float32.
          prompt: this layer's prompt keys [N, K, C, P], values [N, K, P, C], and
            visibility [N, P].
          keys, values: this layer's cache of completions, [B, K, C, S], [B, K, S, C].
          at: scalar int32, the slot that this token fills, for all rows.
          visible: [B, S] bool, the slots to attend to, `at` among them.

        Returns:
          x [B, 1, D], and the cache with the new key and value.
        """
        q, k, v = self.attention.project(self.attention_norm(x), rope)
        new_keys = k.transpose(0, 2, 3, 1).astype(keys.dtype)
        new_values = v.transpose(0, 2, 1, 3).astype(values.dtype)
        keys = jax.lax.dynamic_update_slice_in_dim(keys, new_keys, at, axis=3)
        values = jax.lax.dynamic_update_slice_in_dim(values, new_values, at, axis=2)
        heads = _decode_attention(q, prompt, keys, values, visible)
        x = x + self.attention.project_out(heads)
        return x + self.mlp(self.mlp_norm(x)), keys, values


def _decode_attention(q: Array, prompt, keys: Array, values: Array, visible: Array):
    """Softmax attention over two caches as if they were one: [B, 1, H, C] → same.

    The R rows of a prompt read its keys together, as one matrix product. Each part is
    normalised by its own maximum; only their small sums are brought together.
    """
    prompt_keys, prompt_values, prompt_visible = prompt
    B, _, H, C = q.shape
    N, K = prompt_keys.shape[:2]
    R, J = B // N, H // K
    q = q.reshape(B, K, J, C) * C**-0.5
    # [B, K, J, …] ↔ [N, K, R·J, …]: rows of a prompt side by side with their heads.
    grouped = q.reshape(N, R, K, J, C).swapaxes(1, 2).reshape(N, K, R * J, C)
    old = _attend(grouped, prompt_keys, prompt_values, prompt_visible)
    old = [x.reshape(N, K, R, J, -1).swapaxes(1, 2).reshape(B, K, J, -1) for x in old]
    own = _attend(q, keys, values, visible)
    peak = jnp.maximum(old[2], own[2])
    heads = total = 0.0
    for part_heads, part_total, part_peak in (old, own):
        scale = jnp.exp(part_peak - peak)
        heads, total = heads + scale * part_heads, total + scale * part_total
    return (heads / total).astype(q.dtype).reshape(B, 1, H, C)


def _attend(q: Array, keys: Array, values: Array, visible: Array):
    """Attention before its division.

    Args:
      q: [X, K, Q, C], scaled.
      keys, values: [X, K, C, S], [X, K, S, C].
      visible: [X, S] bool, at least one True per row.

    Returns:
      Weighted values [X, K, Q, C], sum of weights and maximal score, both
      [X, K, Q, 1]; float32.
    """
    dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    scores = dot("XKQC,XKCS->XKQS", q, keys.astype(q.dtype))
    scores = jnp.where(visible[:, None, None], scores, -jnp.inf)
    peak = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - peak)
    total = weights.sum(-1, keepdims=True)
    heads = dot("XKQS,XKSC->XKQC", weights.astype(q.dtype), values.astype(q.dtype))
    return heads, total, peak


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
        rope = self._rope(positions)
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

    def layer_params(self) -> list[nnx.State]:
        """The stacked parameters layer by layer: a copy, made once per rollout."""
        _, stacked = nnx.split(self.layers)
        return [
            jax.tree.map(lambda p: p[i], stacked) for i in range(self.config.num_layers)
        ]

    def unstack(self, layer_params: list[nnx.State] | None = None) -> list[Block]:
        """The layers one by one, for `decode`."""
        graphdef, _ = nnx.split(self.layers)
        return [nnx.merge(graphdef, p) for p in layer_params or self.layer_params()]

    def decode(self, layers, tokens, positions, prompts: Prompts, cache, at, visible):
        """The hidden state of one new token per row.

        Args:
          layers: from `unstack`.
          tokens: [B] int32, the token to feed.
          positions: [B] int32, its position in its sequence, prompt included.
          prompts: N prompts of B/N rows each.
          cache: KVCache of the completions, S slots per row.
          at: scalar int32, the slot where new keys and values go, for all rows.
          visible: [B, S] bool, the slots to attend to, `at` among them.

        Returns:
          [B, D] in `dtype`, after the final norm, and the cache.
        """
        x = self._embed(tokens[:, None])
        rope = self._rope(positions[:, None])
        keys, values = list(cache.keys), list(cache.values)
        for i, layer in enumerate(layers):
            prompt = prompts.cache.keys[i], prompts.cache.values[i], prompts.visible
            x, keys[i], values[i] = layer.decode(
                x, rope, prompt, keys[i], values[i], at, visible
            )
        return self.final_norm(x)[:, 0], KVCache(tuple(keys), tuple(values))

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
        return jnp.einsum(
            "...D,VD->...V", hidden, w, preferred_element_type=jnp.float32
        )

    def _embed(self, tokens: Array) -> Array:
        table = sharding.gather_channels(self.embedding.get_value().astype(self.dtype))
        return sharding.constrain_batch(table[tokens])

    def _rope(self, positions: Array) -> tuple[Array, Array]:
        frequencies = rope_frequencies(
            self.config.head_dim, self.config.rope_theta, self.config.rope_scaling
        )
        angles = positions.astype(jnp.float32)[..., None] * frequencies[None, None]
        return jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]


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


def _rotate(x: Array, rope: tuple[Array, Array]) -> Array:
    """Turns the channel pairs (c, c + C/2) of [B, T, heads, C] by their angles."""
    cos, sin = rope
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


def _normal(std: float, rngs: nnx.Rngs):
    return lambda shape: std * jax.random.normal(rngs.params(), shape, jnp.float32)
