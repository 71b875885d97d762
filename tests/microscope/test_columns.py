"""Half precision columns come back as the nearest half precision numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from hapo_jax.microscope import columns
from tests.microscope import made

floats = npst.arrays(np.float64, st.integers(1, 40), elements=st.floats(width=32))


def nearest(values):
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(np.float16).astype(np.float64)


@given(floats)
def test_a_number_is_kept_as_the_nearest_half_precision_one(values):
    found = columns.from_half(columns.half(values))
    np.testing.assert_array_equal(found, nearest(values))


def test_neighbours_differ_by_one_also_across_zero():
    ordered = columns.half(np.array([-(2.0**-24), -0.0, 0.0, 2.0**-24]))
    assert np.diff(ordered.astype(int)).tolist() == [1, 0, 1]


@given(floats)
def test_a_column_comes_back_whatever_it_holds(values):
    form, data = columns.encode("entropy", values, {})
    found = columns.decode(form, data, len(values), {})
    if form["kind"] == "f4":
        np.testing.assert_array_equal(found, values.astype(np.float32))
    else:
        np.testing.assert_array_equal(found, nearest(values))
        finite = np.isfinite(values)
        error = np.abs(found[finite] - values[finite])
        assert (error <= np.maximum(np.abs(values[finite]) * 2.0**-11, 3e-8)).all()


def test_what_half_precision_cannot_hold_is_kept_in_single():
    values = np.float32([1e30, -3.14159265, np.nan, np.inf])
    form, data = columns.encode("loss", values, {})
    assert form["kind"] == "f4"
    np.testing.assert_array_equal(columns.decode(form, data, 4, {}), values)


def foretold(row):
    """The columns of a record, encoded one after the other: name → (form, values)."""
    known, forms = {}, {}
    row = dict(row, log_ratio=row["logprobs"].astype(float) - row["old_logprobs"])
    row["behavior_gap"] = row["behavior_logprobs"].astype(float) - row["old_logprobs"]
    order = ("entropy", "log_ratio", "behavior_gap", "base_advantages", *columns.RULES)
    for name in order:
        form, data = columns.encode(name, row[name], known)
        known[name] = columns.decode(form, data, len(row[name]), known)
        forms[name] = form, len(data)
    return known, forms


def test_what_follows_from_others_is_foretold():
    row = made.record(4000)
    known, forms = foretold(row)
    for name in columns.RULES:
        assert forms[name][0]["kind"] == "d2", name
        np.testing.assert_array_equal(known[name], nearest(row[name].astype(float)))


def test_a_wrong_prediction_costs_no_digit():
    row = made.record(4000)
    rng = np.random.default_rng(1)
    for name in columns.RULES:
        row[name] = rng.normal(size=4000).astype(np.float32)
    known, _ = foretold(row)
    for name in columns.RULES:
        np.testing.assert_array_equal(known[name], nearest(row[name].astype(float)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_column_with_gaps_is_not_foretold(value):
    row = made.record(50)
    row["entropy_score"][3] = value
    known, forms = foretold(row)
    assert forms["entropy_score"][0]["kind"] == "f2"
    np.testing.assert_array_equal(known["entropy_score"], nearest(row["entropy_score"]))


@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "f4"])
def test_planes_come_back(kind):
    values = np.arange(7).astype(kind)
    found = columns.from_planes(columns.planes(values), kind, 7)
    np.testing.assert_array_equal(found, values)
