"""One update is the same however the work is cut, and survives bad numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hapo_jax import policy as policy_lib
from hapo_jax.algo import likelihood
from hapo_jax.learner import learn as learn_lib
from hapo_jax.learner import optimizer as optimizer_lib
from hapo_jax.learner import train_step
from tests import tiny

NUM_PROMPTS, GROUP = 8, 4
MINIBATCH_ROWS = 16
ROWS = NUM_PROMPTS * GROUP


def adamw(**changes):
    settings = dict(
        learning_rate=1e-2,
        warmup_steps=2,
        decay_steps=0,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        weight_decay=0.1,
        max_grad_norm=1.0,
    )
    return optimizer_lib.make_optimizer(**settings | changes)


@functools.cache
def rollout():
    return tiny.batch(NUM_PROMPTS, GROUP)


def make(mesh, objective, *, micro_rows=MINIBATCH_ROWS, optimizer=None, **options):
    """A learner and a fresh state on a mesh."""
    optimizer = optimizer or adamw()
    policy = policy_lib.make(tiny.MODEL, None, "", "float32", mesh)
    abstract = policy.abstract_state(optimizer)
    learner = train_step.make_learner(
        policy.graphdef,
        objective,
        optimizer,
        mesh,
        jax.tree.map(lambda x: x.sharding, abstract),
        base_temperature=1.0,
        micro_rows=micro_rows,
        chunk_tokens=options.get("chunk_tokens", 64),
        remat=options.get("remat", False),
    )
    params = jax.device_put(tiny.params(), policy.train_shardings)
    return learner, train_step.place(params, optimizer, abstract)


def step(mesh, objective, batch=None, passes=1, reference_params=None, **options):
    """State, rows and metrics after one step of learning, on the host."""
    with jax.set_mesh(mesh):
        learner, state = make(mesh, objective, **options)
        state, rows, metrics = learn_lib.learn(
            learner,
            state,
            batch or rollout(),
            minibatch_rows=MINIBATCH_ROWS,
            passes=passes,
            reference_params=reference_params,
        )
        return jax.device_get((state, rows)), metrics


def one_device(devices):
    return jax.sharding.Mesh(
        np.array(devices[:1]).reshape(1, 1, 1),
        ("data", "fsdp", "tensor"),
        axis_types=(jax.sharding.AxisType.Auto,) * 3,
    )


@pytest.fixture(scope="module")
def expected(devices):
    return step(one_device(devices), tiny.objective("hapo"))


def assert_same(result, expected, *, atol=1e-5):
    """1e-5: float32 sums in another order."""
    (state, _), metrics = result
    (expected_state, _), expected_metrics = expected
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=atol),
        state._replace(opt_state=()),
        expected_state._replace(opt_state=()),
    )
    for key in expected_metrics:
        np.testing.assert_allclose(
            metrics[key], expected_metrics[key], rtol=1e-4, atol=atol, err_msg=key
        )


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 4, 1), (2, 2, 2)])
def test_eight_devices_equal_one(mesh8, expected, shape):
    assert_same(step(mesh8(shape), tiny.objective("hapo")), expected)


@pytest.mark.parametrize("micro_rows", [1, 2, 8])
def test_micro_batches_change_nothing(devices, expected, micro_rows):
    result = step(one_device(devices), tiny.objective("hapo"), micro_rows=micro_rows)
    assert_same(result, expected)


@pytest.mark.parametrize("options", [{"chunk_tokens": 1}, {"remat": True}])
def test_chunks_and_remat_change_nothing(devices, expected, options):
    assert_same(step(one_device(devices), tiny.objective("hapo"), **options), expected)


def test_statistics_of_micro_batches_are_the_declared_exception(devices):
    """`hapo_public` scores a token within its micro-batch, so the cut matters."""
    mesh, objective = one_device(devices), tiny.objective("hapo_public")
    (whole, _), _ = step(mesh, objective, passes=2)
    (cut, _), _ = step(mesh, objective, passes=2, micro_rows=2)
    gap = jax.tree.map(lambda a, b: np.abs(a - b).max(), whole.params, cut.params)
    assert max(jax.tree.leaves(gap)) > 1e-4


def test_the_gradient_is_that_of_the_plain_formula(devices):
    """Token-mean over the global mini-batch, against autodiff of the definition."""
    mesh = one_device(devices)
    optimizer = optax.sgd(1.0)  # the update is the gradient
    (state, rows), _ = step(mesh, tiny.objective("dapo"), optimizer=optimizer)
    del state
    with jax.set_mesh(mesh):
        learner, start = make(mesh, tiny.objective("dapo"), optimizer=optimizer)
        rows = jax.tree.map(
            lambda x: jax.device_put(x[:1], learner.sharding), rows
        )  # the first mini-batch
        after, _ = learner.update(start, rows, jnp.int32(0))
    graphdef, params = tiny.model()

    def loss(params):
        from flax import nnx

        from hapo_jax.learner import scoring

        scores = scoring.score_rows(
            nnx.merge(graphdef, params),
            rows.prompt_tokens[0],
            rows.prompt_lengths[0],
            rows.completion_tokens[0],
            rows.completion_mask[0],
            base_temperature=1.0,
            chunk_tokens=1000,
            with_entropy=False,
        )
        ratio = jnp.exp(scores.logprobs - rows.old_logprobs[0])
        a = rows.advantages[0]
        per_token = -jnp.minimum(ratio * a, jnp.clip(ratio, 0.8, 1.28) * a)
        mask = rows.completion_mask[0]
        return jnp.where(mask, per_token, 0).sum() / mask.sum()

    grads = jax.grad(loss)(params)
    jax.tree.map(
        lambda new, old, g: np.testing.assert_allclose(old - new, g, atol=2e-6),
        jax.device_get(after.params),
        jax.device_get(params),
        jax.device_get(grads),
    )


def test_non_finite_gradients_are_skipped_and_counted(devices):
    mesh = one_device(devices)
    with jax.set_mesh(mesh):
        learner, state = make(mesh, tiny.objective("hapo"))
        before = jax.device_get(state)
        poisoned = rollout()._replace(
            rewards=np.full_like(rollout().rewards, np.inf)
            * np.resize([1, -1], ROWS).astype(np.float32)
        )
        state, _, metrics = learn_lib.learn(
            learner, state, poisoned, minibatch_rows=MINIBATCH_ROWS, passes=1
        )
        assert metrics["grad/skipped"] == 2
        assert int(state.skipped) == 2 and int(state.skipped_total) == 2
        jax.tree.map(
            np.testing.assert_array_equal,
            (before.params, before.opt_state),
            jax.device_get((state.params, state.opt_state)),
        )
        state, _, metrics = learn_lib.learn(
            learner, state, rollout(), minibatch_rows=MINIBATCH_ROWS, passes=1
        )
        assert metrics["grad/skipped"] == 0
        assert int(state.skipped) == 0 and int(state.skipped_total) == 2


def test_a_batch_of_empty_rows_changes_no_parameter(devices):
    mesh = one_device(devices)
    empty = rollout()._replace(completion_mask=np.zeros_like(rollout().completion_mask))
    (state, _), metrics = step(mesh, tiny.objective("hapo"), batch=empty)
    jax.tree.map(
        np.testing.assert_array_equal, state.params, jax.device_get(tiny.params())
    )
    assert metrics["grad/skipped"] == 0
    assert np.isinf(state.stats.std)  # as before the first batch


def test_nan_in_padding_reaches_nothing(devices, expected):
    batch = rollout()
    poison = np.where(batch.completion_mask, batch.behavior_logprobs, np.nan)
    result = step(
        one_device(devices),
        tiny.objective("hapo"),
        batch=batch._replace(behavior_logprobs=poison),
    )
    (state, _), _ = result
    jax.tree.map(np.testing.assert_array_equal, state.params, expected[0][0].params)


def test_reference_kl_pulls_towards_the_reference(devices):
    mesh = one_device(devices)
    grpo = tiny.objective("grpo", kl_strength=1.0)
    reference = tiny.params(seed=1)
    (_, rows), metrics = step(mesh, grpo, passes=3, reference_params=reference)
    assert np.isfinite(metrics["kl/reference_k3"]) and metrics["kl/reference_k3"] > 0
    mask = rows.completion_mask
    np.testing.assert_allclose(
        rows.reference_logprobs[mask],
        # The batch was scored under the same parameters, seed 1.
        rollout().base_logprobs.reshape(mask.shape)[mask],
        atol=1e-5,
    )


def test_likelihood_objective_learns_its_batch(devices):
    mesh = one_device(devices)
    with jax.set_mesh(mesh):
        learner, state = make(
            mesh,
            likelihood.make_likelihood_objective(),
            optimizer=adamw(learning_rate=3e-2, warmup_steps=1, weight_decay=0.0),
        )
        zeros = np.zeros_like(rollout().entropy)
        rows = learn_lib.put_rows(rollout(), MINIBATCH_ROWS, learner.sharding)
        rows = rows._replace(
            old_logprobs=zeros.reshape(rows.completion_mask.shape),
            old_entropy=zeros.reshape(rows.completion_mask.shape),
            advantages=zeros.reshape(rows.completion_mask.shape),
        )
        losses = []
        for _ in range(40):
            state, metrics = learner.update(state, rows, jnp.int32(0))
            losses.append(float(metrics["loss/policy"]))
    scored = rollout().base_logprobs[:MINIBATCH_ROWS]
    assert scored.mean() < 0
    assert losses[-1] < 0.5 * losses[0]
