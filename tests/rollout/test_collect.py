"""Dynamic sampling: which groups are trained on, and which wait."""

import jax
import numpy as np
import pytest

from hapo_jax.rollout import batch as batch_lib
from hapo_jax.rollout import collect as collect_lib
from hapo_jax.rollout import prompts

G, T = 2, 3
MIXED, RIGHT, WRONG = (1.0, 0.0), (1.0, 1.0), (0.0, 0.0)


def graded(prompt_ids, first_sample, outcome):
    """A round of completions: `outcome[prompt]` are the scores of its group."""
    n = len(prompt_ids)
    scores = np.array([outcome[p] for p in prompt_ids], np.float32).reshape(-1)
    B = n * G
    array = np.repeat(np.asarray(prompt_ids), G)
    token = np.full((B, T), 1.0, np.float32) * array[:, None]
    record = batch_lib.TokenRecord(
        entropy=token,
        temperature=np.ones((B, T), np.float32),
        cut_logit=np.full((B, T), batch_lib.NO_CUT, np.float32),
        behavior_logprobs=token,
        base_logprobs=token,
    )
    batch = batch_lib.RolloutBatch.of_tokens(
        prompt_tokens=np.zeros((B, 2), np.int32),
        prompt_lengths=np.ones(B, np.int32),
        completion_tokens=token.astype(np.int32),
        completion_mask=np.ones((B, T), bool),
        group_size=G,
    )._replace(
        record=record,
        prompt_ids=array,
        sample_ids=np.repeat(first_sample, G) + np.tile(np.arange(G), n),
        scores=scores,
        rewards=scores,
    )
    return batch, {"time/sample": 1.0, "time/grade": 0.5}


def run(state, outcome, size=None, **options):
    """One step over the prompts 0, 1, 2, … of `outcome`; also returns the calls."""
    calls = []

    def generate(prompt_ids, first_sample):
        calls.append((list(prompt_ids), list(first_sample)))
        return graded(prompt_ids, first_sample, outcome)

    def take(cursor, count):
        return np.arange(cursor, cursor + count) % (size or len(outcome))

    settings = dict(
        batch_prompts=3,
        round_prompts=2,
        group_size=G,
        dynamic_sampling=True,
        max_rounds=4,
    )
    result = collect_lib.collect(state, generate, take, **settings | options)
    return *result, calls


def trained(batch):
    return list(batch.prompt_ids[::G])


def test_useless_groups_are_replaced_and_surplus_is_carried():
    outcome = [MIXED, RIGHT, WRONG, MIXED, MIXED, MIXED, MIXED, WRONG]
    batch, state, metrics, calls = run(collect_lib.StreamState(), outcome)
    assert trained(batch) == [0, 3, 4]
    assert [ids for ids, _ in calls] == [[0, 1], [2, 3], [4, 5]]
    assert list(state.carried.prompt_ids) == [5, 5]
    assert state.cursor == 6
    assert metrics["rollout/rounds"] == 3
    assert metrics["rollout/groups_carried"] == 1
    assert metrics["time/sample"] == 3.0
    # Accuracy is that of all that was sampled, not of the groups that were kept.
    assert metrics["rollout/accuracy"] == pytest.approx((4 * 0.5 + 1 + 0) / 6)

    batch, state, metrics, calls = run(state, outcome, batch_prompts=2)
    assert trained(batch) == [5, 6]
    assert [ids for ids, _ in calls] == [[6, 7]]
    assert metrics["rollout/groups_from_last_step"] == 1
    assert state.carried is None


def test_nothing_is_sampled_while_carried_groups_fill_the_batch():
    outcome = [MIXED] * 8
    _, state, _, _ = run(collect_lib.StreamState(), outcome, batch_prompts=1)
    batch, state, metrics, calls = run(state, outcome, batch_prompts=1)
    assert trained(batch) == [1] and not calls and state.carried is None
    assert metrics["rollout/rounds"] == 0


def test_too_few_useful_groups_leave_empty_rows():
    outcome = [WRONG, MIXED, RIGHT, WRONG]
    batch, state, metrics, _ = run(collect_lib.StreamState(), outcome, max_rounds=2)
    assert trained(batch) == [1, -1, -1]
    assert metrics["rollout/groups_trained"] == 1 and state.carried is None
    assert batch.completion_mask[:G].all() and not batch.completion_mask[G:].any()
    assert (batch.prompt_lengths >= 1).all()
    assert len(batch.rewards) == 3 * G
    np.testing.assert_array_equal(batch.group_ids, [0, 0, 2, 2, 4, 4])


def test_no_useful_group_at_all():
    batch, _, metrics, _ = run(collect_lib.StreamState(), [WRONG] * 4, max_rounds=2)
    assert trained(batch) == [-1, -1, -1]
    assert metrics["rollout/groups_trained"] == 0
    assert metrics["rollout/all_wrong"] == 1


def test_without_dynamic_sampling_every_group_is_kept():
    outcome = [WRONG, MIXED, RIGHT, MIXED]
    batch, state, _, _ = run(
        collect_lib.StreamState(), outcome, dynamic_sampling=False, batch_prompts=4
    )
    assert trained(batch) == [0, 1, 2, 3] and state.carried is None


def test_the_score_decides_and_not_a_length_penalty():
    generate = graded(np.array([0, 1]), np.array([0, 0]), [WRONG, MIXED])[0]
    penalised = generate._replace(rewards=np.array([0, -0.5, 1, 0], np.float32))
    kept = collect_lib._useful(penalised, G)
    np.testing.assert_array_equal(kept, [False, False, True, True])


def test_group_ids_stay_distinct_after_carrying():
    outcome = [MIXED] * 8
    _, state, _, _ = run(collect_lib.StreamState(), outcome, batch_prompts=1)
    batch, _, _, _ = run(state, outcome, batch_prompts=3)
    groups = batch.group_ids.reshape(-1, G)
    assert (groups[:, 0] == groups[:, 1]).all()
    assert len(set(groups[:, 0])) == 3
    assert ((batch.group_ids >= 0) & (batch.group_ids < len(batch.group_ids))).all()


def test_a_prompt_that_comes_twice_gets_new_sample_ids():
    outcome = [WRONG, MIXED]
    batch, _, _, calls = run(collect_lib.StreamState(), outcome, max_rounds=3)
    assert [first for _, first in calls] == [[0, 0], [G, G], [2 * G, 2 * G]]
    assert trained(batch) == [1, 1, 1]
    assert sorted(batch.sample_ids) == list(range(3 * G))


def test_the_state_survives_a_checkpoint():
    _, state, _, _ = run(collect_lib.StreamState(), [MIXED] * 8, batch_prompts=1)
    back = collect_lib.StreamState.from_plain(state.to_plain())
    assert back.cursor == state.cursor
    jax.tree.map(np.testing.assert_array_equal, back.carried, state.carried)
    empty = collect_lib.StreamState()
    assert collect_lib.StreamState.from_plain(empty.to_plain()) == empty


def test_a_state_of_an_earlier_checkpoint_is_read():
    """Carried groups were saved field by field, a token's numbers among them; none had
    a baseline, and nobody knew where the vocabulary was cut."""
    _, state, _, _ = run(collect_lib.StreamState(), [MIXED] * 8, batch_prompts=1)
    carried = state.carried._asdict()
    record = carried.pop("record")
    old = carried | record._asdict()
    assert state.to_plain()["carried"].keys() == old.keys()
    del old["baselines"], old["cut_logit"]
    back = collect_lib.StreamState.from_plain({"cursor": 5, "carried": old})
    assert back.cursor == 5
    jax.tree.map(np.testing.assert_array_equal, back.carried, state.carried)


def test_the_stream_is_a_new_permutation_every_epoch_and_resumes_anywhere():
    whole = prompts.take(10, 7, 0, 30)
    epochs = whole.reshape(3, 10)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(10))
    assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()
    np.testing.assert_array_equal(prompts.take(10, 7, 13, 9), whole[13:22])
    assert (prompts.take(10, 8, 0, 30) != whole).any()
