"""Needed operations, counted by hand, and the metrics made from them."""

import dataclasses

import numpy as np
import pytest

from hapo_jax.learner import flops, learn, packing, perf
from tests import tiny


def placement(**options):
    """Two completions of 3 and 1 tokens behind the same prompt of 4."""
    layout = packing.Layout(
        width=14, micro_rows=1, shards=1, packing=True, share_prompts=False
    )
    layout = dataclasses.replace(layout, **options)
    lengths = np.array([3, 1])
    return packing.place(layout, np.array([4, 4]), lengths, np.zeros(2, int))


def by_hand(tokens, pairs, scored):
    c = tiny.MODEL
    per_layer = c.d_model * c.head_dim * (2 * c.num_heads + 2 * c.num_kv_heads)
    per_layer += 3 * c.d_model * c.d_ff
    per_pair = 2 * 2 * c.num_heads * c.head_dim
    layers = c.num_layers * (2 * per_layer * tokens + per_pair * pairs)
    return layers + 2 * c.d_model * c.vocab_size * scored


def test_flops_of_a_plan_by_hand():
    # Sequences of 7 and 5 tokens: 28 and 15 pairs.
    assert flops.of_placement(tiny.MODEL, placement()) == by_hand(12, 28 + 15, 4)
    # Of the prompt 3 tokens are computed once, 6 pairs; then branches of 4 and 2.
    shared = placement(share_prompts=True, width=9)
    assert shared.num_rows == 1
    pairs = 6 + (4 * 3 + 10) + (2 * 3 + 3)
    assert flops.of_placement(tiny.MODEL, shared) == by_hand(9, pairs, 4)


def test_rates_by_hand():
    """One scoring and one update in 2 s, on devices that do 1e6 FLOP/s."""
    one = placement()
    learnt = learn.Learnt(
        batch=None,
        old=None,
        rows=None,
        prepared=None,
        scorings=(one,),
        updates=(one,),
    )
    rates = perf.rates(tiny.MODEL, learnt, 2.0, peak_flops=1e6)
    needed = flops.of_placement(tiny.MODEL, one) * (1 + 3)
    assert rates["perf/mfu"] == pytest.approx(needed / 2e6)
    assert rates["perf/tokens_per_s"] == 6
    assert rates["perf/padding_share"] == pytest.approx(1 - 12 / 14)
    assert rates["perf/memory_gib"] > 0


def test_the_peak_is_that_of_the_data_sheet_or_measured():
    measured = flops.peak("float32", 8)
    assert 1e8 < measured < 1e15
    assert flops.peak("float32", 1) == measured  # simulated devices are one processor
