"""Optimizers against recursions written by hand, and what they keep."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hapo_jax.config import check, defaults
from hapo_jax.learner import optimizer as optimizer_lib
from hapo_jax.learner import state as state_lib
from hapo_jax.model import policy as policy_lib
from hapo_jax.model import sharding
from hapo_jax.system.errors import Refused
from tests import tiny

B1, B2, EPS, DECAY = 0.9, 0.99, 1e-3, 0.1
THETA = np.array([1.0, -2.0, 0.5])
# Signs that stay and turn, and a parameter without a gradient at first.
GRADIENTS = np.array([[0.3, -0.1, 0.0], [0.1, 0.2, 0.4], [-0.2, 0.2, 0.1]])


def make(name, max_grad_norm=1e9):
    return optimizer_lib.make_optimizer(
        lambda done: 0.1 / (1 + done),
        b1=B1,
        b2=B2,
        eps=EPS,
        weight_decay=DECAY,
        max_grad_norm=max_grad_norm,
        name=name,
    )


def adam():
    """Directions m̂ / (√v̂ + eps), one per step."""
    m = v = 0.0
    for t, g in enumerate(GRADIENTS, start=1):
        m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
        yield m / (1 - B1**t) / (np.sqrt(v / (1 - B2**t)) + EPS)


def adagrad():
    """Directions g / √(Σg² + eps²)."""
    total = 0.0
    for g in GRADIENTS:
        total = total + g**2
        yield g / np.sqrt(total + EPS**2)


def optimistic(directions):
    last = None
    for d in directions:
        yield d if last is None else 2 * d - last
        last = d


BY_HAND = {
    "adam": lambda: adam(),
    "optimistic_adam": lambda: optimistic(adam()),
    "optimistic_adagrad": lambda: optimistic(adagrad()),
}


@pytest.mark.parametrize("name", optimizer_lib.OPTIMIZERS)
def test_steps_are_those_of_a_recursion_by_hand(name):
    """1e-5: float32 against float64."""
    optimizer, theta = make(name), jnp.asarray(THETA, jnp.float32)
    state, expected = optimizer.init(theta), THETA
    for t, (g, u) in enumerate(zip(GRADIENTS, BY_HAND[name](), strict=True)):
        rate = 0.1 / (1 + t)
        assert optimizer.learning_rate(state) == pytest.approx(rate)
        updates, state = optimizer.update(jnp.asarray(g, jnp.float32), state, theta)
        theta = optax.apply_updates(theta, updates)
        expected = expected - rate * (u + DECAY * expected)
        np.testing.assert_allclose(theta, expected, rtol=1e-5)


@pytest.mark.parametrize("name", optimizer_lib.OPTIMIZERS)
def test_long_gradients_are_cut_before_anything_else(name):
    theta = jnp.asarray(THETA, jnp.float32)
    short, long = (jnp.float32([0.6, 0.8, 0.0]) * scale for scale in (1.0, 7.0))
    cut = make(name, max_grad_norm=1.0)
    found, _ = cut.update(long, cut.init(theta), theta)
    expected, _ = cut.update(short, cut.init(theta), theta)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_adams_state_is_that_of_earlier_checkpoints():
    theta = jnp.asarray(THETA, jnp.float32)
    before = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(lambda done: 1.0, weight_decay=0.1)
    )
    old, new = before.init(theta), make("adam").init(theta)
    assert jax.tree.structure(old) == jax.tree.structure(new)


@pytest.mark.parametrize(
    ("name", "copies"),
    [("adam", 3), ("optimistic_adam", 4), ("optimistic_adagrad", 3)],
)
def test_the_memory_that_is_planned_is_what_an_optimizer_keeps(name, copies, devices):
    """Parameters and what is kept of each, split over the mesh as they are."""
    mesh = sharding.make_mesh(data=1, fsdp=2, devices=devices[:2])
    policy = policy_lib.make(tiny.MODEL, None, "", "float32", mesh)
    abstract = state_lib.abstract(policy, make(name), tiny.method("hapo"))
    parameters = sharding.per_device(abstract.params)
    beside = sharding.per_device(abstract) - copies * parameters
    assert 0 < beside < 100, "counts, statistics"


def test_an_unknown_optimizer_is_refused_with_the_nearest():
    config = defaults.default()
    config.learner.optimizer = "optimistic_adagard"
    with pytest.raises(Refused, match="optimistic_adagrad"):
        check.check_alone(config)
