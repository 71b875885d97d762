"""REINFORCE with rejection masks."""

import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import entropy
from hapo_jax.algo.rivals import rejection
from tests import golden, tiny
from tests.algo import given


def _mask(case):
    """All rules of a case together, as `token_k1,seq_max_k3` with `0.6_1.6,0.5`."""
    rules = case.config["rollout_rs"].split(",")
    bounds = str(case.config["rollout_rs_threshold"]).split(",")
    kept = case.mask
    for rule, bound in zip(rules, bounds * (len(rules) // len(bounds)), strict=True):
        level, _, estimator = rule.strip().removeprefix("seq_").partition("_")
        low, _, high = bound.rpartition("_")
        inside, counted = rejection.rejection(
            case.inputs["log_ratio"],
            jnp.zeros(case.mask.shape),
            case.mask,
            level=level,
            estimator=estimator,
            low=float(low or 1 / float(high)),
            high=float(high),
        )
        np.testing.assert_array_equal(inside, counted)
        kept = kept & inside
    return {"mask": kept}


GOLDEN = {"rollout_rejection_mask": _mask}

MASK = jnp.array([[True, True, True], [True, True, False]])
# Old policy over the sampler's, as powers of 2.
POWERS = jnp.array([[1.0, 0.0, -2.0], [-1.0, -1.0, 99.0]])
L = float(np.log(2))


def kept(**options):
    old = jnp.where(MASK, POWERS * L, jnp.nan)
    found, counted = rejection.rejection(old, jnp.zeros((2, 3)), MASK, **options)
    np.testing.assert_array_equal(found, counted)
    return np.asarray(found).astype(int)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # The sampler's over the old: 1/2, 1, 4 and 2, 2.
        ({"level": "token", "low": 0.4, "high": 2.1}, [[1, 1, 0], [1, 1, 0]]),
        ({"level": "token", "low": 0.6, "high": 1.9}, [[0, 1, 0], [0, 0, 0]]),
        # Products: 2 and 4.
        ({"level": "sum", "low": 0.5, "high": 2.1}, [[1, 1, 1], [0, 0, 0]]),
        # Geometric means: 2^(1/3) = 1.26 and 2.
        ({"level": "mean", "low": 0.5, "high": 1.3}, [[1, 1, 1], [0, 0, 0]]),
        ({"level": "mean", "low": 0.5, "high": 1.2}, [[0, 0, 0], [0, 0, 0]]),
        # Largest: 4 and 2.
        ({"level": "max", "low": 0.5, "high": 3.0}, [[0, 0, 0], [1, 1, 0]]),
        # log(2)^2 / 2 times 1, 0, 4 and 1, 1.
        (
            {"level": "token", "estimator": "k2", "high": L**2},
            [[1, 1, 0], [1, 1, 0]],
        ),
        ({"level": "sum", "estimator": "k2", "high": L**2 * 2}, [[0] * 3, [1, 1, 0]]),
        # 2 - 1 - log 2 = 0.31, 0, 1/4 - 1 + 2 log 2 = 0.64; 1/2 - 1 + log 2 = 0.19.
        (
            {"level": "token", "estimator": "k3", "high": 0.3},
            [[0, 1, 0], [1, 1, 0]],
        ),
        ({"level": "max", "estimator": "k3", "high": 0.3}, [[0] * 3, [1, 1, 0]]),
        ({"level": "mean", "estimator": "k3", "high": 0.32}, [[1] * 3, [1, 1, 0]]),
    ],
)
def test_by_hand(options, expected):
    np.testing.assert_array_equal(kept(**options), expected)


def test_equal_policies_are_kept_and_are_plain_reinforce():
    """With the sampler's own log-probs the method is that without the mask."""
    tokens = given.Tokens(
        logprobs=POWERS * L - 1,
        entropy=None,
        old_logprobs=jnp.full((2, 3), -1.0),
        old_entropy=jnp.ones((2, 3)),
        behavior_logprobs=jnp.full((2, 3), -1.0),
        reference_logprobs=None,
        advantages=jnp.array([[1.0] * 3, [-2.0] * 3]),
        mask=MASK,
    )
    stats = entropy.initial_stats()
    actual, expected = (
        golden.value_and_grad(
            tiny.method("reinforce_rejection", **change), tokens, stats
        )
        for change in ({}, {"mask": "all"})
    )
    np.testing.assert_array_equal(actual[0], expected[0])
    np.testing.assert_array_equal(actual[1], expected[1])
    assert np.any(actual[1])
    # A completion that is left out leaves the denominator as well.
    far = tokens._replace(behavior_logprobs=jnp.array([[-1.0] * 3, [-1.1] * 3]))
    made = tiny.method("reinforce_rejection")
    assert not made.by_rows
    _, grad, _ = golden.value_and_grad(made, far, stats)
    np.testing.assert_allclose(grad, [[-1 / 3] * 3, [0] * 3], rtol=1e-6)
