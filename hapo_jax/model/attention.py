"""Attention over whole sequences: who sees whom, and how it is computed where.

A row holds segments one after another, and a segment may branch: a token sees the
earlier tokens of its own segment that are of branch 0 or of its own branch. Decoding,
which has a cache, is in `transformer.py`.

Three ways, chosen in `view` and nowhere else:

  blocks   anywhere. Blocks of queries, each against the keys up to its own end: half
           the work of a square, but scores are written to memory.
  cudnn    GPU, half precision. The kernel keeps no scores; it takes the mask as an
           array [B, 1, T, T], which grows with the square of a row.
  splash   TPU, rows without branches. The kernel keeps no scores and takes the ids; it
           cannot express branches, so rows that share prompts go by blocks.

Letters: B rows, T queries, S keys, H query heads, K key/value heads, J = H/K, C
channels per head.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
)

from hapo_jax.model import sharding
from hapo_jax.system import target

Array = jax.Array

# Blocks of queries are unrolled in the program, so there are at most this many. Those
# whose scores would take more than this on a device are cut further, in a loop.
_MOST_BLOCKS = 16
_LEAST_BLOCK = 32
_SCORE_BYTES = 64 * 2**20

# Rows that the kernels take have a multiple of this many columns.
KERNEL_COLUMNS = 128

# Below every score, and finite: a query that sees nothing would give NaN otherwise.
_NEVER = -1e30


class View(NamedTuple):
    """Which keys each query sees, made once per batch for all layers.

    Attributes:
      segment_ids: [B, T] int32, for splash; else None.
      masks: bool. Blocks: one [B, queries, keys up to the block's end] per block;
        cudnn: one [B, 1, T, T]; splash: none.
    """

    segment_ids: Array | None
    masks: tuple[Array, ...]


def view(segment_ids: Array, branch_ids: Array | None, dtype) -> View:
    """The View of rows [B, T] int32 for layers that compute in `dtype`.

    `branch_ids` is None where no segment branches.
    """
    T = segment_ids.shape[1]
    whole = T % KERNEL_COLUMNS == 0
    if target.platform() == "tpu" and whole and branch_ids is None:
        return View(segment_ids, ())
    if _by_cudnn(T, dtype):
        return View(None, (_mask(segment_ids, branch_ids, 0, T)[:, None],))
    masks = [_mask(segment_ids, branch_ids, *ends) for ends in _blocks(T)]
    return View(None, tuple(masks))


def unread_gradient(columns: int, dtype) -> bool:
    """Whether rows of so many columns go to cuDNN, and jax is of before 0.12: its
    backward pass then makes a gradient in the mask, [B, H, T, T] per layer."""
    return _by_cudnn(columns, dtype) and jax.__version_info__ < (0, 12)


def _by_cudnn(columns: int, dtype) -> bool:
    whole = columns % KERNEL_COLUMNS == 0
    return target.platform() == "gpu" and whole and dtype == jnp.bfloat16


def attend(q: Array, k: Array, v: Array, seen: View, *, keep_scores: bool) -> Array:
    """Softmax attention under a View.

    Args:
      q: [B, T, H, C].
      k, v: [B, T, K, C].
      seen: of the same rows.
      keep_scores: blocks keep their exponentials for the backward pass, which is fast
        and needs B·H·T²/2 numbers per layer; else each block makes them again.

    Returns:
      [B, T, H, C], in the dtype of q.
    """
    if seen.segment_ids is not None:
        return splash(q, k, v, seen.segment_ids)
    if seen.masks[0].ndim == 4:
        return jax.nn.dot_product_attention(
            q, k, v, mask=seen.masks[0], implementation="cudnn"
        )
    return _by_blocks(q, k, v, seen.masks, keep_scores)


def _mask(segment_ids, branch_ids, start: int, end: int) -> Array:
    """[B, end - start, end]: who sees whom among the queries start … end - 1."""
    # Made by the program, and not a constant of it: of T² bytes.
    earlier = jnp.arange(end)[None] <= jnp.arange(start, end)[:, None]
    seen = segment_ids[:, start:end, None] == segment_ids[:, None, :end]
    if branch_ids is not None:
        of_query, of_key = branch_ids[:, start:end, None], branch_ids[:, None, :end]
        seen &= (of_key == 0) | (of_key == of_query)
    return seen & earlier[None]


def _blocks(length: int) -> list[tuple[int, int]]:
    """(start, end) of the blocks of queries."""
    size = max(_LEAST_BLOCK, -(-length // _MOST_BLOCKS))
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def _by_blocks(q: Array, k: Array, v: Array, masks, keep_scores: bool) -> Array:
    """`attend` without a kernel."""
    B, T, H, C = q.shape
    K = k.shape[2]
    # The queries of a head group lie side by side, [B, K, T, J, C], so that a block of
    # them is one matrix and keys are never repeated.
    q = (q * C**-0.5).reshape(B, T, K, H // K, C).transpose(0, 2, 1, 3, 4)
    k, v = k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)
    mesh = jax.sharding.get_abstract_mesh()
    per_query = 4 * B * H * T // (1 if mesh.empty else mesh.size)
    block = functools.partial(
        _in_parts,
        _block if keep_scores else jax.checkpoint(_block),
        size=max(1, _SCORE_BYTES // per_query),
    )
    heads = [
        block(q[:, :, start:end], k[..., :end], v[:, :, :end], mask)
        for (start, end), mask in zip(_blocks(T), masks)
    ]
    heads = jnp.concatenate(heads, axis=2)
    return heads.transpose(0, 2, 1, 3, 4).reshape(B, T, H, C)


def _in_parts(block, q: Array, k: Array, v: Array, mask: Array, *, size: int) -> Array:
    """`_block`, `size` queries at a time."""
    t = q.shape[2]
    whole = t // size * size
    if t <= size:
        return block(q, k, v, mask)

    def parts(x, axis):
        x = jax.lax.slice_in_dim(x, 0, whole, axis=axis)
        shape = (*x.shape[:axis], whole // size, size, *x.shape[axis + 1 :])
        return jnp.moveaxis(x.reshape(shape), axis, 0)

    heads = jax.lax.map(
        lambda part: block(part[0], k, v, part[1]), (parts(q, 2), parts(mask, 1))
    )
    heads = jnp.moveaxis(heads, 0, 2)
    heads = heads.reshape(*q.shape[:2], whole, *q.shape[3:])
    if whole == t:
        return heads
    rest = block(q[:, :, whole:], k, v, mask[:, whole:])
    return jnp.concatenate([heads, rest], axis=2)


def _block(q: Array, k: Array, v: Array, mask: Array) -> Array:
    """[B, K, t, J, C] queries, [B, K, C, S] keys, [B, K, S, C] values → as queries."""
    B, K, t, J, C = q.shape
    dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    scores = dot("BKQC,BKCS->BKQS", q.reshape(B, K, t * J, C), k)
    scores = jnp.where(jnp.repeat(mask, J, axis=1)[:, None], scores, _NEVER)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    # Divided behind the product: one pass over C channels instead of S keys.
    total = weights.sum(-1, keepdims=True)
    heads = dot("BKQS,BKSC->BKQC", weights.astype(v.dtype), v) / total
    return heads.astype(q.dtype).reshape(B, K, t, J, C)


def splash(
    q: Array, k: Array, v: Array, segment_ids: Array, *, interpret: bool = False
) -> Array:
    """`attend` by the Pallas kernel for TPU, device by device; shapes as there.

    Rows lie over data and fsdp, heads over tensor, as `sharding.py` splits them.
    `interpret` runs the kernel's program on any device, slowly, for tests.
    """
    attend_local = functools.partial(_splash_local, interpret=interpret)
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        heads, rows = sharding.attention_specs()
        attend_local = jax.shard_map(
            attend_local,
            in_specs=(heads, heads, heads, rows),
            out_specs=heads,
            check_vma=False,  # the kernel does not say how its outputs vary
        )
    return attend_local(q, k, v, segment_ids)


def _splash_local(q, k, v, segment_ids, *, interpret: bool) -> Array:
    """`splash` on one device."""
    T, H, C = q.shape[1:]
    causal = splash_attention_mask.CausalMask((T, T))
    size = max(n for n in (128, 256, 512) if T % n == 0)
    keys = max(n for n in range(size, 1024 + 1, size) if T % n == 0)
    kernel = splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([causal] * H),
        block_sizes=splash_attention_kernel.BlockSizes(
            *(size,) * 3,
            block_q_dkv=size,
            # One kernel makes all gradients: five products instead of seven, for a
            # share of dq per block of keys, which is why those are wide.
            use_fused_bwd_kernel=True,
            block_kv_dkv=keys,
            block_kv_dkv_compute=size,
        ),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )

    def row(q, k, v, ids):
        ids = splash_attention_kernel.SegmentIds(ids, ids)
        return kernel(q, k, v, segment_ids=ids)

    heads_first = (x.swapaxes(1, 2) for x in (q * C**-0.5, k, v))
    return jax.vmap(row)(*heads_first, segment_ids).swapaxes(1, 2).astype(q.dtype)
