"""Figures against enumeration and hand-worked numbers; intervals by simulation."""

import itertools

import numpy as np
import pytest

from hapo_jax import eval_scores


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [
        (1, 0, 1, 0.0),
        (1, 1, 1, 1.0),
        (4, 1, 2, 1 / 2),  # 1 - C(3,2)/C(4,2) = 1 - 3/6
        (5, 2, 3, 9 / 10),  # 1 - C(3,3)/C(5,3) = 1 - 1/10
        (8, 0, 8, 0.0),
        (8, 1, 8, 1.0),
    ],
)
def test_pass_at_k_by_hand(n, c, k, expected):
    np.testing.assert_allclose(eval_scores.pass_at_k(n, c, k), expected, atol=1e-15)


def test_pass_at_k_counts_subsets():
    for n in (1, 2, 7):
        for k, c in itertools.product(range(1, n + 1), range(n + 1)):
            subsets = list(itertools.combinations(np.arange(n) < c, k))
            expected = np.mean([any(s) for s in subsets])
            found = eval_scores.pass_at_k(n, c, k)
            np.testing.assert_allclose(found, expected, atol=1e-12)
    # Large counts must not overflow; shapes follow c.
    found = eval_scores.pass_at_k(10_000, np.array([[0, 1], [5_000, 10_000]]), 100)
    np.testing.assert_allclose(found, [[0, 0.01], [1, 1]], atol=1e-9)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 5, 2), (4, -1, 2), (4, 1, 0)])
def test_pass_at_k_refuses_what_cannot_be(n, c, k):
    with pytest.raises(ValueError, match=f"k={k} must be in"):
        eval_scores.pass_at_k(n, c, k)


def test_rate_interval_is_wilsons_at_zeros_and_ones():
    values = np.arange(50) < 20
    z, n, p = 2.009575, 50, 0.4  # Student's 97.5 % quantile at 49 degrees
    centre, scale = p + z**2 / (2 * n), 1 + z**2 / n
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = [(centre - half) / scale, (centre + half) / scale]
    np.testing.assert_allclose(eval_scores.rate_interval(values), expected, atol=1e-6)


def test_intervals_at_their_edges():
    low, high = eval_scores.rate_interval(np.zeros(30))
    assert low == 0 and 0.09 < high < 0.14  # the rule of three gives 0.1
    assert eval_scores.rate_interval(np.ones(30)) == pytest.approx((1 - high, 1))
    assert eval_scores.rate_interval(np.full(5, 0.5)) == (0.5, 0.5)
    assert eval_scores.rate_interval(np.ones(1)) == (0, 1)
    assert eval_scores.mean_interval(np.ones(1)) == (-np.inf, np.inf)
    for bad in (np.zeros(0), np.zeros((2, 2))):
        for interval in (eval_scores.rate_interval, eval_scores.mean_interval):
            with pytest.raises(ValueError, match="shape"):
                interval(bad)
    with pytest.raises(ValueError, match="reach from"):
        eval_scores.rate_interval(np.array([0.0, 2.0]))


# What a set of problems can be like: (k, Beta of the rates within it, mean).
POPULATIONS = {
    "even": (8, (1.0, 1.0)),
    "hard": (32, (0.3, 2.7)),  # most problems never solved, as AIME is
    "split": (32, (0.5, 0.5)),
    "alike": (32, (2.0, 8.0)),
    "easy": (8, (4.0, 1.0)),
    "one draw": (1, (0.3, 2.7)),
    "one draw of even": (1, (1.0, 1.0)),
}


def coverage(interval, draw, truth, *, trials):
    hits = [
        low <= truth <= high for low, high in (interval(draw()) for _ in range(trials))
    ]
    return np.mean(hits)


@pytest.mark.parametrize("name", ["even", "hard", "one draw of even"])
def test_intervals_cover_in_short(name):
    """As below, within three standard errors of 600 trials more."""
    check_coverage(name, problems=30, trials=600, slack=0.027)


@pytest.mark.long
@pytest.mark.parametrize("problems", [30, 40, 100, 500])
@pytest.mark.parametrize("name", POPULATIONS)
def test_intervals_cover_95_percent(name, problems):
    check_coverage(name, problems, trials=8_000, slack=0.008)


def check_coverage(name, problems, *, trials, slack):
    k, (a, b) = POPULATIONS[name]
    rng = np.random.default_rng(problems)

    def draw():
        return rng.binomial(k, rng.beta(a, b, problems)) / k

    found = coverage(eval_scores.rate_interval, draw, a / (a + b), trials=trials)
    assert 0.93 - slack <= found <= 0.97 + slack, found


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_intervals_of_paired_differences_cover(shift):
    rng = np.random.default_rng(0)

    def draw():
        rates = rng.beta(1.0, 2.0, 40) * 0.8
        return (rng.binomial(8, rates + shift) - rng.binomial(8, rates)) / 8

    found = coverage(eval_scores.mean_interval, draw, shift, trials=1_000)
    assert 0.93 - 0.02 <= found <= 0.97 + 0.02, found


def record(scores, **changes):
    k = len(scores)
    return {
        "scores": scores,
        "majority_score": 1.0,
        "lengths": [4] * k,
        "truncated": [False] * k,
        "entropy": [1.0] * k,
        "ungraded": 0,
        **changes,
    }


def test_summary_by_hand():
    records = [
        record([1.0, 0.0, 0.0, 1.0], truncated=[True, True, False, False]),
        record([0.0] * 4, majority_score=0.0, lengths=[12] * 4, entropy=[2.0] * 4),
    ]
    found = eval_scores.summary(records)
    expected = {
        "eval/avg@4": 0.25,
        "eval/maj@4": 0.5,
        "eval/pass@1": 0.25,
        "eval/pass@2": (1 - 1 / 6) / 2,  # both of two drawn are wrong: 1 of 6 pairs
        "eval/pass@4": 0.5,
        "eval/truncated": 0.25,
        "eval/length": 8.0,
        "eval/entropy": (4 * 1 + 12 * 2) / 16,  # over tokens
        "eval/ungraded": 0.0,
    }
    for key, value in expected.items():
        assert found[key] == pytest.approx(value), key
        if key != "eval/ungraded":
            assert found[f"{key}_low"] <= value <= found[f"{key}_high"]
    assert "eval/greedy" not in found and "eval/pass@3" not in found
    assert "eval/pass@3" in eval_scores.summary(records, every_pass=True)


def test_the_interval_of_a_mean_over_tokens_covers_it():
    rng = np.random.default_rng(3)

    def draw():
        lengths = rng.integers(1, 40, 60)
        entropy = 1 + lengths / 40 + rng.normal(size=60) * 0.3
        records = [
            record([0.0], lengths=[int(n)], entropy=[e])
            for n, e in zip(lengths, entropy)
        ]
        return eval_scores.per_problem(records, [])["entropy"]

    lengths = np.arange(1, 40)
    truth = (lengths * (1 + lengths / 40)).sum() / lengths.sum()
    found = coverage(eval_scores.mean_interval, draw, truth, trials=600)
    assert 0.92 <= found <= 0.98, found
