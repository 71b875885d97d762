import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import entropy

# log-entropies -3 -2 -1 / 0 1 and one padded token; quantile 0.8 is at index 3.
LOGS = np.array([[-3.0, -2.0, -1.0], [0.0, 1.0, 50.0]], np.float32)
NATS = jnp.exp(jnp.array(LOGS))
MASK = jnp.array([[True, True, True], [True, True, False]])
SIGMA = np.std([-3.0, -2.0, -1.0, 0.0, 1.0])
OPTIONS = {"quantile": 0.8, "floor": 1e-8}


@pytest.fixture(params=[jax.jit, lambda f: f], ids=["jit", "eager"])
def variant(request):
    return request.param


def _fit(nats=NATS, mask=MASK, **options):
    previous = entropy.initial_stats()
    return entropy.fit(nats, mask, **{**OPTIONS, "previous": previous, **options})


def test_statistics_by_hand(variant):
    stats = variant(_fit)(NATS, MASK)
    expected = entropy.EntropyStats(0.0, SIGMA, 1 / SIGMA, -3 / SIGMA)
    np.testing.assert_allclose(stats, expected, rtol=1e-5, atol=1e-6)


def test_spread_about_the_quantile():
    stats = _fit(spread="quantile_rms")
    rms = np.sqrt((9 + 4 + 1 + 0 + 1) / 5)
    np.testing.assert_allclose(stats.std, rms, rtol=1e-5)


def test_score_by_hand(variant):
    def score(nats):
        return entropy.score(nats, _fit(), floor=1e-8)

    expected = [[-1.0, -2 / 3, -1 / 3], [0.0, 1.0, 1.0]]
    np.testing.assert_allclose(variant(score)(NATS), expected, atol=1e-6)


def test_sign_confident_tokens_score_negative_and_uncertain_ones_positive():
    score = np.asarray(entropy.score(NATS, _fit(), floor=1e-8))
    raw = np.asarray(entropy.raw_score(NATS, _fit(), floor=1e-8))
    assert (score[0] < 0).all() and (raw[0] < 0).all()
    assert score[1, 1] > 0 and raw[1, 1] > 0


def test_public_sign_makes_confident_tokens_positive():
    score = entropy.score(NATS, _fit(), floor=1e-8, low_sign="public")
    expected = [[1.0, 2 / 3, 1 / 3], [0.0, 1.0, 1.0]]
    np.testing.assert_allclose(score, expected, atol=1e-6)


def test_sigma_cancels_in_the_score():
    other = _fit(spread="quantile_rms")
    np.testing.assert_allclose(
        entropy.score(NATS, other, floor=1e-8),
        entropy.score(NATS, _fit(), floor=1e-8),
        atol=1e-6,  # the same quotient, rounded differently
    )


def test_tokens_beyond_the_statistics_end_at_one():
    nats = jnp.exp(jnp.array([-30.0, 30.0]))
    score = entropy.score(nats, _fit(), floor=1e-8)
    np.testing.assert_array_equal(score, [-1.0, 1.0])


def test_floor_counts_for_smaller_entropies():
    nats = jnp.array([[0.0, 1e-12, 1e-3]])
    score = entropy.raw_score(nats, _fit(), floor=1e-3)
    np.testing.assert_array_equal(score, np.full((1, 3), score[0, 2]))


def test_initial_statistics_score_everything_zero():
    stats = entropy.initial_stats()
    np.testing.assert_array_equal(entropy.raw_score(NATS, stats, floor=1e-8), 0)
    np.testing.assert_array_equal(entropy.score(NATS, stats, floor=1e-8), 0)


def test_empty_mask_leaves_the_statistics(variant):
    previous = entropy.EntropyStats(*(jnp.float32(x) for x in (1, 2, 3, -4)))

    def fit(mask):
        return _fit(mask=mask, previous=previous)

    np.testing.assert_array_equal(variant(fit)(jnp.zeros_like(MASK)), previous)


def test_batch_without_spread_gives_no_scale_to_the_next():
    stats = _fit(nats=jnp.full((2, 3), 0.1))
    assert np.isinf(stats.std)
    np.testing.assert_array_equal(entropy.raw_score(NATS, stats, floor=1e-8), 0)


def test_padding_changes_nothing():
    wide_mask = jnp.pad(MASK, ((0, 1), (0, 4)))
    wide = jnp.pad(NATS, ((0, 1), (0, 4)), constant_values=jnp.nan)
    np.testing.assert_allclose(_fit(wide, wide_mask), _fit(), rtol=1e-6)


def test_no_gradient():
    grad = jax.grad(lambda x: entropy.score(x, _fit(x), floor=1e-8).sum())(NATS)
    np.testing.assert_array_equal(grad, np.zeros_like(NATS))


def test_of_logits_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [1.0, 1.0, 1.0]]))
    expected = [1.5 * np.log(2), np.log(3)]
    np.testing.assert_allclose(entropy.of_logits(logits), expected, rtol=1e-6)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="spread='rms'"):
        _fit(spread="rms")
    with pytest.raises(ValueError, match="low_sign='minus'"):
        entropy.score(NATS, _fit(), floor=1e-8, low_sign="minus")


def test_shuffled_entropies_stay_within_their_completion(variant):
    mask = jnp.array([[True] * 5 + [False] * 3, [False, True] * 4, [False] * 8])
    nats = jnp.arange(24.0).reshape(3, 8)
    found = [
        np.asarray(variant(entropy.shuffled)(nats, mask, jax.random.key(seed)))
        for seed in range(2)
    ]
    assert (found[0] != found[1]).any()
    for seen in found:
        np.testing.assert_array_equal(seen[~mask], nats[~mask])
        assert (seen != nats).any()
        for row, own, kept in zip(seen, np.asarray(nats), np.asarray(mask)):
            np.testing.assert_array_equal(np.sort(row[kept]), np.sort(own[kept]))
        same = (_fit(x[:2] + 1, mask[:2]) for x in (nats, jnp.asarray(seen)))
        np.testing.assert_array_equal(*same)


def test_every_place_is_as_likely():
    mask = jnp.arange(6)[None] < 4
    nats = jnp.tile(jnp.arange(6.0), (4_000, 1))
    drawn = entropy.shuffled(nats, jnp.tile(mask, (4_000, 1)), jax.random.key(0))
    for value in range(4):
        shares = np.mean(np.asarray(drawn) == value, axis=0)
        np.testing.assert_allclose(shares[:4], 0.25, atol=0.03)
        assert not shares[4:].any()


def test_a_constant_entropy_has_the_mean_raw_score():
    seen = entropy.constant(NATS, MASK, floor=1e-8)
    stats = _fit()
    raw = np.asarray(entropy.raw_score(NATS, stats, floor=1e-8))[MASK]
    one = np.asarray(entropy.raw_score(seen, stats, floor=1e-8))[MASK]
    np.testing.assert_allclose(one, raw.mean(), rtol=1e-5)
    np.testing.assert_array_equal(seen[~MASK], NATS[~MASK])
