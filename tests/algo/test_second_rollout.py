"""Completions of a second rollout add REINFORCE to the loss, and nothing else to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import batch_loss
from tests import tiny
from tests.algo import test_relations

LENGTHS = np.array([3, 0, 5])  # of three completions of a second rollout
T = test_relations.T
MASK = np.arange(T) < LENGTHS[:, None]


def joined(given, seed=1):
    """A batch with completions of a second rollout behind it."""
    rng = np.random.default_rng(seed)
    rows, first = given.rows, len(given.rows.scores)

    def more(name, x):
        shape = (len(LENGTHS), *x.shape[1:])
        return {
            "mask": MASK,
            "group_ids": np.arange(first, first + len(LENGTHS), dtype=np.int32),
            "prompt_ids": np.zeros(shape, np.int32),
        }.get(name, rng.normal(-3, 1, shape).astype(np.float32))

    fields = {
        name: np.concatenate([x, more(name, x)])
        for name, x in rows._asdict().items()
        if x is not None
    }
    second = np.arange(first + len(LENGTHS)) >= first
    current = {
        name: np.concatenate([x, more(name, x)]) for name, x in given.current.items()
    }
    return rows._replace(**fields, beside=second), current


def loss(method, rows, current):
    """Gradient, numerator, denominator, sums and constants of a batch."""
    rows, current = jax.tree.map(jnp.asarray, (rows, current))
    state = method.update_state(rows, method.init_state())
    constants = method.constants(rows, state)

    def value(logprobs):
        numerator, *rest = batch_loss.rows_loss(
            method, {**current, "logprobs": logprobs}, constants, state
        )
        return numerator, rest

    (numerator, rest), slope = jax.value_and_grad(value, has_aux=True)(
        current["logprobs"]
    )
    return slope, numerator, *rest, constants, state


@pytest.mark.parametrize("name", ["hapo", "dapo", "grpo", "hapo_public"])
def test_their_log_probs_are_added_in_the_denominator_of_the_batch(name):
    method, given = test_relations.made(name), test_relations.batch(name)
    slope, numerator, denominator, sums, constants, state = loss(method, *given)
    found = loss(method, *joined(given))
    B = len(given.rows.scores)
    logprobs = joined(given)[1]["logprobs"][B:]
    weights = np.zeros(MASK.shape)
    for row, length in enumerate(LENGTHS):
        for t in range(length):
            weights[row, t] = 1 / length if name == "grpo" else 1
    if name == "hapo_public":  # its weights are rows over tokens, of all at hand
        lengths = [*test_relations.LENGTHS, *LENGTHS]
        weights = MASK * np.count_nonzero(lengths) / sum(lengths)
    np.testing.assert_allclose(found[0][B:], -weights, rtol=1e-6)
    np.testing.assert_allclose(found[0][:B], slope, rtol=1e-6)
    np.testing.assert_allclose(
        found[1], numerator - (weights * logprobs * MASK).sum(), rtol=1e-5
    )
    assert found[2] == denominator
    # Statistics and metrics are of the batch alone.
    jax.tree.map(np.testing.assert_array_equal, found[5], state)
    for key, value in sums.items():
        if key != "kl/reference_k3":  # which is over all tokens that were trained on
            np.testing.assert_allclose(found[3][key], value, rtol=1e-6, err_msg=key)
    np.testing.assert_array_equal(found[4]["advantages"][B:], MASK)
    np.testing.assert_array_equal(found[4]["signal"][:B], constants["signal"])
    assert not found[4]["signal"][B:].any()


def test_without_one_there_is_no_such_number():
    method, given = test_relations.made("dapo"), test_relations.batch("dapo")
    assert given.rows.beside is None
    *_, constants, _ = loss(method, *given)
    assert "beside" not in constants
    assert tiny.method("dapo").aggregate(MASK)[1] == LENGTHS.sum()
