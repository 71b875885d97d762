"""One token per row: the policy's weights and attention as decoding wants them.

Decoding multiplies few rows with every weight, so what costs is how often the weights
are visited and how they lie. `weights` copies them once per rollout: layers apart (a
scan would copy each layer's slice at every token), the projections of a layer side by
side, and the large matrices as [out, in], to be multiplied by activations [in, B].
XLA's CPU product repacks its right factor, which is cheap for B rows and dear for a
weight: 168 against 134 GFLOP/s at 64 rows, 161 against 118 at 16.

`step` computes what `Transformer.__call__` computes for whole sequences; the sampler's
tests compare the two.

Letters as in `transformer.py`; N prompts of B/N rows each, P prompt and S own columns.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hapo_jax.model import sharding, transformer
from hapo_jax.model.config import ModelConfig

Array = jax.Array


class Layer(NamedTuple):
    """One layer's weights in the compute dtype, norms in float32.

    Queries of a key/value head, its key and its value lie side by side (J = H/K
    queries), so that a `tensor` axis splits them together.

    Attributes:
      attention_norm, mlp_norm: [D].
      project: [D, K, J + 2, C].
      bias: [K, J + 2, C], or None.
      query_norm, key_norm: [C], or None.
      out: [D, K, J, C].
      gate_up: [2, F, D].
      down: [D, F].
    """

    attention_norm: Array
    project: Array
    bias: Array | None
    query_norm: Array | None
    key_norm: Array | None
    out: Array
    mlp_norm: Array
    gate_up: Array
    down: Array


class Weights(NamedTuple):
    """All weights.

    Attributes:
      embedding: [V, D].
      layers: one by one.
      final_norm: [D].
      head: [V, D], or None where it is the embedding.
    """

    embedding: Array
    layers: tuple[Layer, ...]
    final_norm: Array
    head: Array | None


class Prompts(NamedTuple):
    """The prompts that decoding rows attend to, each kept once for all its rows.

    Rows b = n·R … n·R + R - 1 continue prompt n: N prompts, R = B/N rows each.

    Attributes:
      cache: N rows, P columns.
      visible: [N, P] bool, False on padding; at least one True per prompt.
    """

    cache: transformer.KVCache
    visible: Array


def weights(model: transformer.Transformer) -> Weights:
    """A copy of the model's weights, to be made once per rollout."""
    c, dtype = model.config, model.dtype
    K, J = c.num_kv_heads, c.num_heads // c.num_kv_heads
    attention, mlp = model.layers.attention, model.layers.mlp

    def layer(i: int) -> Layer:
        def of(param) -> Array:
            return param.get_value()[i]

        def side_by_side(q, k, v) -> Array:
            """[..., H, C] and two [..., K, C] → [..., K, J + 2, C]."""
            q, k, v = (of(x).astype(dtype) for x in (q, k, v))
            q = q.reshape(*q.shape[:-2], K, J, c.head_dim)
            return jnp.concatenate([q, k[..., None, :], v[..., None, :]], axis=-2)

        return Layer(
            attention_norm=of(model.layers.attention_norm.scale),
            project=side_by_side(attention.query, attention.key, attention.value),
            bias=side_by_side(
                attention.query_bias, attention.key_bias, attention.value_bias
            )
            if c.qkv_bias
            else None,
            query_norm=of(attention.query_norm.scale) if c.qk_norm else None,
            key_norm=of(attention.key_norm.scale) if c.qk_norm else None,
            out=jnp.moveaxis(of(attention.out).astype(dtype), -1, 0).reshape(
                c.d_model, K, J, c.head_dim
            ),
            mlp_norm=of(model.layers.mlp_norm.scale),
            gate_up=jnp.stack([of(mlp.gate).T, of(mlp.up).T]).astype(dtype),
            down=of(mlp.down).T.astype(dtype),
        )

    return Weights(
        embedding=model.embedding.get_value().astype(dtype),
        layers=tuple(layer(i) for i in range(c.num_layers)),
        final_norm=model.final_norm.scale.get_value(),
        head=None if c.tie_embeddings else model.unembedding().astype(dtype),
    )


def shardings(config: ModelConfig, mesh: jax.sharding.Mesh) -> Weights:
    """Where `weights` lie: whole, but for what the `tensor` axis splits."""
    of = functools.partial(sharding.of_axes, mesh, sharding.SAMPLE_RULES)
    layer = Layer(
        attention_norm=of("embed"),
        project=of("embed", "kv_heads"),
        bias=of("kv_heads") if config.qkv_bias else None,
        query_norm=of("head_dim") if config.qk_norm else None,
        key_norm=of("head_dim") if config.qk_norm else None,
        out=of("embed", "kv_heads", None, "head_dim"),
        mlp_norm=of("embed"),
        gate_up=of(None, "mlp", "embed"),
        down=of("embed", "mlp"),
    )
    return Weights(
        embedding=of("vocab", "embed"),
        layers=(layer,) * config.num_layers,
        final_norm=of("embed"),
        head=None if config.tie_embeddings else of("vocab", "embed"),
    )


def logits(config: ModelConfig, weights: Weights, hidden: Array) -> Array:
    """[B, D] → untempered logits [B, V] in float32."""
    head = weights.embedding if weights.head is None else weights.head
    columns = jnp.matmul(head, hidden.T, preferred_element_type=jnp.float32)
    # Turned round as a step of its own: otherwise XLA on a CPU multiplies the other
    # way round, or draws from columns.
    rows = jax.lax.optimization_barrier(jax.lax.optimization_barrier(columns).T)
    return transformer.mask_unused(rows, config.unused_ids)


def step(
    config: ModelConfig,
    weights: Weights,
    tokens: Array,
    positions: Array,
    prompts: Prompts,
    cache: transformer.KVCache,
    at: Array,
    visible: Array,
    *,
    writes_last: bool = False,
) -> tuple[Array, transformer.KVCache]:
    """The hidden state of one new token per row, which sees its prompt and itself.

    Args:
      config: sizes.
      weights: see `weights`.
      tokens: [B] int32, the token to feed.
      positions: [B] int32, its position in its sequence, prompt included.
      prompts: N prompts of B/N rows each.
      cache: KVCache of the completions, S columns per row.
      at: scalar int32, the column where new keys and values go, for all rows.
      visible: [B, S] bool, the columns to attend to, `at` among them.
      writes_last: whether keys and values are written after all layers, and not before
        each reads its own; a matter of speed, see `rollout/tuning.py`.

    Returns:
      [B, D] in the compute dtype, after the final norm, and the cache.
    """
    norm = functools.partial(_norm, eps=config.rms_eps)
    table = sharding.gather_channels(weights.embedding)
    x = sharding.constrain_batch(table[tokens]).T  # [D, B]
    angles = transformer.rope_angles(config, positions)
    rope = tuple(x[:, None, None] for x in angles)  # [B, 1, 1, C/2]
    keys, values, fresh = list(cache.keys), list(cache.values), []
    if writes_last:
        visible = visible & (jnp.arange(visible.shape[1]) != at)[None]
    for i, layer in enumerate(weights.layers):
        q, k, v = _project(config, layer, norm(x, layer.attention_norm), rope)
        if not writes_last:
            keys[i], values[i] = _write(keys[i], values[i], k, v, at)
        prompt = prompts.cache.keys[i], prompts.cache.values[i], prompts.visible
        own, itself = (keys[i], values[i], visible), (k, v) if writes_last else None
        heads = _attention(q, prompt, own, itself)
        x = x + layer.out.reshape(len(x), -1) @ heads.reshape(len(heads), -1).T
        x = x + _feed_forward(layer, norm(x, layer.mlp_norm))
        fresh.append((k, v))
    if writes_last:
        x, fresh = jax.lax.optimization_barrier((x, fresh))
        for i, (k, v) in enumerate(fresh):
            keys[i], values[i] = _write(keys[i], values[i], k, v, at)
    cache = transformer.KVCache(tuple(keys), tuple(values))
    return norm(x, weights.final_norm).T, cache


def _write(keys: Array, values: Array, k: Array, v: Array, at: Array):
    """Puts a token's key and value [B, K, C] into column `at` of a layer's cache."""
    k, v = k[..., None].astype(keys.dtype), v[:, :, None].astype(values.dtype)
    keys = jax.lax.dynamic_update_slice_in_dim(keys, k, at, axis=3)
    return keys, jax.lax.dynamic_update_slice_in_dim(values, v, at, axis=2)


def _norm(x: Array, scale: Array, *, eps: float) -> Array:
    """`transformer.rms_norm` of [D, B] over D."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32**2, 0, keepdims=True) + eps)
    return (x32 * scale[:, None]).astype(x.dtype)


def _project(config: ModelConfig, layer: Layer, x: Array, rope):
    """[D, B] → queries [B, K, J, C], keys and values [B, K, C]."""
    D, *heads = layer.project.shape
    # Heads must lie behind rows, and turning them round costs more than it gains here.
    qkv = jnp.einsum("DB,DX->BX", x, layer.project.reshape(D, -1)).reshape(-1, *heads)
    if layer.bias is not None:
        qkv = qkv + layer.bias[None]
    turned, v = qkv[:, :, :-1], qkv[:, :, -1]
    if config.qk_norm:
        scale = jnp.broadcast_to(layer.query_norm, (heads[1] - 2, heads[2]))
        scale = jnp.concatenate([scale, layer.key_norm[None]])
        turned = transformer.rms_norm(turned, scale, eps=config.rms_eps)
    turned = transformer.rotate(turned, rope)
    return turned[:, :, :-1], turned[:, :, -1], v


def _feed_forward(layer: Layer, x: Array) -> Array:
    """SwiGLU of [D, B]."""
    gate, up = jnp.einsum("GFD,DB->GFB", layer.gate_up, x)
    return layer.down @ (jax.nn.silu(gate) * up)


def _attention(q: Array, prompt, own, itself) -> Array:
    """Softmax attention over two caches as if they were one: [B, K, J, C] → same.

    Both are (keys, values, visible); the prompt's of N rows. The R rows of a prompt
    read its keys together, as one matrix product. `itself` is the token's key and value
    [B, K, C], or None if its own cache has them. Each part is normalised by its own
    maximum; only their small sums are brought together.
    """
    B, K, J, C = q.shape
    N = len(prompt[0])
    R = B // N
    q = q * C**-0.5
    # [B, K, J, …] ↔ [N, K, R·J, …]: rows of a prompt side by side with their heads.
    grouped = q.reshape(N, R, K, J, C).swapaxes(1, 2).reshape(N, K, R * J, C)
    old = _attend(grouped, *prompt)
    old = [x.reshape(N, K, R, J, -1).swapaxes(1, 2).reshape(B, K, J, -1) for x in old]
    parts = [old, _attend(q, *own)]
    if itself is not None:
        k, v = (x.astype(jnp.float32)[:, :, None] for x in itself)
        score = (q.astype(jnp.float32) * k).sum(-1, keepdims=True)
        parts.append((v, jnp.ones_like(score), score))
    peak = functools.reduce(jnp.maximum, [part_peak for *_, part_peak in parts])
    heads = total = 0.0
    for part_heads, part_total, part_peak in parts:
        scale = jnp.exp(part_peak - peak)
        heads, total = heads + scale * part_heads, total + scale * part_total
    return (heads / total).astype(q.dtype)


def _attend(q: Array, keys: Array, values: Array, visible: Array):
    """Attention before its division.

    Args:
      q: [X, K, Q, C], scaled.
      keys, values: [X, K, C, S], [X, K, S, C].
      visible: [X, S] bool; where nothing is, the maximum lies below all other scores.

    Returns:
      Weighted values [X, K, Q, C], sum of weights and maximal score, both
      [X, K, Q, 1]; float32.
    """
    dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    scores = dot("XKQC,XKCS->XKQS", q, keys.astype(q.dtype))
    scores = jnp.where(visible[:, None, None], scores, transformer.NEVER)
    peak = scores.max(-1, keepdims=True)
    part = jnp.exp(scores - peak)
    total = part.sum(-1, keepdims=True)
    heads = dot("XKQS,XKSC->XKQC", part.astype(q.dtype), values.astype(q.dtype))
    return heads, total, peak
