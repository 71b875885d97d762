"""EDGE-GRPO."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import advantages, entropy, losses, masked
from hapo_jax.algo.rivals import edge_grpo
from tests import golden, tiny
from tests.algo import given


def _edge_grpo(case):
    inputs, mask = case.inputs, case.mask
    group_ids = inputs["group_index"].astype(jnp.int32)
    of_paper = "mean_entropy" in case.expected

    def shaped(nats):
        if of_paper:
            return edge_grpo.edge(inputs["advantages"], nats, mask, group_ids)
        # The code's mean entropy is over the padded length.
        everything = jnp.ones_like(mask)
        return edge_grpo.edge_code(inputs["advantages"], nats, everything)

    def loss(logprobs, nats):
        ratio = losses.importance_ratio(logprobs, inputs["old_log_prob"], limit=20.0)
        width = jnp.full(mask.shape, 0.2)
        surrogate = losses.ppo(ratio, shaped(nats), width, width, dual=0.0)
        return masked.mean(surrogate.loss, mask)

    numbers = inputs["log_prob"], inputs["entropy"]
    value, grads = jax.value_and_grad(loss, argnums=(0, 1))(*numbers)
    outputs = {
        "loss": value,
        "grad_log_prob": grads[0],
        "grad_entropy": grads[1],
        "shaped_advantages": shaped(inputs["entropy"]),
    }
    if of_paper:
        outputs["mean_entropy"] = masked.mean(inputs["entropy"], mask, axis=1)
    return outputs


GOLDEN = {"edge_grpo": _edge_grpo}

ADVANTAGES = jnp.array([[1.0] * 3, [-1.0] * 3, [1.0] * 3, [-1.0] * 3])
NATS = jnp.array([[0.1, 0.2, 0.3], [0.6, 9.0, 9.0], [0.5] * 3, [0.5] * 3])
MASK = jnp.array([[True] * 3, [True, False, False], [True] * 3, [True] * 3])
GROUPS = jnp.array([0, 0, 2, 2], jnp.int32)


def test_by_hand():
    """Means 0.2 and 0.6 in a group: the confident right completion counts double."""
    shaped = edge_grpo.edge(ADVANTAGES, NATS, MASK, GROUPS)
    expected = np.array([2.0, -1 / 1.5, 1.0, -1.0])[:, None] * np.ones((4, 3))
    np.testing.assert_allclose(shaped, expected, rtol=1e-5)
    bound = edge_grpo.edge(ADVANTAGES, NATS, MASK, GROUPS, bound=1.25)
    np.testing.assert_allclose(bound[:2, 0], [1.25, -1 / 1.25], rtol=1e-5)


@pytest.mark.parametrize("nats", [0.0, 0.7])
def test_equal_entropies_change_nothing(nats):
    nats = jnp.full((4, 3), nats)
    shaped = edge_grpo.edge(ADVANTAGES, nats, MASK, GROUPS)
    np.testing.assert_allclose(shaped, ADVANTAGES, rtol=1e-6)
    everything = jnp.ones((4, 3), bool)
    shaped = edge_grpo.edge_code(ADVANTAGES, nats, everything)
    np.testing.assert_allclose(shaped, ADVANTAGES, rtol=1e-6)


def test_group_means_are_over_completions_with_tokens():
    empty = MASK.at[1].set(False)
    shaped = edge_grpo.edge(ADVANTAGES, NATS, empty, GROUPS)
    np.testing.assert_allclose(shaped[0], ADVANTAGES[0], rtol=1e-6)


@pytest.mark.parametrize("detach", [False, True])
def test_the_gradient_of_the_entropy_reaches_the_loss(detach):
    """d(-A / P') / dH, at r = 1, is A / P' / P for every token of the completion."""
    made = tiny.method("edge_grpo_code", shaping=dict(name="edge_code", detach=detach))
    assert made.differentiates_entropy and made.across_rows
    numbers = jnp.full((4, 3), -1.0)
    tokens = given.Tokens(
        *(numbers, NATS, numbers, NATS, numbers), None, ADVANTAGES, MASK
    )

    def loss(nats):
        here = tokens._replace(entropy=nats)
        return golden.value_and_grad(made, here, entropy.initial_stats())[0]

    sums = np.array([0.6, 0.6, 1.5, 1.5])
    relative = sums / sums.mean()
    lengths = np.array([3, 1, 3, 3])
    slopes = np.array([1, -1, 1, -1]) / relative / sums * lengths / 10
    expected = np.where(MASK, slopes[:, None], 0) * (not detach)
    np.testing.assert_allclose(jax.grad(loss)(NATS), expected, rtol=1e-5, atol=1e-7)


def test_groups_need_the_policy_before_the_updates():
    with pytest.raises(ValueError, match="algo.shaping reads group_ids"):
        tiny.method("edge_grpo", entropy_source="current")


def test_advantages_of_equal_rewards_stay_0():
    equal = advantages.grpo(jnp.ones(4), MASK, GROUPS)
    np.testing.assert_array_equal(
        edge_grpo.edge(equal, NATS, MASK, GROUPS), np.zeros((4, 3))
    )
