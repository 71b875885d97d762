"""Properties of the decoder: caching, causality, segments, recomputing, dtypes.

That it computes what the published models compute is shown in `test_huggingface.py`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hapo_jax.model import decoding, rope, sharding, transformer
from hapo_jax.model.config import ModelConfig

LLAMA = ModelConfig(
    model_type="llama",
    vocab_size=64,
    d_model=32,
    d_ff=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_positions=64,
    rope_scaling=rope.Llama3(8.0, 1.0, 4.0, 16),
    init_std=0.2,
)
CONFIGS = {
    "llama": LLAMA,
    "qwen2": dataclasses.replace(
        LLAMA,
        model_type="qwen2",
        # Most positions here lie beyond the original length.
        rope_scaling=rope.Yarn(4.0, 4, attention_factor=1.14),
        qkv_bias=True,
        tie_embeddings=True,
    ),
    "qwen3": dataclasses.replace(
        LLAMA, model_type="qwen3", rope_scaling=None, qk_norm=True, head_dim=16
    ),
}
every_family = pytest.mark.parametrize("family", CONFIGS)

B, T = 2, 9  # one shape for most tests, so that each model compiles once


@functools.cache
def make_model(family, *, dtype=jnp.float32):
    """(graphdef, params), all random: a norm or bias that is left out would show."""
    config = CONFIGS[family]
    model = nnx.eval_shape(
        lambda: transformer.Transformer(config, dtype=dtype, rngs=nnx.Rngs(0))
    )
    graphdef, params = nnx.split(model, nnx.Param)
    rng = np.random.default_rng(0)  # not jax: its generator is slow to compile

    def draw(path, param):
        mean = 1.0 if path[-1] == "scale" else 0.0
        values = rng.normal(mean, config.init_std, param.get_value().shape)
        return param.replace(jnp.asarray(values, jnp.float32))

    flat = [(path, draw(path, p)) for path, p in nnx.to_flat_state(params)]
    return graphdef, nnx.from_flat_state(flat)


@functools.partial(jax.jit, static_argnums=0, static_argnames=("remat", "with_cache"))
def forward(graphdef, params, tokens, positions, segment_ids, **options):
    return nnx.merge(graphdef, params)(tokens, positions, segment_ids, **options)


@functools.partial(jax.jit, static_argnums=0)
def logits(graphdef, params, tokens, positions, segment_ids):
    model = nnx.merge(graphdef, params)
    return model.logits(model(tokens, positions, segment_ids))


def make_tokens(shape=(B, T), seed=2):
    return jax.random.randint(jax.random.key(seed), shape, 0, LLAMA.vocab_size)


def counted(shape=(B, T)):
    """Positions from 0 in every row, and one segment."""
    positions = jnp.broadcast_to(jnp.arange(shape[1])[None], shape)
    return positions, jnp.ones(shape, jnp.int32)


@every_family
@pytest.mark.parametrize("writes_last", [False, True])
def test_cached_decoding_equals_the_full_pass(family, writes_last):
    """Left-padded prompts of 5 and 3 tokens, prefilled; then 4 decoded tokens."""
    graphdef, params = model = make_model(family)
    prompt, steps = T - 4, 4
    tokens = make_tokens()
    pad = jnp.asarray([0, 2])
    real = jnp.arange(T)[None] >= pad[:, None]
    positions = jnp.maximum(jnp.arange(T)[None] - pad[:, None], 0)
    segments = real.astype(jnp.int32)
    full = forward(*model, tokens, positions, segments)
    prompt_columns = (x[:, :prompt] for x in (tokens, positions, segments))
    hidden, cache = forward(*model, *prompt_columns, with_cache=True)
    prompts = decoding.Prompts(cache, real[:, :prompt])
    cache = transformer.KVCache.empty(CONFIGS[family], B, steps, jnp.float32)
    # 1e-5: the same float32 sums in another order, through two layers.
    compare = {"rtol": 0, "atol": 1e-5}
    shown = np.asarray(real)[:, :prompt]
    np.testing.assert_allclose(
        np.asarray(hidden)[shown], np.asarray(full)[:, :prompt][shown], **compare
    )

    @jax.jit
    def decode(params, cache, token, position, at):
        model = nnx.merge(graphdef, params)
        visible = jnp.broadcast_to(jnp.arange(steps) <= at, (B, steps))
        weights = decoding.weights(model)
        return decoding.step(
            *(model.config, weights, token, position, prompts, cache, at, visible),
            writes_last=writes_last,
        )

    for t in range(prompt, T):
        column = tokens[:, t], positions[:, t], t - prompt
        hidden, cache = decode(params, cache, *column)
        np.testing.assert_allclose(hidden, full[:, t], **compare)


@every_family
def test_no_gradient_from_the_future(family):
    """Position t reads the embeddings of tokens 0..t and of no others.

    1. All tokens differ, so each embedding row belongs to one position.
    2. The head is cut off from the tied table by looking at hidden states.
    3. Rows of later positions must get exactly zero, earlier ones must not.
    """
    graphdef, params = make_model(family)
    tokens = jnp.arange(T)[None]
    positions, segments = counted((1, T))

    @jax.jit
    def rows(t):
        def read(params):
            hidden = forward(graphdef, params, tokens, positions, segments)
            return jnp.sum(hidden[0, t] ** 3)

        return jnp.abs(jax.grad(read)(params)["embedding"][...]).sum(-1)[:T]

    for t in range(T):
        sensitivity = np.asarray(rows(t))
        assert (sensitivity[: t + 1] > 0).all(), (t, sensitivity)
        assert (sensitivity[t + 1 :] == 0).all(), (t, sensitivity)


@every_family
def test_segments_do_not_see_each_other(family):
    """Sequences of 5 and 4 tokens packed in a row give what each gives alone."""
    model = make_model(family)
    tokens, (positions, ones) = make_tokens(), counted()
    packed_positions = jnp.where(positions < 5, positions, positions - 5)
    packed_segments = jnp.where(positions < 5, 1, 2)
    packed = forward(*model, tokens, packed_positions, packed_segments)
    first = forward(*model, tokens, positions, ones)[:, :5]
    moved = jnp.roll(tokens, -5, axis=1)
    second = forward(*model, moved, positions, ones)[:, :4]
    alone = jnp.concatenate([first, second], 1)
    np.testing.assert_allclose(packed, alone, rtol=0, atol=1e-5)


@every_family
def test_padding_changes_nothing(family):
    """Padding columns before a sequence, whatever they hold, leave it as it is."""
    model = make_model(family)
    tokens, (positions, ones) = make_tokens(), counted()
    segments = (positions >= 2).astype(jnp.int32)
    padded_positions = jnp.maximum(positions - 2, 0)
    padded = forward(*model, tokens, padded_positions, segments)[:, 2:]
    moved = jnp.roll(tokens, -2, axis=1)
    bare = forward(*model, moved, positions, ones)[:, : T - 2]
    np.testing.assert_allclose(padded, bare, rtol=0, atol=1e-5)
    changed = tokens.at[:, :2].set((tokens[:, :2] + 1) % LLAMA.vocab_size)
    other = forward(*model, changed, padded_positions, segments)[:, 2:]
    np.testing.assert_array_equal(padded, other)


@every_family
def test_only_distances_between_positions_count(family):
    model = make_model(family)
    tokens = make_tokens()
    positions, segments = counted()
    # 1e-4: angles 20 times larger lose that much in float32.
    np.testing.assert_allclose(
        forward(*model, tokens, positions, segments),
        forward(*model, tokens, positions + 20, segments),
        rtol=0,
        atol=1e-4,
    )


@every_family
def test_order_matters(family):
    """Swapping two earlier tokens changes the last state: rotary angles are applied."""
    model = make_model(family)
    tokens = jnp.arange(B * T).reshape(B, T)
    swapped = tokens.at[:, :2].set(tokens[:, :2][:, ::-1])
    a, b = (forward(*model, x, *counted())[:, -1] for x in (tokens, swapped))
    assert (np.abs(np.asarray(a - b)).max(-1) > 1e-2).all()


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_recomputing_layers_changes_no_gradient(remat):
    graphdef, params = make_model("qwen3")
    tokens, (positions, segments) = make_tokens(), counted()

    def loss(params, remat):
        model = nnx.merge(graphdef, params)
        hidden = model(tokens, positions, segments, remat=remat)
        return jnp.mean(jax.nn.logsumexp(model.logits(hidden), -1))

    grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    plain, recomputed = grad(params, "none"), grad(params, remat)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(recomputed)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    for path, leaf in nnx.to_flat_state(plain[1]):
        assert np.abs(np.asarray(leaf.get_value())).max() > 0, f"{path} is not used"


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("qwen3", (8, 1, 1)),
        ("qwen3", (2, 4, 1)),
        ("qwen3", (2, 2, 2)),
        ("qwen2", (2, 2, 2)),
        ("llama", (2, 2, 2)),
    ],
)
def test_sharded_equals_one_device(family, shape, mesh8):
    mesh = mesh8(shape)
    graphdef, params = make_model(family)
    rows = (make_tokens((8, T)), *counted((8, T)))
    expected = logits(graphdef, params, *rows)
    params = jax.device_put(
        params, sharding.param_shardings(params, mesh, sharding.TRAIN_RULES)
    )
    rows = jax.device_put(rows, sharding.batch_sharding(mesh))
    with jax.set_mesh(mesh):
        actual = logits(graphdef, params, *rows)
    # 1e-4: sums over split axes run in another order.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)


def test_bfloat16_layers_give_float32_logits():
    batch = (make_tokens(), *counted())
    exact = logits(*make_model("qwen3"), *batch)
    graphdef, params = make_model("qwen3", dtype=jnp.bfloat16)
    hidden = forward(graphdef, params, *batch)
    rounded = logits(graphdef, params, *batch)
    assert (hidden.dtype, rounded.dtype) == (jnp.bfloat16, jnp.float32)
    error = np.abs(np.asarray(rounded - exact)).max()
    # bfloat16 keeps 8 bits: errors of a few percent of the spread, and never none.
    assert 1e-4 < error / np.asarray(exact).std() < 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_kv_heads": 3}, "num_attention_heads=4 must be a multiple"),
        ({"head_dim": 7}, "head_dim=7 must be even"),
    ],
)
def test_impossible_sizes(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(LLAMA, **change)
