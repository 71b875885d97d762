"""PPO: generalised advantages and the value loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import batch_loss, critics, losses, masked
from hapo_jax.algo.rivals import ppo
from hapo_jax.system.errors import Refused
from tests import golden, tiny
from tests.algo import given, test_method


def _gae(case):
    total = jnp.sum(case.inputs["token_level_rewards"], axis=1)
    arguments = total, case.inputs["values"], case.mask
    options = {name: case.config[name] for name in ("gamma", "lam")}
    return {
        "advantages": ppo.gae(*arguments, **options),
        "returns": critics.returns(*arguments, **options),
    }


def _value_loss(case):
    inputs, mask = case.inputs, case.mask
    name = golden.aggregation(case)["aggregation"]
    weights, denominator = losses.AGGREGATIONS[name.pop("name")](mask, **name)

    def mean(values):
        found = critics.value_head(
            values,
            inputs["values"],
            inputs["returns"],
            strength=1.0,
            clip=case.config["cliprange_value"],
        )
        return masked.sum(found.loss * weights, mask) / denominator, found.clipped

    (loss, clipped), grad = jax.value_and_grad(mean, has_aux=True)(inputs["vpreds"])
    clipfrac = masked.mean(clipped.astype(jnp.float32), mask)
    return {"loss": loss, "grad_vpreds": grad, "vf_clipfrac": clipfrac}


GOLDEN = {"gae": _gae, "value_loss": _value_loss}


def slow(rewards, values, mask, gamma, lam):
    """Advantages before whitening, in float64: the sum over what is still to come."""
    found = np.zeros(mask.shape)
    for i, row in enumerate(mask):
        places = np.flatnonzero(row)
        reward = [0.0] * len(places)
        if len(places):
            reward[-1] = rewards[i]
        after = [values[i, t] for t in places[1:]] + [0.0] * (len(places) > 0)
        delta = [
            r + gamma * v - values[i, t]
            for r, v, t in zip(reward, after, places, strict=True)
        ]
        for k, t in enumerate(places):
            discounts = [(gamma * lam) ** n for n in range(len(places) - k)]
            found[i, t] = np.dot(discounts, delta[k:])
    return found


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.9, 0.8), (1.0, 0.0), (0, 1)])
def test_slow_loop_agrees(gamma, lam):
    """With holes in the mask and an empty row, and NaN in padding."""
    rng = np.random.default_rng(0)
    mask = rng.random((5, 7)) < 0.6
    mask[3] = False
    rewards, values = rng.normal(size=5), rng.normal(size=(5, 7))
    given_values = jnp.asarray(np.where(mask, values, np.nan), jnp.float32)
    arguments = jnp.asarray(rewards, jnp.float32), given_values, jnp.asarray(mask)
    expected = slow(rewards, values, mask, gamma, lam)
    same = dict(rtol=1e-5, atol=1e-6)
    found = critics.gae_advantages(*arguments, gamma=gamma, lam=lam)
    np.testing.assert_allclose(found, expected, **same)
    inside = expected[mask]
    white = (inside - inside.mean()) / inside.std(ddof=1)
    whitened = ppo.gae(*arguments, gamma=gamma, lam=lam)
    np.testing.assert_allclose(np.asarray(whitened)[mask], white, **same)
    returns = critics.returns(*arguments, gamma=gamma, lam=lam)
    np.testing.assert_allclose(
        returns, np.where(mask, expected + np.where(mask, values, 0), 0), **same
    )


def test_advantages_by_hand():
    """gamma 1/2, lam 1/2: deltas are 0 + 2/2 - 4, 8 - 2 in the first row, 6 - 1 in the
    second, whose second token is skipped; its first is 0 + 1/2 - 3."""
    mask = jnp.array([[True, True, False], [True, False, True]])
    values = jnp.array([[4.0, 2.0, 9.0], [3.0, 9.0, 1.0]])
    found = critics.gae_advantages(
        jnp.array([8.0, 6.0]), values, mask, gamma=0.5, lam=0.5
    )
    expected = [[-3 + 6 / 4, 6, 0], [-2.5 + 5 / 4, 0, 5]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_value_loss_by_hand():
    """Old value 0, clip 1/2. A value of 1/4 is inside; one of 2 counts as itself where
    its target is 0, and as 1/2 where that is further off, at a target of 2."""
    values = jnp.array([[0.25, 2.0, 2.0]])
    returns = jnp.array([[1.0, 0.0, 2.0]])
    found = critics.value_head(
        values, jnp.zeros((1, 3)), returns, strength=2.0, clip=0.5
    )
    np.testing.assert_allclose(found.loss, [[0.5625, 4.0, 2.25]])
    np.testing.assert_array_equal(found.clipped, [[False, False, True]])
    grad = jax.grad(
        lambda x: critics.value_head(
            x, jnp.zeros((1, 3)), returns, strength=2.0, clip=0.5
        ).loss.sum()
    )(values)
    np.testing.assert_allclose(grad, [[-1.5, 4.0, 0.0]])


def test_without_values_it_is_reinforce_pp():
    """Values of 0 and lam 1: the returns to go, whitened."""
    _, rewards, mask, group_ids = test_method._batch()
    zeros = jnp.zeros(mask.shape)
    for gamma in (1.0, 0.9):
        found = ppo.gae(rewards, zeros, mask, gamma=gamma, lam=1.0)
        made = tiny.method(
            "reinforce_pp", advantage={"name": "reinforce_pp", "gamma": gamma}
        )
        expected = given.advantages(made, rewards, mask, group_ids)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_critic_learns_the_returns_of_the_advantages_discounts():
    advantage = {"name": "gae", "gamma": 0.9, "lam": 0.5}
    made = tiny.method("ppo", advantage=advantage)
    tokens, rewards, mask, group_ids = test_method._batch()
    values = jnp.cos(jnp.arange(mask.size, dtype=jnp.float32)).reshape(mask.shape)
    rows = given.rows(tokens, rewards, group_ids)._replace(old_values=values)
    constants = made.constants(rows, made.init_state())
    expected = critics.returns(rewards, values, mask, gamma=0.9, lam=0.5)
    np.testing.assert_allclose(constants["returns"], expected, rtol=1e-6)
    white = masked.whiten(expected - values, mask)
    np.testing.assert_allclose(constants["advantages"], white, rtol=1e-5, atol=1e-6)


def test_the_loss_of_a_critic_takes_tokens_in_any_order_and_any_padding():
    """Weights of the mini-batch, NaN outside the mask, and no gradient there."""
    made = tiny.method("ppo")
    tokens, rewards, mask, group_ids = test_method._batch()
    rows = given.rows(tokens, rewards, group_ids)
    constants = made.constants(rows, made.init_state())
    values = jnp.where(
        mask, jnp.cos(jnp.arange(mask.size).reshape(mask.shape)), jnp.nan
    )
    weights, _ = made.aggregate(mask)
    order = np.random.default_rng(0).permutation(mask.size)

    def run(values, constants, weights):
        return jax.value_and_grad(
            lambda x: batch_loss.critic_loss(made, x, constants, weights), has_aux=True
        )(values)

    (value, sums), grad = run(values, constants, weights)
    loose = jax.tree.map(
        lambda x: x.reshape(-1, 1)[order], (values, constants, weights)
    )
    (shuffled, shuffled_sums), shuffled_grad = run(*loose)
    np.testing.assert_allclose(shuffled, value, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), shuffled_sums, sums
    )
    np.testing.assert_array_equal(shuffled_grad, np.reshape(grad, (-1, 1))[order])
    assert np.all(np.isfinite(grad)) and np.all(grad[~mask] == 0)
    assert np.any(grad[mask] != 0)
    assert sums["critic/loss"][1] == mask.sum()


OWN = "tests.algo.own_stages"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"critic": "none"}, "algo.advantage reads old_values.*name='value_head'"),
        ({"shaping": f"{OWN}:reads_values"}, "algo.shaping reads values, and they are"),
        ({"critic": f"{OWN}:reads_logprobs"}, "algo.critic reads logprobs, and a cri"),
        ({"critic": {"name": "value_head", "clip": -1}}, "algo.critic.clip=-1 must be"),
    ],
)
def test_what_a_critic_cannot_do_is_refused(changes, message):
    with pytest.raises(Refused, match=message):
        tiny.method("ppo", **changes)
