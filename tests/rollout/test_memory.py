"""Slots are planned from a stated budget, and refused with the numbers."""

import pytest

from hapo_jax.rollout import memory
from tests import tiny


def plan(requested=0, **changes):
    settings = dict(
        most=100, multiple=4, slot_bytes=2**20, budget_bytes=2**25, shards=2
    )
    return memory.plan_slots(requested, **settings | changes)


@pytest.mark.parametrize(
    ("requested", "changes", "expected"),
    [
        (0, {"most": 10}, 12),  # what is needed, rounded up to the multiple
        (0, {}, 64),  # what fits: 32 per device
        (0, {"shards": 1}, 32),
        (0, {"multiple": 24}, 48),
        (16, {}, 16),
    ],
)
def test_plans(requested, changes, expected):
    assert plan(requested, **changes) == expected


@pytest.mark.parametrize(
    ("requested", "changes", "words"),
    [
        (7, {}, "rollout.slots=7 must be a multiple of 4"),
        (128, {}, "rollout.slots=128 do not fit.*0.03 GiB.*64 slots"),
        (0, {"budget_bytes": 2**20}, "not even 4 slots fit"),
    ],
)
def test_refuses_with_the_numbers(requested, changes, words):
    with pytest.raises(ValueError, match=words):
        plan(requested, **changes)


def test_bytes_of_a_slot():
    """2 layers, 2 kv heads, 8 channels, keys and values, float32, twice."""
    settings = dict(prompt_columns=16, completion_columns=20, itemsize=4)
    column = 2 * (2 * 2 * 2 * 8) * 4
    alone = memory.bytes_per_slot(tiny.MODEL, rows_per_lane=1, **settings)
    shared = memory.bytes_per_slot(tiny.MODEL, rows_per_lane=8, **settings)
    assert alone == column * 36
    assert shared == column * 22
