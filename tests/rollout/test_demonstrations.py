"""Demonstrations beside a rollout: how many, which, and where they lie."""

import numpy as np
import pytest

from hapo_jax.rollout import batch as batch_lib
from hapo_jax.rollout import demonstrations
from tests import tiny


@pytest.mark.parametrize(
    ("share", "sampled", "number"),
    [(0.0, 16, 0), (0.2, 256, 64), (0.5, 16, 16), (0.2, 16, 4), (0.001, 16, 1)],
)
def test_the_share_is_of_all_completions_of_an_update(share, sampled, number):
    """CHORD's run has 64 beside 256."""
    assert demonstrations.per_minibatch(share, sampled) == number


def shown(number=5):
    """Demonstrations that are told apart by their first token."""
    rows = batch_lib.rows(tiny.batch(8, 4, seed=3), slice(0, number))
    rows.completion_tokens[:, 0] = 30 + np.arange(number)
    rows.completion_mask[:, 0] = True
    return rows


def beside(step, number=2, free=3):
    batch = tiny.batch(4, 4)
    options = dict(seed=7, number=number, num_minibatches=2, free=free)
    return batch, demonstrations.put_beside(batch, shown(), step=step, **options)


def test_they_lie_behind_each_mini_batch_and_the_rest_is_empty():
    batch, found = beside(step=1)
    own = np.array([True] * 8 + [False] * 3)
    np.testing.assert_array_equal(found.beside, ~np.tile(own, 2))
    for i in (0, 1):
        rows = slice(11 * i, 11 * i + 8)
        for name in ("completion_tokens", "rewards", "prompt_ids"):
            found_rows = getattr(found, name)[rows]
            np.testing.assert_array_equal(
                found_rows, getattr(batch, name)[8 * i : 8 * i + 8]
            )
        # A group is named by its first row, and a demonstration is a group of one.
        groups = [0, 0, 0, 0, 4, 4, 4, 4, 8, 9, 10]
        np.testing.assert_array_equal(
            found.group_ids[11 * i : 11 * i + 11], np.array(groups) + 11 * i
        )
    lengths = found.lengths[found.beside].reshape(2, 3)
    assert np.all(lengths[:, :2] > 0) and np.all(lengths[:, 2] == 0)


def test_each_comes_once_before_any_comes_again():
    """Four in a step, five in all; the step alone says which, for a resumed run."""
    drawn = []
    for step in range(1, 6):
        _, found = beside(step)
        _, again = beside(step)
        np.testing.assert_array_equal(found.completion_tokens, again.completion_tokens)
        drawn += list(found.completion_tokens[found.beside & (found.lengths > 0), 0])
        counts = np.bincount(drawn, minlength=35)[30:]
        assert len(drawn) == 4 * step and counts.max() - counts.min() <= 1
