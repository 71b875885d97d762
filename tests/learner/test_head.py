"""The chunked head against full softmaxes and autodiff through them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.learner import head, packing

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


def how_drawn(seed=0):
    """Temperatures and cuts of all kinds; a third of the tokens was not drawn."""
    rng = np.random.default_rng(seed)
    temperature = rng.uniform(0.5, 1.5, (S, N)) * (np.arange(S * N) % 3 > 0).reshape(
        S, N
    )
    cut = np.where(rng.random((S, N)) < 0.2, -np.inf, -rng.uniform(0.1, 4, (S, N)))
    return packing.Drawn(jnp.float32(temperature), jnp.float32(cut))


def dense(hidden, weight, targets, *, base_temperature, cut_share, drawn=None):
    """All scores from whole softmaxes."""
    raw = jnp.einsum("SND,VD->SNV", hidden, weight)

    def of_targets(x):
        return jnp.take_along_axis(x, targets[..., None], -1)[..., 0]

    p, tempered = jax.nn.softmax(raw), jax.nn.softmax(raw / base_temperature)
    if drawn is not None:
        was = np.asarray(drawn.temperature)[..., None] > 0
        relative = jax.lax.stop_gradient(raw - raw.max(-1, keepdims=True))
        could = relative > drawn.cut_logit[..., None]
        could |= jax.nn.one_hot(targets, V, dtype=bool)
        weights = jnp.exp(raw / np.where(was, drawn.temperature[..., None], 1))
        weights = jnp.where(could, weights, 0)
        weights = weights / weights.sum(-1, keepdims=True)
        tempered = jnp.where(was, weights, tempered)
    kept = tempered >= cut_share * tempered.max(-1, keepdims=True)
    cut = jnp.where(kept, tempered, 0)
    return head.Scores(
        logprobs=jnp.log(of_targets(tempered)),
        entropy=-(p * jnp.log(p)).sum(-1),
        rank=of_targets(1 + jnp.argsort(jnp.argsort(-raw))),
        square_sum=(tempered**2).sum(-1),
        cut_logprobs=jnp.log(of_targets(cut / cut.sum(-1, keepdims=True))),
    )


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("drawn", [None, how_drawn()], ids=["base", "sampled"])
def test_scores_are_those_of_whole_softmaxes(temperature, drawn):
    given = inputs()
    options = dict(base_temperature=temperature, cut_share=0.1, drawn=drawn)
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
@pytest.mark.parametrize("drawn", [None, how_drawn()], ids=["base", "sampled"])
def test_gradients_are_those_of_autodiff(temperature, with_entropy, drawn):
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
        options = dict(base_temperature=temperature, cut_share=0.1, drawn=drawn)
        return loss(dense(hidden, weight, targets, **options), factors)

    value, *found = head.gradients(
        slopes,
        *(hidden, weight, targets, counts, factors),
        base_temperature=temperature,
        drawn=drawn,
        width=2,
        outputs=frozenset({"entropy"} if with_entropy else ()),
    )
    expected_value, expected = jax.value_and_grad(whole, (0, 1))(hidden, weight)
    close(value, expected_value)
    jax.tree.map(close, tuple(found), expected)


def test_the_cut_is_kept_by_hand():
    """Logits 0, -1, -2, -3: of a cut between the third and the fourth, at temperature
    2; and the token that was drawn is kept below any cut."""
    hidden, weight = jnp.ones((1, 2, 1)), -jnp.arange(4.0)[:, None]
    drawn = packing.Drawn(jnp.array([[2.0, 2.0]]), jnp.array([[-2.5, -0.5]]))
    found = head.scores(
        *(hidden, weight, jnp.array([[1, 3]]), jnp.array([2])),
        drawn=drawn,
        base_temperature=1.0,
        width=2,
    )
    three = np.log(np.exp([0, -0.5, -1]).sum())
    two = np.log(np.exp([0, -1.5]).sum())
    close(found.logprobs, [[-0.5 - three, -1.5 - two]])


def test_a_constant_cut_of_nothing_at_the_base_temperature_is_the_base():
    *given, counts = inputs()
    nothing = jnp.full((S, N), 0.7), jnp.full((S, N), -jnp.inf)
    options = dict(width=2, base_temperature=0.7, cut_share=0.1, outputs=head.OUTPUTS)
    found = head.scores(*given, counts, drawn=packing.Drawn(*nothing), **options)
    jax.tree.map(close, found, head.scores(*given, counts, **options))


def test_the_entropy_slope_of_certain_and_unused_tokens_is_finite():
    raw = jnp.array([[[200.0, 0.0, -1e30], [0.0, 0.0, -1e30]]])
    np.testing.assert_array_equal(head._entropy_slope(raw), np.zeros((1, 2, 3)))
