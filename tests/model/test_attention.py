"""Who sees whom, shown by gradients; and all ways of attending give the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.model import attention

B, H, K, C = 2, 4, 2, 8


def inputs(T, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(B, T, H, C), (B, T, K, C), (B, T, K, C)]
    return [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]


def ids(T):
    """Two segments and padding; the first branches twice, the second once."""
    segment = np.zeros(T, np.int32)
    branch = np.zeros(T, np.int32)
    a, b = T // 2, T - 5
    segment[:a], segment[a:b] = 1, 2
    branch[a // 4 : a // 2], branch[a // 2 : a] = 1, 2
    branch[a + 3 : b] = 1
    return tuple(jnp.asarray(np.tile(x, (B, 1))) for x in (segment, branch))


def allowed(segment, branch):
    """[T, T] by the definition, pair by pair."""
    T = len(segment)
    out = np.zeros((T, T), bool)
    for t in range(T):
        for s in range(t + 1):
            own = branch[s] in (0, branch[t])
            out[t, s] = segment[t] == segment[s] and own
    return out


def plain(q, k, v, mask):
    """The formula, with keys repeated."""
    k, v = (jnp.repeat(x, H // K, axis=2) for x in (k, v))
    scores = jnp.einsum("BTHC,BSHC->BHTS", q, k) / np.sqrt(C)
    weights = jax.nn.softmax(jnp.where(mask[None, None], scores, -jnp.inf))
    return jnp.einsum("BHTS,BSHC->BTHC", weights, v)


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("T", [7, 70, pytest.param(600, marks=pytest.mark.long)])
@pytest.mark.parametrize("keep_scores", [True, False])
def test_blocks_equal_the_formula(T, keep_scores, parts, monkeypatch):
    """One block, some blocks with a last one that is shorter, and the most blocks;
    with `parts`, 5 queries of a block at a time."""
    if parts:
        monkeypatch.setattr(attention, "_SCORE_BYTES", 5 * 4 * B * H * T)
    q, k, v = inputs(T)
    segment, branch = ids(T)
    mask = jnp.asarray(allowed(np.asarray(segment[0]), np.asarray(branch[0])))

    def blocks(q, k, v):
        seen = attention.view(segment, branch, jnp.float32)
        return attention.attend(q, k, v, seen, keep_scores=keep_scores)

    def both(f):
        return jax.jit(jax.value_and_grad(lambda *x: jnp.sin(f(*x)).sum(), (0, 1, 2)))(
            q, k, v
        )

    value, grads = both(blocks)
    expected, expected_grads = both(lambda *x: plain(*x, mask))
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    for a, b in zip(grads, expected_grads):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("keep_scores", [True, False])
def test_no_token_sees_a_later_one_another_segment_or_another_branch(keep_scores):
    """Each query's gradient in each key and value, against the definition."""
    T = 70
    q, k, v = inputs(T)
    segment, branch = ids(T)

    def read(kv, t):
        seen = attention.view(segment, branch, jnp.float32)
        out = attention.attend(q, *kv, seen, keep_scores=keep_scores)
        return jnp.sum(out[0, t] ** 3)

    grads = jax.jit(jax.vmap(jax.grad(read), in_axes=(None, 0)))((k, v), jnp.arange(T))
    expected = allowed(np.asarray(segment[0]), np.asarray(branch[0]))
    of_values = np.abs(grads[1][:, 0]).sum((-1, -2)) > 0
    np.testing.assert_array_equal(of_values, expected)
    of_keys = np.abs(grads[0][:, 0]).sum((-1, -2)) > 0
    assert not (of_keys & ~expected).any()
    assert not np.asarray(grads[0][:, 1]).any()  # nor another row


@pytest.mark.parametrize(
    ("T", "shape"),
    [
        (256, None),
        (256, (2, 1, 2)),
        pytest.param(1152, None, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_splash_equals_blocks(T, shape, devices):
    """The TPU's kernel, interpreted; on a mesh it runs on each device's rows and heads.
    The widest row has several blocks, of which some lie above the diagonal.
    1e-5: its online softmax adds up in another order."""
    q, k, v = inputs(T)
    segment, _ = ids(T)

    def splash(q, k, v):
        return attention.splash(q, k, v, segment, interpret=True)

    def blocks(q, k, v):
        seen = attention.view(segment, None, jnp.float32)
        return attention.attend(q, k, v, seen, keep_scores=True)

    def both(f):
        return jax.jit(jax.value_and_grad(lambda *x: jnp.sin(f(*x)).sum(), (0, 1, 2)))(
            q, k, v
        )

    expected, expected_grads = both(blocks)
    if shape is None:
        value, grads = both(splash)
    else:
        mesh = jax.sharding.Mesh(
            np.array(devices[:4]).reshape(shape),
            ("data", "fsdp", "tensor"),
            axis_types=(jax.sharding.AxisType.Auto,) * 3,
        )
        with jax.set_mesh(mesh):
            value, grads = both(splash)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for a, b in zip(grads, expected_grads):
        np.testing.assert_allclose(a, b, atol=1e-5)
