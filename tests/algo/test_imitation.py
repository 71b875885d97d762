"""Demonstrations beside a rollout: how they weigh, and what sees them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import batch_loss, supervised
from hapo_jax.learner import train_step
from hapo_jax.system.errors import Refused
from tests import tiny
from tests.algo import test_relations
from tests.algo.test_second_rollout import MASK, joined

B = test_relations.B
same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


def loss(method, rows, current):
    """(loss, gradient, sums, constants, state) of one mini-batch, as the learner's:
    token by token, with the weights of `prepare`."""
    rows, current = jax.tree.map(jnp.asarray, (rows, current))
    prepared = train_step.prepare(
        method, rows, method.init_state(), minibatch_rows=len(rows.mask)
    )

    def value(logprobs):
        return batch_loss.token_loss(
            method,
            {**current, "logprobs": logprobs},
            prepared.constants,
            prepared.weights,
            prepared.method_state,
        )

    (numerator, sums), slope = jax.value_and_grad(value, has_aux=True)(
        current["logprobs"]
    )
    d = prepared.denominators[0]
    return numerator / d, slope / d, sums, prepared.constants, prepared.method_state


def shown_loss(name, p, nats, rank):
    """A token's loss and its slope in log p, from the formula."""
    weight = {
        "uniform": lambda: 1.0,
        "dft": lambda: p,
        "phi": lambda: p * (1 - p),
        "ranktuner": lambda: (
            p
            * (p * (s := np.exp(nats) / 4 + 1)) ** -(1 / np.log2(max(rank, s) + 1) ** 2)
        ),
    }[name]()
    return -weight * np.log(p), -weight


@pytest.mark.parametrize("name", supervised.LOSSES)
@pytest.mark.parametrize("base", ["grpo", "dapo", "dr_grpo"])
def test_the_loss_is_a_mixture_of_two_means(name, base):
    """(1 - w) times that of the batch alone, plus w times the mean over the tokens of
    demonstrations, whatever the aggregation of the method is."""
    w = 0.3
    method = tiny.method(
        base,
        imitation=name,
        demonstrations_share=0.25,
        demonstrations_weight=w,
        entropy_source="current",
    )
    given = test_relations.batch(base)
    current = {**given.current, "rank": np.full(given.rows.mask.shape, 3, np.float32)}
    alone, slope, sums, constants, _ = loss(tiny.method(base), given.rows, current)
    rows, more = joined(test_relations.Given(given.rows, current))
    more["entropy"] = np.abs(more["entropy"])  # random numbers, as are ranks
    more["rank"] = np.ceil(np.abs(more["rank"]))
    found, found_slope, found_sums, found_constants, _ = loss(method, rows, more)
    total, count, slopes = 0.0, MASK.sum(), np.zeros(MASK.shape)
    for i, t in zip(*np.nonzero(MASK)):
        numbers = [more[key][B + i, t] for key in ("logprobs", "entropy", "rank")]
        p = np.exp(np.float64(numbers[0]))
        value, slopes[i, t] = shown_loss(name, p, *numbers[1:])
        total += value
    same(found, (1 - w) * alone + w * total / count)
    same(found_slope[:B], (1 - w) * slope)
    same(found_slope[B:], w * slopes / count)
    # No stage of the method and none of its metrics sees a demonstration.
    for key, value in sums.items():
        same(found_sums[key], value, err_msg=key)
    for key in constants:
        same(found_constants[key][:B], constants[key], err_msg=key)
    same(found_sums["beside/loss"], [total, count])
    assert found_sums["beside/logprob"][1] == count
    assert not found_constants["signal"][B:].any()


def test_statistics_and_advantages_over_the_whole_batch_leave_them_out():
    """Of methods that whiten over all tokens, and of the entropy score."""
    for base in ("reinforce_pp", "hapo", "ppo"):
        method = tiny.method(base, demonstrations_share=0.25)
        given = test_relations.batch(base)
        *_, alone, state = loss(method, given.rows, given.current)
        rows, current = joined(given)
        if base == "ppo":
            rows = rows._replace(old_values=np.abs(rows.old_values))
        *_, constants, found = loss(method, rows, current)
        jax.tree.map(same, found["entropy"], state["entropy"])
        for key in alone:
            same(constants[key][:B], alone[key], err_msg=f"{base}: {key}")


def test_a_critic_learns_of_no_demonstration():
    method = tiny.method("ppo", demonstrations_share=0.25)
    rows, _ = joined(test_relations.batch("ppo"))
    rows = jax.tree.map(jnp.asarray, rows)
    constants = method.constants(rows, method.init_state())
    weights, values = jnp.ones(rows.mask.shape), jnp.ones(rows.mask.shape)
    grad = jax.grad(lambda x: batch_loss.critic_loss(method, x, constants, weights)[0])(
        values
    )
    assert np.any(grad[:B]) and not np.any(grad[B:])


def test_an_update_of_demonstrations_alone_is_their_mean():
    """Dynamic sampling found no group: the rows of the batch are empty."""
    method = tiny.method("dapo", demonstrations_share=0.25, demonstrations_weight=1.0)
    rows, current = joined(test_relations.batch("dapo"))
    empty = rows.mask & rows.beside[:, None]
    found, slope, *_ = loss(method, rows._replace(mask=empty), current)
    same(found, -current["logprobs"][B:][MASK].mean())
    assert not np.any(slope[:B])


def weights(steps, **settings):
    """w in each step of a run whose state goes on."""
    settings = {f"demonstrations_{name}": x for name, x in settings.items()}
    method = tiny.method("dapo", demonstrations_share=0.25, **settings)
    rows = jax.tree.map(jnp.asarray, test_relations.batch("dapo").rows)
    state, found = method.init_state(), []
    for _ in range(steps):
        state = method.update_state(rows, state)
        found.append(float(method.imitation_weight(state)))
    return found


def test_schedules_by_hand():
    same(weights(3, weight=0.1), [0.1] * 3)
    falls = dict(weight=0.9, final_weight=0.1, decay_steps=4)
    same(weights(6, schedule="linear", **falls), [0.9, 0.7, 0.5, 0.3, 0.1, 0.1])
    cosine = [0.9, 0.5 + 0.4 * np.sqrt(0.5), 0.5, 0.5 - 0.4 * np.sqrt(0.5), 0.1, 0.1]
    same(weights(6, schedule="cosine", **falls), cosine)


def test_without_demonstrations_nothing_is_kept_for_them():
    method = tiny.method("dapo", imitation="phi")
    assert method.imitation_weight is None
    assert method.init_state().keys() == {"entropy"}


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        ("hapo_public", {}, "demonstrations.share=0.2 adds a mean .*source to 'old'"),
        ("dapo", {"imitation": "ppo"}, "algo.imitation.name='ppo' must be one of"),
        (
            "dapo",
            {"imitation": "tests.algo.own_stages:undeclared"},
            "algo.imitation reads ratio, and of a demonstration there are entropy",
        ),
        ("dapo", {"demonstrations_schedule": "linear"}, "decay_steps=0 must be 0 with"),
        ("dapo", {"demonstrations_share": 1.0}, r"share=1.0 must be a number in \[0"),
    ],
)
def test_what_cannot_be_mixed_is_refused(base, changes, message):
    with pytest.raises(Refused, match=message):
        tiny.method(base, **{"demonstrations_share": 0.2, **changes})
