"""A value head learns beside the policy, and is no part of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hapo_jax.learner import learn as learn_lib
from hapo_jax.learner import shapes, value_head
from hapo_jax.learner import state as state_lib
from hapo_jax.model import policy as policy_lib
from hapo_jax.model import sharding
from hapo_jax.runs.checkpoint import Checkpoints
from tests import tiny
from tests.learner import test_train_step as steps

D = tiny.MODEL.d_model


def random_head(seed):
    """A head whose values are of the size of rewards."""
    rng = np.random.default_rng(seed)
    head = value_head.init(D)
    return jax.tree.map(
        lambda x: np.asarray(rng.normal(scale=0.3, size=x.shape), np.float32), head
    )


def dense_loss(params, head, batch, constants, *, strength, clip):
    """PPO and its value loss over whole rows, from logits of the whole vocabulary."""
    graphdef, _ = tiny.model()
    model = nnx.merge(graphdef, params)
    P = batch.prompt_tokens.shape[1]
    tokens = np.concatenate([batch.prompt_tokens, batch.completion_tokens], axis=1)
    column = np.arange(tokens.shape[1])[None]
    start = (P - batch.prompt_lengths)[:, None]
    hidden = model(tokens, np.maximum(column - start, 0), np.int32(column >= start))[
        :, P - 1 : -1
    ]
    log_p = jax.nn.log_softmax(model.logits(hidden))
    chosen = batch.completion_tokens[..., None]
    logprobs = jnp.take_along_axis(log_p, chosen, axis=2)[..., 0]
    mask = batch.completion_mask
    ratio = jnp.exp(jnp.where(mask, logprobs - constants["old_logprobs"], 0))
    advantages = constants["advantages"]
    bounded = jnp.clip(ratio, 0.8, 1.2)
    policy = -jnp.minimum(ratio * advantages, bounded * advantages)
    weight, bias = head["value_head"]["weight"], head["value_head"]["bias"]
    values = hidden @ weight.get_value() + bias.get_value()
    old, returns = constants["old_values"], constants["returns"]
    near = old + jnp.clip(values - old, -clip, clip)
    error = jnp.maximum((values - returns) ** 2, (near - returns) ** 2)
    loss = jnp.where(mask, policy + strength / 2 * error, 0)
    return loss.sum() / mask.sum()


@pytest.mark.parametrize(
    ("cut", "shape", "aggregation"),
    [
        ("padded", (1, 1, 1), "token_mean"),
        pytest.param("shared", (1, 1, 1), "token_mean", marks=pytest.mark.long),
        ("shared", (2, 2, 2), "token_mean"),
        # By rows; all in one micro-batch, it is the same mean.
        ("packed", (1, 1, 1), "token_mean_micro"),
    ],
)
def test_the_gradient_of_an_update_is_that_of_the_dense_loss(
    mesh8, devices, cut, shape, aggregation
):
    """In the trunk, the unembedding and the head, where some values are clipped. A step
    of plain descent is the gradient; sums in another order, of numbers up to 1."""
    mesh = mesh8(shape) if shape != (1, 1, 1) else steps.one_device(devices)
    options = {"name": "value_head", "strength": 0.7, "clip": 0.1}
    method = tiny.method("ppo", critic=options, aggregation=aggregation)
    by_rows = aggregation == "token_mean_micro"
    assert method.by_rows == by_rows
    batch = steps.batch_lib.rows(steps.rollout(), slice(0, steps.MINIBATCH_ROWS))
    with jax.set_mesh(mesh):
        learner, state = steps.make(
            mesh,
            method,
            cut=cut,
            micro_rows=steps.MINIBATCH_ROWS if by_rows else 4 * mesh.size // 2 or 2,
            optimizer=steps.sgd(),
        )

        def place(head):
            joined = value_head.join(tiny.params(), head)
            layouts = jax.tree.map(lambda x: x.sharding, state.trainable)
            return state._replace(trainable=jax.device_put(joined, layouts))

        old = place(random_head(0))
        scores = learn_lib.given_scores(learner, old, None, batch)
        learnt, _ = learn_lib.prepare(learner, batch, old.method_state, *scores)
        minibatch, _ = learn_lib.make_minibatch(learner, learnt, 0)
        now = random_head(1)
        after, tally = learner.update(place(now), minibatch)
    constants = learnt.prepared.constants
    assert 0 < tally.sums["critic/frac_clipped"][0] < batch.completion_mask.sum()
    expected = jax.grad(
        functools.partial(dense_loss, strength=0.7, clip=0.1), argnums=(0, 1)
    )(tiny.params(), now, batch, constants)
    jax.tree.map(
        lambda new, old, g: np.testing.assert_allclose(
            old - new, g, rtol=2e-5, atol=2e-6
        ),
        jax.device_get((after.params, after.critic)),
        (tiny.params(), now),
        jax.device_get(expected),
    )


def test_values_are_of_the_states_that_predict_the_tokens(devices):
    """The scores of an old policy have them; a head of zeros gives 0."""
    mesh, batch = steps.one_device(devices), steps.rollout()
    with jax.set_mesh(mesh):
        learner, state = steps.make(mesh, tiny.method("ppo"), cut="shared")
        (old,) = learn_lib.given_scores(learner, state, None, batch)
        np.testing.assert_array_equal(old.values, np.zeros(batch.completion_mask.shape))
        head = random_head(0)
        state = state._replace(trainable=value_head.join(tiny.params(), head))
        (old,) = learn_lib.given_scores(learner, state, None, batch)
    model = nnx.merge(tiny.model()[0], tiny.params())
    i = int(batch.lengths.argmax())
    P, n = batch.prompt_lengths[i], batch.lengths[i]
    tokens = np.concatenate(
        [batch.prompt_tokens[i][-P:], batch.completion_tokens[i][:n]]
    )[None]
    hidden = model(tokens, np.arange(P + n)[None], np.ones_like(tokens))
    expected = value_head.values(head, hidden)[0, P - 1 : -1]
    np.testing.assert_allclose(old.values[i, :n], expected, rtol=1e-4, atol=1e-5)
    assert np.all(old.values[~batch.completion_mask] == 0)


def test_the_value_loss_falls(devices):
    """Every batch is the same; the values come to tell its good states from its bad."""
    mesh = steps.one_device(devices)
    losses = []
    with jax.set_mesh(mesh):
        learner, state = steps.make(
            mesh, tiny.method("ppo"), optimizer=steps.adamw(peak=1e-2, weight_decay=0.0)
        )
        for _ in range(15):
            state, _, metrics = learn_lib.learn(
                learner, state, steps.rollout(), passes=1
            )
            losses.append(metrics["critic/loss"])
    assert losses[-1] < 0.5 * losses[0]
    assert metrics["batch/skipped_sequences"] == 0


def test_a_saved_run_goes_on_to_the_bit(devices, tmp_path):
    """Step, save, restore, step is two steps: head and moments are in a checkpoint."""
    mesh, method = steps.one_device(devices), tiny.method("ppo")
    learn = functools.partial(learn_lib.learn, batch=steps.rollout(), passes=1)
    optimizer = steps.adamw()
    with jax.set_mesh(mesh):
        learner, state = steps.make(mesh, method, optimizer=optimizer)
        policy = policy_lib.make(tiny.MODEL, None, "", "float32", mesh)
        abstract = state_lib.abstract(policy, optimizer, method)
        state, *_ = learn(learner, state)
        with Checkpoints(str(tmp_path), keep_latest=1) as checkpoints:
            checkpoints.save(1, state_lib.to_saved(state))
            checkpoints.wait()
            restored = checkpoints.restore_latest(state_lib.to_saved(abstract))
        again = state_lib.from_saved(restored.state, abstract.frozen)
        assert jax.tree.structure(again) == jax.tree.structure(state)
        expected, *_ = learn(learner, state)
        found, *_ = learn(learner, again)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert np.any(np.asarray(found.critic["value_head"]["weight"].get_value()))


def test_a_checkpoint_has_the_head_beside_the_policy(devices):
    """So that an evaluation reads the policy alone, and that checkpoints of methods
    without a head are what they were."""
    mesh, optimizer = steps.one_device(devices), steps.adamw()
    policy = policy_lib.make(tiny.MODEL, None, "", "float32", mesh)
    with_head, without = (
        state_lib.to_saved(state_lib.abstract(policy, optimizer, tiny.method(name)))
        for name in ("ppo", "dapo")
    )
    of_policy = jax.tree.structure(policy.abstract_params)
    assert jax.tree.structure(with_head["params"]) == of_policy
    assert jax.tree.structure(without["params"]) == of_policy
    assert with_head.keys() - without.keys() == {"critic"}
    state = state_lib.abstract(policy, optimizer, tiny.method("ppo"))
    assert jax.tree.structure(state.params) == of_policy  # of sampler and export
    # The head and Adam's two moments of it.
    kept = [
        sharding.per_device(state_lib.abstract(policy, optimizer, tiny.method(name)))
        for name in ("ppo", "dapo")
    ]
    assert kept[0] - kept[1] == 3 * 4 * (D + 1)


def test_shapes_are_known_before_the_arrays(devices):
    """Those of `shapes.py`, which programs are planned and compiled by."""
    mesh, batch = steps.one_device(devices), steps.rollout()
    with jax.set_mesh(mesh):
        learner, state = steps.make(mesh, tiny.method("ppo"))
        scores = learn_lib.given_scores(learner, state, None, batch)
        learnt, _ = learn_lib.prepare(learner, batch, state.method_state, *scores)
        minibatch, _ = learn_lib.make_minibatch(learner, learnt, 0)
        planned = shapes.minibatch(
            learner,
            jax.eval_shape(lambda: state.method_state),
            batch.completion_tokens.shape[1],
            minibatch.packed.tokens.shape[0],
            with_reference=False,
        )
    describe = functools.partial(jax.tree.map, lambda x: (x.shape, str(x.dtype)))
    assert describe(planned) == describe(minibatch)
