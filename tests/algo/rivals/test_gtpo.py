"""GTPO and GRPO-S."""

import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import entropy, losses
from hapo_jax.algo.rivals import gtpo
from tests import golden, tiny
from tests.algo import given


def _rewards(case):
    numbers = (
        case.inputs["acc"].astype(jnp.float32),
        case.inputs["entropy"],
        case.mask,
        case.inputs["group_index"].astype(jnp.int32),
    )
    tokens, completions = (
        function(
            *numbers,
            outcome=case.config[f"{letter}1"],
            entropy_bonus=case.config[f"{letter}2"],
        )
        for function, letter in (
            (gtpo.gtpo_rewards, "alpha"),
            (gtpo.grpo_s_rewards, "beta"),
        )
    )
    return {"gtpo_token_reward": tokens, "grpos_sequence_reward": completions}


GOLDEN = {"gtpo_grpo_s_shaped_reward": _rewards}

# One group of four, two right; the first wrong one is empty.
SCORES = jnp.array([1.0, 0.0, 1.0, 0.0])
GROUP = jnp.zeros(4, jnp.int32)
MASK = jnp.arange(2)[None, :] < jnp.array([2, 0, 1, 2])[:, None]
ENTROPY = jnp.array([[1.0, 2.0], [9.0, 9.0], [0.5, 9.0], [0.25, 0.75]])


def test_rewards_of_completions_by_hand():
    """Mean entropies 1.5 and 0.5 of two right ones; the wrong one is alone."""
    weights = {"outcome": 2.0, "entropy_bonus": 0.4}
    actual = gtpo.grpo_s_rewards(SCORES, ENTROPY, MASK, GROUP, **weights)
    np.testing.assert_allclose(actual, [2.6, 0.0, 2.2, -2.4], rtol=1e-6)


@pytest.mark.parametrize("norm_set", ["group", "polarity"])
def test_advantages_of_completions(norm_set):
    weights = {"outcome": 2.0, "entropy_bonus": 0.4}
    shaped = np.array([2.6, 2.2, -2.4])
    expected = (shaped - shaped.mean()) / shaped.std()
    if norm_set == "polarity":
        expected = np.array([1.0, -1.0, 0.0])
    actual = gtpo.grpo_s(SCORES, ENTROPY, MASK, GROUP, norm_set=norm_set, **weights)
    whole = np.array([expected[0], 0, expected[1], expected[2]])[:, None]
    np.testing.assert_allclose(actual, whole * MASK, rtol=1e-5, atol=1e-6)


def test_without_a_bonus_completions_have_the_normalised_outcome():
    """Two right, one wrong: 1/sqrt(2) and -sqrt(2); the fourth has no tokens."""
    actual = gtpo.grpo_s(SCORES, ENTROPY, MASK, GROUP, entropy_bonus=0.0)
    expected = np.array([0.5, 0, 0.5, -1])[:, None] * np.sqrt(2) * MASK
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_the_ratio_is_the_mean_of_the_tokens():
    ratio = jnp.array([[2.0, 4.0], [9.0, 9.0], [0.5, 9.0], [1.0, 0.5]])
    old = jnp.full((4, 2), -1.0)
    actual = gtpo.mean_ratio(old + jnp.log(ratio), old, MASK, limit=20.0)
    expected = np.array([3.0, 1.0, 0.5, 0.75])[:, None] * np.ones((1, 2))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    single = jnp.ones((8, 1), bool)
    new, old = (old + jnp.log(ratio)).reshape(8, 1), old.reshape(8, 1)
    np.testing.assert_allclose(
        gtpo.mean_ratio(new, old, single, limit=20.0),
        losses.importance_ratio(new, old, limit=20.0),
        rtol=1e-6,
    )


def test_loss_of_two_completions_by_hand():
    """Means 3, cut at 1.28 for A = 1, and 0.75, cut at 0.8 for A = -2."""
    ratio = jnp.array([[2.0, 4.0], [1.0, 0.5]])
    tokens = given.Tokens(
        logprobs=jnp.log(ratio),
        entropy=None,
        old_logprobs=jnp.zeros((2, 2)),
        old_entropy=jnp.ones((2, 2)),
        behavior_logprobs=jnp.zeros((2, 2)),
        reference_logprobs=None,
        advantages=jnp.array([[1.0, 1.0], [-2.0, -2.0]]),
        mask=jnp.ones((2, 2), bool),
    )
    stats = entropy.initial_stats()
    made = tiny.method("grpo_s")
    value, grad, _ = golden.value_and_grad(made, tokens, stats)
    np.testing.assert_allclose(value, (-1.28 + 1.6) / 2, rtol=1e-6)
    np.testing.assert_array_equal(grad, np.zeros((2, 2)))
    wide = tiny.method("grpo_s", clip_low=0.5, clip_high=4.0)
    value, grad, _ = golden.value_and_grad(wide, tokens, stats)
    np.testing.assert_allclose(value, (-3 + 1.5) / 2, rtol=1e-6)
    # Half of the loss of a completion, whose ratio is half of each token's.
    np.testing.assert_allclose(grad, [[-0.5, -1.0], [0.5, 0.25]], rtol=1e-6)
