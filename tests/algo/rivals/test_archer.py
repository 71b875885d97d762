"""Archer."""

import jax
import jax.numpy as jnp
import numpy as np

from hapo_jax.algo import clipping, entropy, kl, masked
from hapo_jax.algo.rivals import archer
from tests import golden, tiny


def _archer(case):
    """The reference takes means over a micro-batch; of one completion, so do we."""
    config = case.config
    quantile, strength = config["q"], config["kl_low"]
    changes = {
        "clip_range": {
            "name": "by_row_entropy",
            "quantile": quantile,
            "wide_low": 0.5,
            "wide_high": 0.5,
        },
        **golden.aggregation(case._replace(config={"loss_agg_mode": config["mode"]})),
    }
    free = tiny.method("archer", selection="none", regulariser="none", **changes)
    held = tiny.method(
        "archer",
        selection={"name": "confident", "quantile": quantile},
        regulariser={"name": "selected_reference", "strength": strength},
        **changes,
    )
    tokens = golden.tokens(case, reference_logprobs=case.inputs["ref_log_prob"])
    low = clipping.confident(tokens.entropy, tokens.mask, quantile)
    high = tokens.mask & ~low

    def of(tokens, low, high):
        """(loss, surrogate alone, KL of either side) and the gradient of the loss."""
        policy, slope, _ = golden.value_and_grad(free, tokens, entropy.initial_stats())

        def divergence(logprobs):
            values = kl.estimate(logprobs, tokens.reference_logprobs, estimator="k3")
            sides = masked.mean(values, low), masked.mean(values, high)
            return strength * sides[0] + config["kl_high"] * sides[1], sides

        pull, sides = jax.grad(divergence, has_aux=True)(tokens.logprobs)
        total = policy + divergence(tokens.logprobs)[0]
        return (total, policy, *sides), slope + pull

    for i in range(len(case.mask)):
        row = jax.tree.map(lambda x: x[i : i + 1], (tokens, low, high))
        (expected, *_), slope = of(*row)
        value, grad, _ = golden.value_and_grad(held, row[0], entropy.initial_stats())
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(grad, slope, rtol=1e-4, atol=1e-6)

    # By interpolation, between the highest confident and the lowest uncertain one.
    threshold = case.expected.pop("threshold")
    some = np.asarray(case.mask.any(axis=1))
    highest = np.max(np.where(low, tokens.entropy, -np.inf), axis=1, keepdims=True)
    lowest = np.min(np.where(high, tokens.entropy, np.inf), axis=1, keepdims=True)
    assert np.all((highest <= threshold)[some] & (threshold < lowest)[some])
    (total, policy, of_low, of_high), slope = of(tokens, low, high)
    return {
        "loss": total,
        "grad_log_prob": slope,
        "pg_loss": policy,
        "kl_low": of_low,
        "kl_high": of_high,
        "low_mask": low,
    }


GOLDEN = {"archer": _archer}


def test_selection_by_hand():
    """The quantile 0.5 of three entropies is the second, that of one is the one."""
    nats = jnp.array([[0.1, 0.3, 0.2], [0.7, 9.0, 9.0]])
    mask = jnp.array([[True, True, True], [True, False, False]])
    found = archer.confident(nats, mask, quantile=0.5)
    np.testing.assert_allclose(found, [[1.5, 0, 1.5], [1, 0, 0]], rtol=1e-6)
    assert not archer.confident(nats, jnp.zeros((2, 3), bool)).any()


def test_one_range_and_no_pull_is_dapo():
    mask = jnp.ones((1, 4), bool)
    nats = jnp.array([[0.1, 0.2, 0.3, 0.4]])
    options = dict(low=0.2, high=0.28, wide_low=0.2, wide_high=0.28)
    low, high = clipping.by_row_entropy(nats, mask, **options)
    np.testing.assert_array_equal(low, jnp.full((1, 4), 0.2))
    np.testing.assert_array_equal(high, jnp.full((1, 4), 0.28))
