"""Figures against enumeration and hand-worked numbers; intervals by simulation."""

import itertools

import numpy as np
import pytest
from scipy import stats

from benchmarks import intervals
from hapo_jax.evaluation import figures as figures_lib


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
    np.testing.assert_allclose(figures_lib.pass_at_k(n, c, k), expected, atol=1e-15)


def test_pass_at_k_counts_subsets():
    for n in (1, 2, 7):
        for k, c in itertools.product(range(1, n + 1), range(n + 1)):
            subsets = list(itertools.combinations(np.arange(n) < c, k))
            expected = np.mean([any(s) for s in subsets])
            found = figures_lib.pass_at_k(n, c, k)
            np.testing.assert_allclose(found, expected, atol=1e-12)
    # Large counts must not overflow; shapes follow c.
    found = figures_lib.pass_at_k(10_000, np.array([[0, 1], [5_000, 10_000]]), 100)
    np.testing.assert_allclose(found, [[0, 0.01], [1, 1]], atol=1e-9)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 5, 2), (4, -1, 2), (4, 1, 0)])
def test_pass_at_k_refuses_what_cannot_be(n, c, k):
    with pytest.raises(ValueError, match=f"k={k} must be in"):
        figures_lib.pass_at_k(n, c, k)


@pytest.mark.parametrize("n", [1, 2, 10, 30, 500])
def test_intervals_of_zeros_and_ones_are_clopper_and_pearsons(n):
    for ones in {0, 1, n // 3, n - 1, n}:
        low = stats.beta.ppf(0.025, ones, n - ones + 1) if ones else 0.0
        high = stats.beta.ppf(0.975, ones + 1, n - ones) if ones < n else 1.0
        found = figures_lib.interval(np.arange(n) < ones, draws=1)
        np.testing.assert_allclose(found, (low, high), atol=0.005 * (high - low))
        assert found[0] <= low + 1e-5 and high - 1e-5 <= found[1]


def test_intervals_are_those_of_randomly_weighted_problems():
    rng = np.random.default_rng(0)
    for n, low, high in ((3, 0, 1), (12, -1, 1), (40, 0, 4096)):
        values = low + (high - low) * rng.beta(0.5, 1.0, n)
        weights = rng.dirichlet(np.ones(n + 1), 100_000)
        expected = (
            np.quantile(weights @ [*values, low], 0.025),
            np.quantile(weights @ [*values, high], 0.975),
        )
        found = figures_lib.interval(values, low, high)
        np.testing.assert_allclose(found, expected, atol=0.01 * (found[1] - found[0]))


@pytest.mark.parametrize("value", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("n", [1, 2, 10, 500])
def test_equal_values_do_not_have_an_interval_of_width_0(n, value):
    low, high = figures_lib.interval(np.full(n, value), draws=4)
    assert low <= value <= high
    # No more certain than 4 n problems of one completion each, whatever the spread.
    right = round(4 * n * value)
    ends = figures_lib.interval(np.arange(4 * n) < right)
    assert low <= ends[0] and ends[1] <= high
    # Nor than n problems that might have been otherwise: the rule of three.
    unseen = 1 - 0.025 ** (1 / n)
    assert low <= value - value * unseen * 0.99
    assert high >= value + (1 - value) * unseen * 0.99
    for shift in (value, -value):
        low, high = figures_lib.interval(np.full(n, shift), -1.0, 1.0, draws=4)
        assert low <= shift <= high and high - low > unseen


def test_intervals_at_their_edges():
    rng = np.random.default_rng(0)
    for _ in range(300):  # whatever was drawn
        n, k = rng.integers(1, 60), rng.integers(1, 70)
        rates = rng.beta(*rng.uniform(0.02, 3, 2), (2, n))
        a, b = rng.binomial(k, rates) / k * rng.choice([1, 1e-17, 1 / 3])
        for values, floor in ((a, 0.0), (b - a, -1.0)):
            low, high = figures_lib.interval(values, floor, draws=int(k))
            assert floor <= low <= values.mean() <= high <= 1 and low < high
    # Rounding does no harm, near a bound or beyond it.
    values = np.array([1 - 1e-16, 1 + 1e-16, 1.0])
    assert figures_lib.interval(values)[1] == 1
    with pytest.raises(ValueError, match="shape"):
        figures_lib.interval(np.zeros(0))
    with pytest.raises(ValueError, match="shape"):
        figures_lib.interval(np.zeros((2, 2)))
    for beyond in (2.0, -0.1, np.nan):
        with pytest.raises(ValueError, match="reach from"):
            figures_lib.interval(np.array([0.0, beyond]))


# Where Wilson's interval, of an effective size, or Student's cover 16 to 88 %.
RARE = [
    ("avg@k", "19 of 20 at 2 %, one at 90 %", 30, 8),
    ("pass@k", "alike, 50 %", 30, 8),
    ("length", "very hard", 10, 8),
    ("Δ avg@k", "2 of 100 flip up", 10, 1),
    ("Δ avg@k", "2 of 100 flip up", 30, 8),
    ("Δ avg@k", "all flip, 2 of 3 up", 10, 4),
    ("Δ maj@k", "2 of 100 flip up, 2 down", 10, 8),
    ("Δ maj@k", "1 of 20 by 80 %, others by -2 %", 10, 8),
    ("Δ length", "2 of 100 flip up", 10, 8),
]


@pytest.mark.parametrize("case", RARE, ids=lambda c: " ".join(map(str, c)))
def test_intervals_cover_in_short(case):
    check_coverage(case, trials=400, slack=0.03)


@pytest.mark.long
@pytest.mark.parametrize(
    "case", [*intervals.cases()], ids=lambda c: " ".join(map(str, c))
)
def test_intervals_cover_93_percent(case):
    check_coverage(case, trials=500, slack=0.02)


def check_coverage(case, *, trials, slack):
    """`slack` is about three standard errors of so many trials."""
    found = intervals.simulate(*case, trials=trials)
    assert found["coverage"] >= 0.93 - slack, found
    assert found["least_width"] > 0


@pytest.mark.parametrize("population", ["even", "half at 0, half at 1"])
def test_intervals_are_not_much_wider_than_they_must_be(population):
    """Where a set is not nearly solved or unsolved, or its problems nearly alike."""
    for problems, most in ((30, 1.15), (100, 1.1), (500, 1.05)):
        for k in (1, 8):
            found = intervals.simulate("avg@k", population, problems, k, trials=100)
            assert 1.0 <= found["width"] < most, found


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
    found = figures_lib.summary(records, max_tokens=12)
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
        if key not in ("eval/ungraded", "eval/entropy"):
            assert found[f"{key}_low"] < value < found[f"{key}_high"]
    # An entropy has no bound, nor has a length that nothing limits: no interval.
    assert "eval/entropy_low" not in found
    assert "eval/length_low" not in figures_lib.summary(records)
    assert "eval/greedy" not in found and "eval/pass@3" not in found
    assert "eval/pass@3_low" in figures_lib.summary(records, every_pass=True)
