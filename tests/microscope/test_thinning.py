"""What is left out of a long run follows a rule, and is said."""

import pytest

from hapo_jax.microscope import thinning
from hapo_jax.system.errors import Refused


def sizes(steps, groups, tokens):
    return {s: [(g, tokens) for g in range(groups) for _ in "ab"] for s in steps}


def total(given, kept):
    return sum(
        n for s, groups in kept.groups.items() for g, n in given[s] if g in groups
    )


def test_a_run_that_fits_is_kept_whole():
    given = sizes([1, 2, 3], 2, 10)
    kept = thinning.keep(given, 120)
    assert kept.groups == {1: [0, 1], 2: [0, 1], 3: [0, 1]} and kept.words == ""


def test_groups_go_before_steps_down_to_four():
    given = sizes(range(1, 11), 16, 10)  # 3,200 tokens
    kept = thinning.keep(given, 1000)
    assert [*kept.groups] == [*range(1, 11)]
    assert all(groups == [0, 1, 2, 3, 4] for groups in kept.groups.values())
    assert total(given, kept) == 1000
    assert (
        "10 of 10 recorded steps" in kept.words and "first 5 of up to 16" in kept.words
    )
    assert "1,000 of 3,200 tokens" in kept.words


def test_then_steps_go_evenly_and_both_ends_stay():
    given = sizes(range(10, 110, 10), 16, 10)
    kept = thinning.keep(given, 330)
    assert [*kept.groups] == [10, 40, 70, 100]
    assert all(groups == [0, 1, 2, 3] for groups in kept.groups.values())


def test_further_groups_fill_what_is_left():
    given = sizes([1, 2], 8, 10)
    kept = thinning.keep(given, 220)
    assert kept.groups == {1: [0, 1, 2, 3, 4, 5], 2: [0, 1, 2, 3, 4]}


def test_a_group_is_never_cut():
    kept = thinning.keep(sizes([1, 2, 3], 2, 1000), 5)
    assert kept.groups == {1: [0], 3: [0]}
    assert "the limit is exceeded" in kept.words


@pytest.mark.parametrize("limit", [1, 100, 777, 5000])
def test_the_limit_is_kept_where_it_can_be(limit):
    given = {s: [(g, 7 * g + s) for g in range(9)] for s in range(1, 30)}
    kept = thinning.keep(given, limit)
    assert total(given, kept) <= limit or "exceeded" in kept.words


def test_named_steps_must_be_there():
    given = sizes([10, 20, 30], 1, 1)
    assert [*thinning.named(given, [30, 10])] == [10, 30]
    with pytest.raises(Refused, match=r"--steps=15: not recorded.* 10, 20, 30"):
        thinning.named(given, [10, 15])


def test_curves_keep_their_ends_and_what_is_marked():
    places, words = thinning.lines([*range(1, 10_001)], {5, 6})
    steps = [i + 1 for i in places]
    assert {1, 4, 5, 6, 7, 10_000} <= set(steps) and len(steps) < 4000
    assert "every 3rd" not in words and "10,000 steps" in words
    assert thinning.lines([1, 2, 3], set()) == ([0, 1, 2], "")
