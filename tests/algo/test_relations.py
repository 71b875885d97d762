"""What mathematics promises of every method, from its rewards to its gradient.

A relation that a method does not keep follows from what its stages declare, and never
from its name. `test_every_stage.py` holds the stages to their declarations.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import batch_loss, methods
from hapo_jax.algo import method as method_lib
from hapo_jax.algo.terms import Rows
from tests import tiny

B, T = 6, 5
LENGTHS = np.array([5, 2, 4, 0, 3, 5])  # one completion is empty
MASK = np.arange(T) < LENGTHS[:, None]
GROUP_IDS = np.array([0, 0, 0, 3, 3, 3], np.int32)
RIGHT = np.array([1, 0, 1, 0, 0, 1], np.float32)
# Settings without a default, which a user has to give, and bounds that these random
# numbers lie within.
GIVEN: dict[str, dict[str, Any]] = {
    "reinforce_rejection": {"mask": {"name": "rejection", "low": 0.5, "high": 2.0}},
}
PER_ROW = {"rewards", "scores", "baselines"}

same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


class Given(NamedTuple):
    """A batch and the current policy's numbers of its tokens."""

    rows: Rows
    current: dict[str, np.ndarray]


class Found(NamedTuple):
    """Of a batch whose loss was taken over some of its completions."""

    advantages: np.ndarray
    numerator: np.ndarray
    denominator: np.ndarray
    slopes: np.ndarray  # of the numerator in the log-probs
    others: Any  # of the numerator in all other numbers


@functools.cache
def made(name: str) -> method_lib.Method:
    """The method, with ratios bounded as they are by default: public code's are not."""
    return tiny.method(name, clip_log_ratio=20.0, **GIVEN.get(name, {}))


def batch(name: str, *, rewards=RIGHT, shift=0.4, seed=0) -> Given:
    """Random numbers of the right kind for all that the method reads."""
    rng = np.random.default_rng(seed)
    reads = made(name).reads

    def numbers(field, kind):
        if field in ("mask", "group_ids", "prompt_ids"):
            return None
        if field in PER_ROW:
            return np.zeros(B, np.float32) if kind else None
        if field.endswith("logprobs"):
            return old + rng.normal(scale=0.2, size=(B, T)) if kind else None
        return rng.uniform(0.01, 0.9, (B, T)) if kind else None

    old = -rng.uniform(0.05, 3, (B, T))
    always = ("mask", "rewards", "scores", "group_ids", "prompt_ids", "old_entropy")
    found = {
        field: numbers(field, field in (*always, *reads, "behavior_logprobs"))
        for field in Rows._fields
    }
    found |= {
        "mask": MASK,
        "old_logprobs": old,
        "old_entropy": rng.uniform(0.01, 3, (B, T)),
        "rewards": rewards,
        "scores": np.float32(rewards > 0.5),
        "group_ids": GROUP_IDS,
        "prompt_ids": GROUP_IDS // 3,
    }
    rows = jax.tree.map(_float32, Rows(**found))
    current = {
        "logprobs": old + rng.normal(scale=shift, size=(B, T)),
        "entropy": rng.uniform(0.01, 3, (B, T)),
        "rank": rng.integers(1, 9, (B, T)).astype(np.float32),
    }
    return Given(rows, jax.tree.map(_float32, current))


def _float32(x):
    return x.astype(np.float32) if x.dtype == np.float64 else x


@functools.cache
def _compiled(name: str):
    method = made(name)

    def run(given: Given, at_hand):
        def numerator(logprobs, others):
            rows, current = others
            rows = Rows(**given.rows._asdict() | rows)
            state = method.update_state(rows, method.init_state())
            constants = method.constants(rows, state)
            part = constants | {"mask": rows.mask & at_hand[:, None]}
            value, denominator, _ = batch_loss.rows_loss(
                method, {**current, "logprobs": logprobs}, part, state
            )
            return value, (constants["advantages"], denominator)

        floats = {
            n: x
            for n, x in given.rows._asdict().items()
            if x is not None and x.dtype == jnp.float32
        }
        others = floats, {n: x for n, x in given.current.items() if n != "logprobs"}
        (value, aux), slopes = jax.value_and_grad(
            numerator, argnums=(0, 1), has_aux=True
        )(given.current["logprobs"], others)
        return Found(aux[0], value, aux[1], *slopes)

    return jax.jit(run)


ALL = np.ones(B, bool)


def run(name: str, given: Given, at_hand=ALL) -> Found:
    """The loss over the completions at hand; advantages are of the whole batch."""
    return jax.tree.map(np.asarray, _compiled(name)(given, jnp.asarray(at_hand)))


every_method = pytest.mark.parametrize("name", methods.METHODS)


@every_method
def test_gradients_flow_through_the_current_policy_alone(name):
    """Through its log-probs, and its entropies if the method says so."""
    found = run(name, batch(name))
    assert np.any(found.slopes)
    of_rows, of_current = found.others
    if made(name).differentiates_entropy:
        of_current = {n: x for n, x in of_current.items() if n != "entropy"}
    for leaf in jax.tree.leaves((of_rows, of_current)):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


@every_method
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_padding_may_hold_anything(name, bad):
    given = batch(name)

    def poisoned(x):
        return np.where(MASK, x, np.float32(bad)) if x.ndim == 2 else x

    rows = jax.tree.map(poisoned, given.rows._replace(mask=None))._replace(mask=MASK)
    actual = run(name, Given(rows, jax.tree.map(poisoned, given.current)))
    jax.tree.map(np.testing.assert_array_equal, actual, run(name, given))
    np.testing.assert_array_equal(actual.slopes[~MASK], 0)


@every_method
def test_the_order_of_completions_does_not_matter(name):
    if "random" in made(name).reads:
        pytest.skip("what is drawn at random depends on the place in the batch")
    order = np.array([2, 5, 0, 4, 1, 3])  # mixes the groups, too
    given = batch(name)
    moved = jax.tree.map(lambda x: x[order], given)
    found, expected = run(name, moved), run(name, given)
    same(found.numerator, expected.numerator)
    same(found.denominator, expected.denominator)
    same(found.advantages, expected.advantages[order])
    same(found.slopes, expected.slopes[order])


@every_method
def test_parts_of_a_mini_batch_add_up_unless_the_method_is_across_rows(name):
    given, first = batch(name), np.arange(B) < 2
    whole = run(name, given)
    parts = [run(name, given, at_hand) for at_hand in (first, ~first)]
    if made(name).across_rows:
        pytest.skip("looks at other completions, and says so")
    for field in ("numerator", "denominator", "slopes"):
        total = sum(getattr(part, field) for part in parts)
        same(total, getattr(whole, field), err_msg=field)


@every_method
def test_equal_rewards_give_no_gradient_if_the_method_is_silent(name):
    method = made(name)
    found = run(name, batch(name, rewards=np.full(B, 1.0, np.float32)))
    if method.silent_at_equal_rewards:
        np.testing.assert_array_equal(found.advantages, np.zeros((B, T)))
        if method.silent_at_zero:
            np.testing.assert_array_equal(found.slopes, np.zeros((B, T)))
    np.testing.assert_array_equal(found.slopes[~MASK], 0)


@every_method
def test_numbers_stay_finite_at_huge_ratios(name):
    given = batch(name)
    signs = np.where(np.arange(T) % 2, 100, -100) * np.ones((B, 1))
    for sign in (1, -1):
        logprobs = given.rows.old_logprobs + np.float32(sign * signs)
        found = run(name, Given(given.rows, given.current | {"logprobs": logprobs}))
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
