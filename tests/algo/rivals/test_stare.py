"""STARE."""

import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import entropy
from hapo_jax.algo.rivals import stare
from tests import golden, tiny
from tests.algo import given


def _stare(case):
    config = case.config
    tokens, stats = golden.tokens(case), entropy.initial_stats()
    state = stare.Weights(
        jnp.float32(config["gate_on"]), config["reweight_w"], config["reweight_m"]
    )
    shaped = stare.stare(
        *(tokens.logprobs, tokens.advantages, case.mask, state),
        variant=config["variant"],
        share=config["top_p_ratio"],
    )
    shaped = jnp.where(case.mask, shaped, 0)
    made = tiny.method(
        "stare",
        clip_low=config["cliprange_low"],
        clip_high=config["cliprange_high"],
        clip_dual=config["clip_ratio_c"],
        **golden.aggregation(case),
    )
    value, grad, _ = golden.value_and_grad(made, tokens, stats, shaped=shaped)
    has = case.mask & (tokens.advantages != 0)
    weights = jnp.where(has, shaped / jnp.where(has, tokens.advantages, 1), 1)
    return {"loss": value, "grad_log_prob": grad, "token_weights": weights}


GOLDEN = {"stare": _stare}

LOGPROBS = jnp.log(jnp.array([[0.5, 0.1, 0.9], [0.2, 0.3, 0.4]]))
ADVANTAGES = jnp.array([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]])
MASK = jnp.array([[True, True, True], [True, True, False]])


def _weights(gate=1.0, **options):
    state = stare.Weights(*map(jnp.float32, (gate, 1.5, 0.5)))
    shaped = stare.stare(LOGPROBS, ADVANTAGES, MASK, state, **options)
    return np.asarray(shaped / ADVANTAGES).tolist()


def test_weights_by_hand():
    """Of three and of two tokens ceil(0.4 n) are two and one."""
    assert _weights() == [[1, 1.5, 1], [1, 1, 1]]
    assert _weights(share=0.4) == [[1.5, 1.5, 1], [1, 1, 1]]
    both = _weights(share=0.4, variant="C2")
    assert both == [[1.5, 1.5, 1], [0.5, 1, 1]]


def test_an_open_gate_and_no_share_and_weights_of_1_are_dapo():
    ones = np.ones((2, 3)).tolist()
    assert _weights(gate=0.0) == ones
    assert _weights(share=0.0) == ones
    state = stare.Weights(*map(jnp.float32, (1.0, 1.0, 1.0)))
    shaped = stare.stare(LOGPROBS, ADVANTAGES, MASK, state, variant="C2")
    np.testing.assert_array_equal(shaped, ADVANTAGES)


def _step(state, nats, **options):
    values = {"old_entropy": jnp.full((2, 3), nats), "mask": MASK}
    return stare.update(values, state, **{"target": 0.3, "alpha": 0.0, **options})


def test_the_gate_follows_the_mean_entropy_of_the_step():
    state = stare.init(1.1, 0.9)
    assert [float(_step(state, nats).gate) for nats in (0.2, 0.3, 0.4)] == [1, 0, 0]
    np.testing.assert_allclose(_step(state, 0.2)[1:], [1.1, 0.9], rtol=1e-6)


def test_adaptive_weights_move_within_their_bounds():
    state = stare.init(1.1, 0.9)
    low = _step(state, 0.2, alpha=0.01)
    np.testing.assert_allclose(low, [1, 1.11, 0.89], rtol=1e-6)
    np.testing.assert_allclose(_step(low, 0.4, alpha=0.01), [0, 1.1, 0.9], rtol=1e-6)
    for nats, end in ((0.2, [1, 1.5, 0.5]), (0.4, [0, 1, 1])):
        far = state
        for _ in range(3):
            far = _step(far, nats, alpha=0.3)
        np.testing.assert_allclose(far, end, rtol=1e-6)


@pytest.mark.parametrize(("nats", "weight"), [(0.1, 1.1), (0.5, 1.0)])
def test_a_method_with_a_gate(nats, weight):
    """The state of the step decides, before the policy is run."""
    made = tiny.method("stare")
    assert not made.by_rows
    numbers = jnp.full((2, 3), nats)
    tokens = given.Tokens(*[LOGPROBS, numbers] * 2, LOGPROBS, None, ADVANTAGES, MASK)
    rows = given.rows(tokens)
    state = made.update_state(rows, made.init_state())
    shaped = made.constants(rows, state, ADVANTAGES * MASK)["shaped"]
    np.testing.assert_allclose(shaped[0], [1, weight, 1], rtol=1e-6)
