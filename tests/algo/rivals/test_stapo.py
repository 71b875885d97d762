"""STAPO."""

import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import entropy
from hapo_jax.algo.rivals import stapo
from tests import golden, tiny
from tests.algo import given


def _stapo(case):
    made = tiny.method(
        "stapo", mask={"name": "stapo", **case.config}, entropy_source="current"
    )
    tokens, stats = golden.tokens(case), entropy.initial_stats()
    value, grad, _ = golden.value_and_grad(made, tokens, stats)
    kept = given.terms(made, tokens, stats).counted
    return {"loss": value, "grad_log_prob": grad, "keep": kept}


GOLDEN = {"stapo": _stapo}


def _random(seed=0, shape=(5, 8)):
    rng = np.random.default_rng(seed)
    mask = np.arange(shape[1]) < rng.integers(1, shape[1] + 1, shape[0])[:, None]
    numbers = (
        np.log(rng.uniform(1e-3, 1, shape)),
        rng.uniform(0, 3, shape),
        rng.choice([-1.0, 0.0, 1.0], (shape[0], 1)) * np.ones(shape),
    )
    return *(jnp.asarray(x, jnp.float32) for x in numbers), jnp.asarray(mask)


def test_spurious_tokens_by_hand():
    """Row 0 is right: of its improbable tokens, entropies 0.1 to 2, the quantile 0.75
    lies at 1.25, and the two below leave. Row 1 is wrong."""
    probability = jnp.array([[0.001, 0.9, 0.001], [0.001, 0.001, 0.9]])
    nats = jnp.array([[0.1, 0.1, 0.5], [0.1, 2.0, 0.1]])
    right = jnp.array([[1.0], [1.0]]) * jnp.ones((2, 3))
    mask = jnp.ones((2, 3), bool)
    for advantages, expected in (
        (right, [[0, 1, 0], [0, 1, 1]]),
        (right * jnp.array([[1.0], [-1.0]]), [[0, 1, 1], [1, 1, 1]]),
    ):
        kept, counted = stapo.stapo(jnp.log(probability), nats, advantages, mask)
        np.testing.assert_array_equal(kept, np.array(expected, bool))
        np.testing.assert_array_equal(counted, kept)


@pytest.mark.parametrize("pool", ["low_prob_correct", "all"])
@pytest.mark.parametrize("seed", range(3))
def test_slow_loop_agrees(seed, pool):
    numbers = _random(seed)
    logprobs, nats, advantages, mask = map(np.asarray, numbers)
    improbable = mask & (advantages > 0) & (np.exp(logprobs) < 0.6)
    chosen = mask if pool == "all" else improbable
    threshold = np.quantile(nats[chosen], 0.75) if chosen.any() else 0.0
    expected = mask.copy()
    for i, t in zip(*np.nonzero(improbable), strict=True):
        if nats[i, t] < threshold:
            expected[i, t] = False
    kept, _ = stapo.stapo(*numbers, tau_p=0.6, entropy_pool=pool)
    np.testing.assert_array_equal(kept, expected)
    assert 0 < expected.sum() < mask.sum()


def test_no_improbable_token_removes_nothing():
    numbers = _random()
    kept, _ = stapo.stapo(*numbers, tau_p=0.0)
    np.testing.assert_array_equal(kept, numbers[-1])
