"""The chunked head against full softmaxes and autodiff through them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.learner import head

S, N, D, V = 2, 6, 5, 11
COUNTS = np.array([6, 4])
THERE = np.arange(N) < COUNTS[:, None]
# float32 sums in another order.
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    hidden = jnp.asarray(rng.normal(size=(S, N, D)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=(V, D)), jnp.float32)
    targets = jnp.asarray(rng.integers(V, size=(S, N)), jnp.int32)
    return hidden, weight, targets, jnp.asarray(COUNTS)


def dense(hidden, weight, targets, *, base_temperature, cut_share):
    """All scores from whole softmaxes."""
    raw = jnp.einsum("SND,VD->SNV", hidden, weight)

    def of_targets(log_p):
        return jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0]

    p, tempered = jax.nn.softmax(raw), jax.nn.softmax(raw / base_temperature)
    kept = tempered >= cut_share * tempered.max(-1, keepdims=True)
    cut = jnp.where(kept, tempered, 0)
    return head.Scores(
        logprobs=of_targets(jnp.log(tempered)),
        entropy=-(p * jnp.log(p)).sum(-1),
        rank=of_targets(1 + jnp.argsort(jnp.argsort(-raw))),
        square_sum=(tempered**2).sum(-1),
        cut_logprobs=of_targets(jnp.log(cut / cut.sum(-1, keepdims=True))),
    )


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scores_are_those_of_whole_softmaxes(temperature):
    given = inputs()
    options = dict(base_temperature=temperature, cut_share=0.1)
    found = head.scores(*given, width=2, outputs=head.OUTPUTS, **options)
    expected = dense(*given[:3], **options)
    for name in ("logprobs", *head.OUTPUTS):
        values = getattr(expected, name)
        close(getattr(found, name)[THERE], values[THERE], err_msg=name)
    cut = np.isneginf(found.cut_logprobs[THERE])
    assert cut.any() and not cut.all()


def test_what_is_not_wanted_is_not_there():
    found = head.scores(
        *inputs(), width=2, outputs=frozenset({"rank"}), base_temperature=1.0
    )
    assert [n for n, x in found._asdict().items() if x is not None] == [
        "logprobs",
        "rank",
    ]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("with_entropy", [False, True])
def test_gradients_are_those_of_autodiff(temperature, with_entropy):
    """Of a loss that is not linear in the scores."""
    hidden, weight, targets, counts = inputs()
    factors = jnp.asarray(np.random.default_rng(1).normal(size=(S, N)) * THERE)

    def loss(free, factors):
        value = factors * jnp.exp(free.logprobs)
        if with_entropy:
            value += factors**2 * jnp.sin(free.entropy)
        return value.sum()

    def slopes(scores, factors):
        free = head.Scores(scores.logprobs, scores.entropy if with_entropy else None)
        return jax.value_and_grad(loss)(free, factors)

    def whole(hidden, weight):
        scores = dense(
            hidden, weight, targets, base_temperature=temperature, cut_share=0.1
        )
        return loss(scores, factors)

    value, *found = head.gradients(
        slopes,
        *(hidden, weight, targets, counts, factors),
        base_temperature=temperature,
        width=2,
        outputs=frozenset({"entropy"} if with_entropy else ()),
    )
    expected_value, expected = jax.value_and_grad(whole, (0, 1))(hidden, weight)
    close(value, expected_value)
    jax.tree.map(close, tuple(found), expected)


def test_the_entropy_slope_of_certain_and_unused_tokens_is_finite():
    raw = jnp.array([[[200.0, 0.0, -1e30], [0.0, 0.0, -1e30]]])
    np.testing.assert_array_equal(head._entropy_slope(raw), np.zeros((1, 2, 3)))
