"""Buffers of compiled programs at the size of a real vocabulary; nothing is run."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hapo_jax.learner import head, packing, scoring
from hapo_jax.model import transformer
from hapo_jax.model.config import ModelConfig

LIMIT = 256 * 2**20
# Qwen2.5-0.5B but for its depth: layers are scanned, so one buffer serves all.
MODEL = ModelConfig(
    model_type="qwen2",
    vocab_size=151_936,
    d_model=896,
    d_ff=4864,
    num_layers=2,
    num_heads=14,
    num_kv_heads=2,
    head_dim=64,
    max_positions=32_768,
    qkv_bias=True,
    tie_embeddings=True,
)
_BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1, "s64": 8, "u8": 1}


def largest_buffers(compiled):
    """(bytes, shape) of every array that the program makes, largest first; those
    inside a fusion are never in memory."""
    found = set()
    fused = False
    for line in compiled.as_text().splitlines():
        if line.endswith("{") and not line.startswith(" "):
            fused = "fused_computation" in line.split("(")[0]
        match = re.match(r"\s+(?:ROOT )?%?[\w.\-]+ = (\w+)\[([\d,]+)\]", line)
        if fused or not match or match[1] not in _BYTES:
            continue
        shape = tuple(map(int, match[2].split(",")))
        found.add((_BYTES[match[1]] * int(np.prod(shape)), shape))
    return sorted(found, reverse=True)


def abstract(shape, dtype=jnp.int32):
    return jax.ShapeDtypeStruct(shape, dtype)


@pytest.mark.slow
def test_scoring_16k_tokens_of_a_large_vocabulary_needs_no_large_buffer():
    """Two packed rows of 8,192 tokens, one after the other; d = 896, V = 151,936. The
    head's logits, the feed-forward and the blocks of attention stay below 256 MiB each;
    the table of embeddings (519 MiB) is the only larger array."""
    tokens = 8_192
    model = nnx.eval_shape(lambda: transformer.Transformer(MODEL, rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(model, nnx.Param)
    width = head.chunk_tokens(MODEL.vocab_size)
    N = -(-tokens // width) * width
    by_row, by_target = abstract((2, 1, tokens)), abstract((2, 1, N))
    packed = packing.Packed(
        tokens=by_row,
        positions=by_row,
        segment_ids=by_row,
        branch_ids=by_row,
        places=by_row,
        sources=by_target,
        targets=by_target,
        counts=abstract((2, 1)),
        num_micros=abstract(()),
    )
    score = functools.partial(
        scoring.score, branches=False, base_temperature=1.0, width=width
    )
    compiled = (
        jax.jit(lambda params, packed: score(nnx.merge(graphdef, params), packed))
        .lower(params, packed)
        .compile()
    )
    of_params = {p.get_value().shape for _, p in nnx.to_flat_state(params)}
    table = (MODEL.vocab_size, MODEL.d_model)
    large = [
        (size, shape)
        for size, shape in largest_buffers(compiled)
        if size > LIMIT and shape not in of_params | {table, table[::-1]}
    ]
    assert not large, large


def test_the_head_keeps_nothing_of_the_size_of_tokens_times_vocabulary():
    """Loss and gradients of 16,384 tokens: beside the gradient of the table itself,
    less than 256 MiB per array."""
    S, N, D, V = 1, 16_384, 896, 151_936
    width = head.chunk_tokens(V)
    N = -(-N // width) * width

    def slopes(scores, weights):
        return (scores.logprobs * weights).sum(), head.Scores(weights)

    compiled = (
        jax.jit(
            lambda *args: head.gradients(
                slopes, *args, base_temperature=1.0, width=width
            )
        )
        .lower(
            abstract((S, N, D), jnp.float32),
            abstract((V, D), jnp.float32),
            abstract((S, N)),
            abstract((S,)),
            abstract((S, N), jnp.float32),
        )
        .compile()
    )
    large = [
        (size, shape)
        for size, shape in largest_buffers(compiled)
        if size > LIMIT and sorted(x for x in shape if x > 1) != sorted((V, D))
    ]
    assert not large, large
