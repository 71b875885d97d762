"""The second rollout: at which temperature, what of it is kept, and where it goes."""

import numpy as np
import pytest

from hapo_jax.rollout import batch as batch_lib
from hapo_jax.rollout import second as second_lib

G, T = 2, 3
SECOND = second_lib.Second(
    share=0.5,
    entropy_target=0.5,
    high_temperature=1.2,
    low_temperature=0.8,
    most_rows=4,
    least_advantage=0.05,
)


def completions(prompt_ids, rewards):
    """Groups whose first token is their prompt; completion b has b % 3 + 1 tokens."""
    B = len(rewards)
    rows = np.repeat(np.asarray(prompt_ids), G)
    return batch_lib.RolloutBatch.of_tokens(
        prompt_tokens=np.zeros((B, 2), np.int32),
        prompt_lengths=np.ones(B, np.int32),
        completion_tokens=np.repeat(rows[:, None], T, 1).astype(np.int32),
        completion_mask=np.arange(T) <= np.arange(B)[:, None] % 3,
        group_size=G,
    )._replace(
        prompt_ids=rows,
        rewards=np.asarray(rewards, np.float32),
        scores=np.asarray(rewards, np.float32),
    )


def run(rewards, *, entropy=0.0, free=2, prompt_ids=(7, 3, 5, 9), **changes):
    """Four groups in two mini-batches, and a second rollout with these rewards."""
    batch = completions(prompt_ids, [1, 0] * 4)
    calls = []

    def draw(temperature, chosen, first_sample):
        assert list(first_sample) == [50] * len(chosen)
        calls.append((temperature, list(chosen)))
        counts = {"ledger/sampled_tokens": 9, "reward/correctness": 5.0}
        return completions(chosen, rewards), counts

    found, metrics = second_lib.extend(
        SECOND._replace(**changes),
        batch,
        {"ledger/sampled_tokens": 16},
        draw,
        entropy=entropy,
        group_size=G,
        num_minibatches=2,
        free=free,
        first_sample=50,
    )
    return found, metrics, calls


def test_better_completions_are_spread_over_the_mini_batches():
    found, metrics, calls = run([0, 1, 1, 0])
    assert calls == [(1.2, [7, 3])]
    # Of each mini-batch four rows, then a kept one and an empty one.
    np.testing.assert_array_equal(
        found.prompt_ids, [7, 7, 3, 3, 7, -1, 5, 5, 9, 9, 3, -1]
    )
    second = [False] * 4 + [True] * 2
    np.testing.assert_array_equal(found.beside, second * 2)
    np.testing.assert_array_equal(
        found.group_ids, [0, 0, 2, 2, 4, 5, 6, 6, 8, 8, 10, 11]
    )
    np.testing.assert_array_equal(found.rewards, [1, 0, 1, 0, 1, 0] * 2)
    np.testing.assert_array_equal(
        found.completion_mask.sum(1), [1, 2, 3, 1, 2, 0, 2, 3, 1, 2, 3, 0]
    )
    assert metrics == {
        "second/temperature": 1.2,
        "second/accuracy": 0.5,
        "second/kept": 2,
        "ledger/sampled_tokens": 16 + 9,  # parts of its rewards are left out
    }


def test_above_the_target_it_is_cooler_and_half_is_kept():
    found, metrics, calls = run([0, 1, 1, 0], entropy=0.51)
    assert calls == [(0.8, [7, 3])] and metrics["second/kept"] == 1
    assert (found.completion_mask.any(1) & found.beside).sum() == 1
    assert run([0, 1, 1, 0], entropy=0.5)[2][0][0] == 1.2


def test_no_more_are_kept_than_may_be():
    assert run([0, 1, 1, 0], most_rows=1)[1]["second/kept"] == 1
    # Groups of equal rewards have none that is better.
    found, metrics, _ = run([1, 1, 0, 0])
    assert metrics["second/kept"] == 0
    assert not (found.completion_mask.any(1) & found.beside).any()
    # By its advantage, 0.707 in a mixed group of two.
    assert run([0, 1, 1, 0], least_advantage=0.7)[1]["second/kept"] == 2
    assert run([0, 1, 1, 0], least_advantage=0.71)[1]["second/kept"] == 0


def test_without_a_prompt_nothing_is_drawn():
    found, metrics, calls = run([0, 1], prompt_ids=(-1, -1, 5, 9))
    assert not calls and metrics["second/kept"] == 0
    assert found.beside.sum() == 4
    assert "second/accuracy" not in metrics


@pytest.mark.parametrize(
    ("changes", "shards", "expected"),
    [
        ({}, 1, 2),  # 4 completions of 2 prompts, 4 at most, 2 mini-batches
        ({"most_rows": 3}, 1, 2),
        ({"most_rows": 60}, 1, 2),
        ({"share": 1.0, "most_rows": 60}, 1, 4),
        ({}, 8, 8),
        ({"share": 0.01}, 1, 1),  # of one prompt at least
        ({"share": 0.0}, 8, 0),
    ],
)
def test_there_is_a_place_for_each(changes, shards, expected):
    found = second_lib.places(
        SECOND._replace(**changes),
        batch_prompts=4,
        group_size=G,
        num_minibatches=2,
        multiple=shards,
    )
    assert found == expected
