"""GPG."""

import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import advantages, entropy
from hapo_jax.algo.rivals import gpg
from tests import golden, tiny


def _advantage(case):
    adapted = gpg.gpg(*golden.completions(case), correction="verl", singleton="verl")
    return {"advantages": adapted}


def _loss(case):
    fields, settings = golden.sampler(case)
    made = tiny.method("gpg", **settings, **golden.aggregation(case))
    tokens = golden.tokens(case, **fields)
    value, grad, _ = golden.value_and_grad(made, tokens, entropy.initial_stats())
    return {"loss": value, "grad_log_prob": grad}


GOLDEN = {"gpg_advantage": _advantage, "gpg_loss": _loss}

# A mixed group of three and one of two, one that is all right and one all wrong.
REWARDS = jnp.array([1.0, 0, 0, 1, 0, 1, 1, 0, 0])
GROUPS = jnp.array([0, 0, 0, 3, 3, 5, 5, 7, 7], jnp.int32)
CENTRED = np.array([2, -1, -1, 1.5, -1.5, 0, 0, 0, 0]) / 3
MASK = jnp.arange(3)[None, :] < jnp.array([3, 1, 2, 3, 2, 1, 2, 3, 1])[:, None]


@pytest.mark.parametrize(
    ("options", "factor"),
    [({}, 4 / 2), ({"correction": "verl"}, 9 / 4), ({"correction": "none"}, 1)],
)
def test_by_hand(options, factor):
    found = gpg.gpg(REWARDS, MASK, GROUPS, **options)
    expected = np.where(MASK, factor * CENTRED[:, None], 0)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("correction", ["official", "verl"])
def test_rows_that_fill_the_batch_up_do_not_count(correction):
    rewards = jnp.concatenate([REWARDS, jnp.zeros(3)])
    groups = jnp.concatenate([GROUPS, jnp.arange(9, 12, dtype=jnp.int32)])
    mask = jnp.concatenate([MASK, jnp.zeros((3, 3), bool)])
    padded = gpg.gpg(rewards, mask, groups, correction=correction)
    expected = gpg.gpg(REWARDS, MASK, GROUPS, correction=correction)
    np.testing.assert_allclose(padded[:9], expected, rtol=1e-6)


def test_only_groups_that_differ_count_as_mixed():
    """1.1 is no float32: equal rewards differ from their mean by rounding."""
    rewards = jnp.where(GROUPS == 5, 1.1, REWARDS)
    mixed = gpg.gpg(rewards, MASK, GROUPS)
    np.testing.assert_array_equal(mixed, gpg.gpg(REWARDS, MASK, GROUPS))
    assert not gpg.gpg(jnp.full(9, 1.1), MASK, GROUPS).any()


def test_without_a_correction_it_is_the_group_advantage():
    for scale_by_std in (False, True):
        np.testing.assert_array_equal(
            gpg.gpg(
                REWARDS, MASK, GROUPS, correction="none", scale_by_std=scale_by_std
            ),
            advantages.grpo(REWARDS, MASK, GROUPS, scale_by_std=scale_by_std),
        )
