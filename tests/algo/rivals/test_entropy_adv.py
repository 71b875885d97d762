"""Entropy-Adv."""

import jax
import jax.numpy as jnp
import numpy as np

from hapo_jax.algo import entropy
from hapo_jax.algo.rivals import entropy_adv
from tests import golden, tiny


def _entropy_adv(case):
    shaping = {"name": "entropy_adv", **case.config}
    made = tiny.method("entropy_adv", shaping=shaping)
    tokens, stats = golden.tokens(case), entropy.initial_stats()
    value, grad, _ = golden.value_and_grad(made, tokens, stats)

    def loss(nats):
        return golden.value_and_grad(made, tokens._replace(entropy=nats), stats)[0]

    # The archive's padding is shaped as well.
    numbers = case.inputs["advantages"], case.inputs["entropy"]
    return {
        "loss": value,
        "grad_log_prob": grad,
        "grad_entropy": jax.grad(loss)(tokens.entropy),
        "shaped_advantages": entropy_adv.entropy_adv(*numbers, **case.config),
    }


GOLDEN = {"entropy_adv": _entropy_adv}


def test_bonus_by_hand():
    """Bounded by half of the advantage, added whatever the sign, 0 at 0."""
    advantages = jnp.array([[1.0, 1.0, -1.0], [-1.0, 0.0, 0.0]])
    nats = jnp.array([[0.5, 3.0, 0.5], [3.0, 3.0, -1e-9]])
    shaped = entropy_adv.entropy_adv(advantages, nats)
    np.testing.assert_allclose(shaped, [[1.2, 1.5, -0.8], [-0.5, 0, 0]], rtol=1e-6)


def test_alpha_0_changes_nothing():
    advantages = jnp.array([[1.0, -1.0, 0.0]])
    shaped = entropy_adv.entropy_adv(advantages, jnp.ones((1, 3)), alpha=0.0)
    np.testing.assert_array_equal(shaped, advantages)
