import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hapo_jax.algo import advantages
from hapo_jax.algo.rivals import gtpo

EPS = advantages.STD_EPSILON

# One group: lengths 1, 3, 2; rewards 0, 1, 0. Token mean 1/2, mean 1/3.
REWARDS = jnp.array([0.0, 1.0, 0.0])
MASK = jnp.arange(3)[None, :] < jnp.array([1, 3, 2])[:, None]
GROUP = jnp.zeros(3, jnp.int32)


def _gtpo(rewards, mask, group_ids):
    """Right where the reward is positive, with entropies that differ by row."""
    nats = jnp.where(mask, (1 + jnp.abs(rewards))[:, None], jnp.nan)
    return gtpo.gtpo(jnp.float32(rewards > 0), nats, mask, group_ids)


NAMED = {
    **advantages.ADVANTAGES,
    "hapo_token_group": advantages.hapo_token_group,
    "gtpo": _gtpo,
}


def _rows(function, *args, **options):
    """First token of each row: all tokens of a row are alike."""
    per_token = np.asarray(function(*args, **options))
    mask = np.asarray(args[1])
    expected = np.where(mask, per_token[:, :1], 0)
    np.testing.assert_array_equal(per_token, expected)
    return per_token[:, 0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("grpo", np.array([-1, 2, -1]) / 3 / (np.sqrt(1 / 3) + EPS)),
        ("dr_grpo", np.array([-1, 2, -1]) / 3),
        ("rloo", [-0.5, 1.0, -0.5]),
        ("opo", [-0.5, 0.5, -0.5]),
        ("hapo_token_group", np.array([-0.5, 0.5, -0.5]) / (0.5 + EPS)),
        # Six tokens, three of them 1: mean 1/2, unbiased variance 6/4/5 = 0.3.
        ("reinforce_pp", np.array([-0.5, 0.5, -0.5]) / np.sqrt(0.3)),
        # R - 1/3 first: the whitened values are the same.
        ("reinforce_pp_baseline", np.array([-0.5, 0.5, -0.5]) / np.sqrt(0.3)),
    ],
)
def test_by_hand(name, expected):
    for function in (NAMED[name], jax.jit(NAMED[name])):
        actual = _rows(function, REWARDS, MASK, GROUP)
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_discounted_returns_by_hand():
    actual = advantages.returns_to_go(jnp.array([2.0, 4.0, 1.0]), MASK, gamma=0.5)
    expected = [[2.0, 0.0, 0.0], [1.0, 2.0, 4.0], [0.5, 1.0, 0.0]]
    np.testing.assert_array_equal(actual, expected)


def test_public_fallback_by_hand():
    """One short success among 16 reaches 5 by token, and takes GRPO's value."""
    lengths = jnp.array([1] + [8] * 15)
    mask = jnp.arange(8)[None, :] < lengths[:, None]
    rewards = jnp.array([1.0] + [-1.0] * 15)
    group = jnp.zeros(16, jnp.int32)
    arguments = (rewards, mask, group)
    by_token = _rows(advantages.hapo_token_group, *arguments)
    assert by_token[0] > 5
    public = _rows(advantages.hapo_token_group, *arguments, fallback=5.0)
    np.testing.assert_array_equal(public, _rows(advantages.grpo, *arguments))


def test_public_fallback_looks_at_padding():
    """The same rewards and lengths, padded by one: the reward 0 there is far off."""
    rewards = jnp.array([-1.0, -1.0, -1.0, -1.3])
    full = jnp.ones((4, 4), bool)
    padded = jnp.pad(full, ((0, 0), (0, 1)))
    group = jnp.zeros(4, jnp.int32)
    without, with_padding = (
        _rows(advantages.hapo_token_group, rewards, mask, group, fallback=5.0)
        for mask in (full, padded)
    )
    np.testing.assert_allclose(without, [0.57735, 0.57735, 0.57735, -1.73205], 1e-4)
    np.testing.assert_allclose(with_padding, [0.5, 0.5, 0.5, -1.5], 1e-4)


@pytest.mark.parametrize("name", NAMED)
def test_padding_changes_nothing(name):
    rewards, mask, group = _batch()
    wide = jnp.pad(mask, ((0, 0), (0, 3)))
    actual = NAMED[name](rewards, wide, group)
    np.testing.assert_allclose(actual[:, :4], NAMED[name](rewards, mask, group), 1e-6)
    np.testing.assert_array_equal(actual[:, 4:], np.zeros((6, 3)))


@pytest.mark.parametrize("name", NAMED)
def test_permuting_the_rows_permutes_the_advantages(name):
    rewards, mask, group = _batch()
    order = jnp.array([3, 0, 5, 1, 4, 2])
    actual = NAMED[name](rewards[order], mask[order], group[order])
    expected = NAMED[name](rewards, mask, group)[order]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMED)
def test_sharded_batch_equals_one_device(name, mesh8):
    """The rows of a group lie on different devices."""
    rng = np.random.default_rng(1)
    rewards = rng.normal(size=16).astype(np.float32)
    mask = np.arange(5)[None, :] < rng.integers(0, 6, 16)[:, None]
    group = np.arange(16, dtype=np.int32) % 4
    expected = NAMED[name](*map(jnp.asarray, (rewards, mask, group)))
    rows = jax.sharding.NamedSharding(
        mesh8(), jax.sharding.PartitionSpec(("data", "fsdp"))
    )
    placed = jax.device_put((rewards, mask, group), rows)
    actual = jax.jit(NAMED[name], out_shardings=rows)(*placed)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def _batch():
    """Two groups of three with different lengths, one row of them empty."""
    rewards = jnp.array([0.0, 1.0, 0.5, 1.0, -1.0, 0.0])
    lengths = jnp.array([4, 2, 0, 1, 3, 4])
    mask = jnp.arange(4)[None, :] < lengths[:, None]
    return rewards, mask, jnp.array([4, 0, 4, 0, 4, 0], jnp.int32)


def _slow(name, rewards, mask, group):
    """Row by row and group by group, in float64; 0 for groups of equal rewards."""
    rewards, lengths = rewards.astype(np.float64), mask.sum(1)
    out = np.zeros(mask.shape)
    for i, g in enumerate(group):
        members = np.flatnonzero(group == g)
        if name in ("opo", "hapo_token_group"):
            members = members[lengths[members] > 0]
        values = rewards[members]
        if len(values) < 2 or values.min() == values.max():
            continue
        if name == "grpo":
            row = (rewards[i] - values.mean()) / (values.std(ddof=1) + EPS)
        elif name == "dr_grpo":
            row = rewards[i] - values.mean()
        elif name == "rloo":
            row = rewards[i] - (values.sum() - rewards[i]) / (len(values) - 1)
        else:
            tokens = np.repeat(values, lengths[members])
            row = rewards[i] - tokens.mean()
            if name == "hapo_token_group":
                row /= tokens.std() + EPS
        out[i] = np.where(mask[i], row, 0)
    return out


JITTED = {name: jax.jit(function) for name, function in NAMED.items()}


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "opo", "hapo_token_group"])
@hypothesis_settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.float32, 6, elements=st.sampled_from([-1.0, 0.0, 0.25, 1.0])),
    hnp.arrays(np.int64, 6, elements=st.integers(0, 5)),
    hnp.arrays(np.int32, 6, elements=st.integers(0, 5)),
)
def test_slow_loop_agrees(name, rewards, lengths, group):
    mask = np.arange(5)[None, :] < lengths[:, None]
    actual = JITTED[name](*map(jnp.asarray, (rewards, mask, group)))
    expected = _slow(name, rewards, mask, group)
    # float32 against float64 on sums of at most 30 elements.
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_unknown_singleton_is_refused():
    with pytest.raises(ValueError, match="singleton='raw'"):
        advantages.grpo(REWARDS, MASK, GROUP, singleton="raw")
