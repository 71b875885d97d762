"""Intervals over seeds and problems; `benchmarks/seed_intervals.py` has the table."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks import seed_intervals
from hapo_jax.comparison import intervals


def test_one_value_per_seed_gives_students_interval():
    values = np.array([0.1, 0.3, 0.2, 0.4, 0.15])
    found = intervals.two_way(values[:, None], draws=20_000)
    error = values.std(ddof=1) / math.sqrt(5)
    expected = stats.t.interval(0.95, 4, loc=values.mean(), scale=error)
    assert found.mean == pytest.approx(values.mean())
    # The bootstrap's shape moves the ends a little.
    np.testing.assert_allclose((found.low, found.high), expected, atol=0.3 * error)
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert (found.num_seeds, found.num_problems) == (5, 0)


def test_the_width_is_that_of_the_analysis_of_variance():
    rng = np.random.default_rng(0)
    S, P = 8, 50
    values = rng.normal(size=(S, 1)) + rng.normal(size=(1, P))
    values = values + 0.1 * rng.normal(size=(S, P))
    # By hand: mean squares of seeds, problems and the rest.
    grand = values.mean()
    seeds = P * ((values.mean(1) - grand) ** 2).sum() / (S - 1)
    problems = S * ((values.mean(0) - grand) ** 2).sum() / (P - 1)
    rest = values - values.mean(1)[:, None] - values.mean(0)[None] + grand
    noise = (rest**2).sum() / ((S - 1) * (P - 1))
    error, freedom = intervals._standard_error(values)
    assert error**2 == pytest.approx((seeds + problems - noise) / (S * P))
    assert S - 1 < freedom < S + P
    found = intervals.two_way(values)
    half = (found.high - found.low) / 2
    assert half == pytest.approx(error * stats.t.ppf(0.975, freedom), rel=0.1)


def test_a_single_seed_and_equal_values_have_no_interval():
    found = intervals.two_way(np.array([[0.0, 1.0]]))
    assert found.mean == 0.5 and math.isnan(found.low) and math.isnan(found.p)
    found = intervals.two_way(np.zeros((4, 3)))
    assert math.isnan(found.low) and found.p == 1
    found = intervals.two_way(np.ones((4, 3)))
    assert found.mean == 1 and math.isnan(found.low) and math.isnan(found.p)
    with pytest.raises(ValueError, match="finite"):
        intervals.two_way(np.array([[math.nan]]))


def test_holm_by_hand():
    adjusted = intervals.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": math.nan})
    assert adjusted["a"] == pytest.approx(0.03)  # 3 × 0.01
    assert adjusted["c"] == pytest.approx(0.06)  # 2 × 0.03
    assert adjusted["b"] == pytest.approx(0.06)  # not below the one before
    assert math.isnan(adjusted["d"])


@pytest.mark.parametrize("spreads", [(0.0, 0.0), (0.02, 0.1)])
def test_five_seeds_cover(spreads):
    """In short; the share of 300 sweeps is known to ± 2.5 points."""
    share = seed_intervals.coverage(5, 64, *spreads, sweeps=300, draws=200)
    assert 0.905 <= share <= 0.995


def test_nothing_is_called_noise_and_an_effect_is_found():
    quiet, found = seed_intervals.verdicts(8, 64, sweeps=100, draws=200)
    assert quiet >= 0.88 and found >= 0.5
