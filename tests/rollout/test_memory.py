"""Slots are planned from a stated budget, and refused with the numbers."""

import pytest

from hapo_jax.rollout import memory
from hapo_jax.system import target
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
        (0, {"multiple": 1, "budget_bytes": 55 * 2**20, "most": 999}, 96),  # not 110
        (0, {"multiple": 1, "most": 42}, 42),
        (0, {"multiple": 1, "most": 42, "round_up": True}, 48),  # 24, 12, 6, …
        (0, {"multiple": 16, "most": 42 * 16, "round_up": True}, 64),
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
    """2 kv heads of 8 channels, keys and values, float32: 128 per layer and column.

    Of 2 layers one is there twice while it moves; prompts wait beside those in use.
    Reading takes 4 D + 3 F and twice the heads of a prompt's tokens; logits are there 4
    times.
    """
    settings = dict(prompt_columns=16, completion_columns=20, itemsize=4)
    alone = memory.bytes_per_slot(tiny.MODEL, rows_per_lane=1, **settings)
    shared = memory.bytes_per_slot(tiny.MODEL, rows_per_lane=8, **settings)
    of_prompt = 128 * 5 + 4 * (4 * 16 + 3 * 24 + 2 * (4 + 2 * 2) * 8)
    assert alone == 128 * 3 * 20 + 16 * of_prompt + 16 * tiny.MODEL.vocab_size
    assert shared == 128 * 3 * 20 + 2 * of_prompt + 16 * tiny.MODEL.vocab_size


def test_the_budget_is_what_is_left_or_what_is_asked_for():
    gib = 2**30
    with target.compile_for(target.Target("gpu", 100 * gib)):
        assert memory.budget_bytes(0.0, 30 * gib) == pytest.approx(62 * gib)
        assert memory.budget_bytes(0.5, 30 * gib) == pytest.approx(50 * gib)
        assert memory.budget_bytes(0.0, 95 * gib) == 0
    of_machine = memory.device_bytes()
    assert memory.budget_bytes(0.0, 2**60) == pytest.approx(0.3 * of_machine)
