"""Packing loses nothing, mixes nothing up, and never needs more room than it says."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from hapo_jax.learner import packing

P, T, GROUP = 5, 9, 3


@st.composite
def batches(draw):
    """Ragged prompts and completions in groups; every token has a number of its own."""
    groups = draw(st.integers(1, 5))
    B = groups * GROUP
    one = st.integers(1, P)
    prompt_lengths = np.repeat(draw(st.lists(one, min_size=groups, max_size=groups)), 3)
    lengths = np.array(draw(st.lists(st.integers(0, T), min_size=B, max_size=B)))
    group_ids = np.repeat(np.arange(groups) * GROUP, GROUP)
    prompts = 1 + np.arange(P)[None] + 100 * group_ids[:, None]
    completions = 10_001 + np.arange(T)[None] + 100 * np.arange(B)[:, None]
    return prompts, prompt_lengths, completions, lengths, group_ids


@st.composite
def layouts(draw):
    shards = draw(st.sampled_from([1, 2]))
    packs = draw(st.booleans())
    return packing.Layout(
        width=draw(st.integers(P + T, 4 * (P + T))),
        micro_rows=shards * draw(st.integers(1, 3)),
        shards=shards,
        packing=packs,
        share_prompts=packs and draw(st.booleans()),
    )


def run(batch, layout, include=None):
    prompts, prompt_lengths, completions, lengths, group_ids = batch
    placement = packing.place(
        layout, prompt_lengths, lengths, group_ids, include=include
    )
    packed, index = packing.pack(
        layout,
        placement,
        prompts.astype(np.int32),
        completions.astype(np.int32),
        num_micros=layout.num_micros(len(lengths), P + T),
        pad_targets_to=4,
    )
    return placement, packed, index


@hypothesis.given(batches(), layouts())
@hypothesis.settings(max_examples=100, deadline=None)
def test_every_token_is_there_once_and_sees_its_own_past(batch, layout):
    """What a branch sees, by ids alone, is its prompt and completion in order."""
    prompts, prompt_lengths, completions, lengths, _ = batch
    placement, packed, _ = run(batch, layout)
    S, m, W = layout.shards, layout.micro_rows, layout.width
    rows = [x.reshape(-1, W) for x in packed[:4]]
    seen = []
    for tokens, positions, segments, branches in zip(*rows):
        for unit in range(1, segments.max() + 1):
            here = segments == unit
            assert (np.diff(np.flatnonzero(here)) == 1).all()  # nothing in between
            assert branches[here].max() >= 1
            for branch in range(1, branches[here].max() + 1):
                mine = here & ((branches == 0) | (branches == branch))
                np.testing.assert_array_equal(positions[mine], np.arange(mine.sum()))
                seen.append(tokens[mine].tolist())
        assert not tokens[segments == 0].any()
    expected = [
        [*prompts[i, P - n :], *completions[i, :t]]
        for i, (n, t) in enumerate(zip(prompt_lengths, lengths))
        if t
    ]
    assert sorted(seen) == sorted(expected)
    assert placement.computed_tokens == sum((x > 0).sum() for x in rows[2])
    assert packed.counts.sum() == lengths.sum()

    # Targets are the completions, and each is predicted by the column before it.
    flat = packed.tokens.reshape(-1, S, m // S * W)
    there = np.arange(packed.targets.shape[2]) < packed.counts[..., None]
    after = np.take_along_axis(flat, np.minimum(packed.sources + 1, m // S * W - 1), 2)
    np.testing.assert_array_equal(after[there], packed.targets[there])
    places = packed.places.reshape(flat.shape)
    number = np.broadcast_to(np.arange(there.shape[2]), there.shape)
    back = np.take_along_axis(places, packed.sources, 2)
    np.testing.assert_array_equal(back[there], number[there])
    assert (places < there.shape[2]).sum() == there.sum()


@hypothesis.given(batches(), layouts())
@hypothesis.settings(max_examples=50, deadline=None)
def test_gather_and_scatter_are_inverse(batch, layout):
    *_, completions, lengths, _ = batch
    _, packed, index = run(batch, layout)
    mask = np.arange(T)[None] < lengths[:, None]
    there = np.arange(packed.targets.shape[2]) < packed.counts[..., None]
    gathered = packing.gather(index, completions)
    np.testing.assert_array_equal(gathered[there], packed.targets[there])
    assert not gathered[~there].any()
    again = packing.scatter(index, gathered, mask.shape)
    np.testing.assert_array_equal(again, completions * mask)


@hypothesis.given(batches(), layouts())
@hypothesis.settings(max_examples=50, deadline=None)
def test_what_is_left_out_takes_no_room(batch, layout):
    lengths = batch[3]
    include = np.arange(len(lengths)) % 2 == 0
    placement, packed, _ = run(batch, layout, include)
    np.testing.assert_array_equal(placement.row >= 0, include & (lengths > 0))
    assert packed.counts.sum() == lengths[include].sum()
    used = packed.segment_ids.reshape(-1, layout.width).any(axis=1)
    assert used[: placement.num_rows].all() and not used[placement.num_rows :].any()


def test_prompts_are_shared_where_that_saves_rows():
    """Three completions of 4 behind a prompt of 5: 3 + 4 · ... in one row of 19."""
    shared = packing.Layout(19, 1, 1, packing=True, share_prompts=True)
    lengths = np.array([4, 4, 4]), np.array([4, 4, 4]), np.zeros(3, int)
    placement = packing.place(shared, lengths[0] + 1, *lengths[1:])
    assert placement.num_rows == 1
    assert placement.start.tolist() == [4, 9, 14] and placement.computed_tokens == 19
    apart = packing.Layout(19, 1, 1, packing=True, share_prompts=False)
    assert packing.place(apart, lengths[0] + 1, *lengths[1:]).num_rows == 2


def test_a_sequence_that_fits_into_no_row_is_refused():
    layout = packing.Layout(8, 1, 1, packing=True, share_prompts=False)
    with pytest.raises(ValueError, match=r"completion 1 has 9 .* raise learner\.row_t"):
        packing.place(layout, np.array([2, 4]), np.array([3, 5]), np.zeros(2, int))
