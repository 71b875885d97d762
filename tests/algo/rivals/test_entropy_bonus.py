"""The entropy bonus, and the adaptive one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import batch_loss, entropy
from tests import tiny
from tests.algo import given

MASK = jnp.array([[True, True, True], [True, True, False]])
ENTROPY = jnp.array([[0.5, 1.0, 2.0], [0.25, 0.75, 9.0]])
ZEROS = jnp.zeros((2, 3))
ADVANTAGES = jnp.array([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]])


def tokens(current=ENTROPY):
    """On-policy: every ratio is 1."""
    return given.Tokens(
        logprobs=ZEROS - 1,
        entropy=current,
        old_logprobs=ZEROS - 1,
        old_entropy=ENTROPY,
        behavior_logprobs=ZEROS - 1,
        reference_logprobs=None,
        advantages=ADVANTAGES,
        mask=MASK,
    )


def bonus(**options):
    return tiny.method("dapo", regulariser={"name": "entropy_bonus", **options})


def test_loss_and_both_gradients_by_hand():
    """Ratios are 1, so the policy's loss is -A: -3 + 2. H adds up to 4.5."""
    made, stats = bonus(coefficient=0.1), entropy.initial_stats()
    assert made.outputs == {"entropy"} and made.differentiates_entropy
    assert not made.by_rows and not made.silent_at_zero

    def mean(logprobs, nats):
        now = tokens(nats)._replace(logprobs=logprobs)
        numerator, denominator, _ = given.loss(made, now, stats)
        return numerator / denominator

    value, (slopes, of_entropy) = jax.value_and_grad(mean, (0, 1))(ZEROS - 1, ENTROPY)
    np.testing.assert_allclose(value, (-1 - 0.1 * 4.5) / 5, rtol=1e-6)
    np.testing.assert_allclose(slopes, jnp.where(MASK, -ADVANTAGES, 0) / 5)
    np.testing.assert_allclose(of_entropy, MASK * -0.1 / 5, rtol=1e-6)


def test_without_a_coefficient_it_is_dapo():
    stats = entropy.initial_stats()
    found = given.loss(bonus(coefficient=0.0), tokens(), stats)
    expected = given.loss(tiny.method("dapo"), tokens(), stats)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_method_without_it_asks_the_head_for_nothing():
    assert tiny.method("dapo").outputs == frozenset()


@pytest.mark.parametrize("source", ["old", "current"])
def test_stages_that_read_the_entropy_without_a_gradient_send_none(source):
    """HAPO's score reads the entropy too; only the bonus has a gradient in it."""
    made = tiny.method("hapo", regulariser="entropy_bonus", entropy_source=source)
    stats = given.fit(made, ENTROPY, MASK, entropy.initial_stats())

    def loss(nats):
        now = tokens(nats)._replace(logprobs=ZEROS - 0.9)
        return given.loss(made, now, stats)[0]

    np.testing.assert_allclose(jax.grad(loss)(ENTROPY), MASK * -0.001, rtol=1e-6)


def slow(entropies, *, target, step, initial=0.0, least=0.0, most=1.0):
    """What is applied at each step, as the paper says it."""
    c, found = initial, []
    for nats in entropies:
        found.append(c if nats <= target else 0.0)
        c = min(max(c + (step if nats <= target else -step), least), most)
    return found


def test_the_adaptive_coefficient_follows_the_entropy():
    """Too low for three steps, then high for two, then low again."""
    options = dict(target=0.9, step=0.4, most=0.9)
    made = tiny.method("dapo", regulariser={"name": "adaptive_entropy", **options})
    measured = [0.5, 0.9, 0.1, 1.5, 1.5, 0.2, 0.2]
    state, applied = made.init_state(), []
    for nats in measured:
        now = tokens()._replace(old_entropy=jnp.where(MASK, nats, jnp.nan))
        state = made.update_state(given.rows(now), state)
        terms = made.terms(now.current(), made.constants(given.rows(now), state), state)
        plain = jnp.where(MASK, terms.loss + terms.advantages, 0)
        np.testing.assert_allclose(
            plain, MASK * -state["regulariser"]["applied"] * ENTROPY, atol=1e-6
        )
        applied.append(float(state["regulariser"]["applied"]))
    np.testing.assert_allclose(applied, slow(measured, **options), rtol=1e-6)
    np.testing.assert_allclose(applied, [0, 0.4, 0.8, 0, 0, 0.1, 0.5], rtol=1e-5)


def test_an_empty_batch_moves_no_coefficient():
    made = tiny.method("adaptive_entropy", entropy_floor=1e-8)
    empty = given.rows(tokens()._replace(mask=MASK & False))
    state = made.init_state()
    jax.tree.map(np.testing.assert_array_equal, made.update_state(empty, state), state)


def test_the_learners_loss_is_of_all_tokens_alike():
    """Any tokens in any arrangement: the bonus needs no rows."""
    made, stats = bonus(coefficient=0.1), entropy.initial_stats()
    constants = given.constants(made, tokens(), stats)
    whole, denominator, _ = given.loss(made, tokens(), stats)
    weights, _ = made.aggregate(MASK)
    flat = jax.tree.map(
        lambda x: x.reshape(-1, 1)[::-1], (tokens().current(), constants, weights)
    )
    found, _ = batch_loss.token_loss(made, *flat, given.state(made, stats))
    np.testing.assert_allclose(found, whole, rtol=1e-6)
    assert denominator == 5
