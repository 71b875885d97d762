"""DeepSeek-V3.2's off-policy mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import entropy
from hapo_jax.algo.rivals import v32_mask
from tests import golden, tiny
from tests.algo import given

MASK = jnp.array([[True, True, True], [True, True, False]])
BEHAVIOR = jnp.full((2, 3), -1.0)
# Means of behaviour over current: (0.9 + 0 + 0.3) / 3 = 0.4 and (1.5 - 0.3) / 2 = 0.6.
NEW = BEHAVIOR - jnp.array([[0.9, 0.0, 0.3], [1.5, -0.3, 99.0]])


@pytest.mark.parametrize(
    ("threshold", "signs", "expected"),
    [
        (0.5, (-1, -1), [[1, 1, 1], [0, 0, 0]]),
        (0.3, (-1, -1), [[0, 0, 0], [0, 0, 0]]),
        (0.3, (1, -1), [[1, 1, 1], [0, 0, 0]]),
        (0.3, (0, 1), [[1, 1, 1], [1, 1, 0]]),
        (0.7, (-1, -1), [[1, 1, 1], [1, 1, 0]]),
    ],
)
def test_by_hand(threshold, signs, expected):
    advantages = jnp.asarray(signs, jnp.float32)[:, None] * jnp.ones((2, 3))
    kept, counted = v32_mask.off_policy(
        advantages, BEHAVIOR, NEW, MASK, threshold=threshold
    )
    np.testing.assert_array_equal(kept, np.asarray(expected, bool))
    np.testing.assert_array_equal(counted, MASK)


def _tokens(seed):
    rng = np.random.default_rng(seed)
    old = -rng.uniform(0.1, 3, (6, 5))
    mask = np.arange(5) < rng.integers(1, 6, 6)[:, None]
    numbers = {
        "logprobs": old - rng.normal(0.5, 0.8, (6, 5)),
        "old_logprobs": old,
        "old_entropy": np.ones((6, 5)),
        "behavior_logprobs": old + rng.normal(scale=0.2, size=(6, 5)),
        "advantages": np.array([-1.0, 1.0] * 3)[:, None] * np.ones((6, 5)),
    }
    float32 = {name: jnp.asarray(x, jnp.float32) for name, x in numbers.items()}
    return given.Tokens(
        **float32, entropy=None, reference_logprobs=None, mask=jnp.asarray(mask)
    )


@pytest.mark.parametrize("seed", range(3))
def test_slow_loop_agrees(seed):
    """Mean over completions of their means, in float64."""
    tokens = _tokens(seed)
    new, old, behavior, advantages, mask = (
        np.asarray(x, np.float64)
        for x in (
            *(tokens.logprobs, tokens.old_logprobs, tokens.behavior_logprobs),
            *(tokens.advantages, tokens.mask),
        )
    )
    total, left_out = 0.0, 0
    for i in range(6):
        here = np.flatnonzero(mask[i])
        divergence = sum(behavior[i, t] - new[i, t] for t in here) / len(here)
        if advantages[i, 0] < 0 and divergence > 0.1:
            left_out += 1
            continue
        for t in here:
            ratio, sign = np.exp(new[i, t] - old[i, t]), advantages[i, t]
            clipped = np.clip(ratio, 0.8, 1.2)
            total += max(-sign * ratio, -sign * clipped) / len(here) / 6
    assert left_out
    mask_stage = {"name": "off_policy", "threshold": 0.1}
    made = tiny.method("v32_mask", mask=mask_stage)
    value, _, _ = golden.value_and_grad(made, tokens, entropy.initial_stats())
    np.testing.assert_allclose(value, total, rtol=1e-5, atol=1e-6)


def test_a_threshold_beyond_all_is_grpo():
    tokens, stats = _tokens(0), entropy.initial_stats()
    far = tiny.method("v32_mask", mask={"name": "off_policy", "threshold": 1e6})
    grpo = tiny.method("grpo", kl_strength=0.0)
    actual, expected = (
        golden.value_and_grad(made, tokens, stats)[:2] for made in (far, grpo)
    )
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
