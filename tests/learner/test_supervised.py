"""Updates on demonstrations, alone and beside a rollout, against dense losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hapo_jax import sft
from hapo_jax.learner import head
from hapo_jax.learner import learn as learn_lib
from hapo_jax.rollout import batch as batch_lib
from tests import tiny
from tests.learner import test_train_step as steps


def _log_softmax(params, batch):
    """[B, T, V], of the tokens of the completions, by rows of a sequence each."""
    model = nnx.merge(tiny.model()[0], params)
    P = batch.prompt_tokens.shape[1]
    tokens = np.concatenate([batch.prompt_tokens, batch.completion_tokens], axis=1)
    column = np.arange(tokens.shape[1])[None]
    start = (P - batch.prompt_lengths)[:, None]
    places = np.maximum(column - start, 0), np.int32(column >= start)
    return jax.nn.log_softmax(model.logits(model(tokens, *places)[:, P - 1 : -1]))


def _logprobs(params, batch):
    chosen = batch.completion_tokens[..., None]
    return jnp.take_along_axis(_log_softmax(params, batch), chosen, axis=2)[..., 0]


def test_ranktuner_learns_from_ranks_and_entropies_of_the_current_policy(devices):
    """A step of plain descent is the gradient of the dense loss, in which ranks are
    counted among all tokens."""
    mesh = steps.one_device(devices)
    batch = batch_lib.rows(steps.rollout(), slice(0, steps.MINIBATCH_ROWS))
    mask, completions = batch.completion_mask, batch.completion_tokens
    method = sft.likelihood({"name": "ranktuner"})
    with jax.set_mesh(mesh):
        learner, state = steps.make(
            mesh, method, cut="shared", optimizer=steps.sgd(), micro_rows=4
        )
        zeros = np.zeros(mask.shape, np.float32)
        old = head.Scores(logprobs=zeros, entropy=zeros)
        learnt, _ = learn_lib.prepare(learner, batch, state.method_state, old)
        minibatch, _ = learn_lib.make_minibatch(learner, learnt, 0)
        after, _ = learner.update(state, minibatch)

    def dense(params):
        log_p = _log_softmax(params, batch)
        nats = -(jnp.exp(log_p) * log_p).sum(-1)
        chosen = jnp.take_along_axis(log_p, completions[..., None], axis=2)
        rank = (log_p >= chosen).sum(-1)
        s = 2 ** (nats / np.log(2)) / 4 + 1
        K = 1 / jnp.log2(jnp.maximum(rank, s) + 1) ** 2
        p = jnp.exp(chosen[..., 0])
        weight = jax.lax.stop_gradient(p * (p * s) ** -K)
        return -jnp.where(mask, weight * chosen[..., 0], 0).sum() / mask.sum()

    expected = jax.grad(dense)(tiny.params())
    jax.tree.map(
        lambda new, old, g: np.testing.assert_allclose(
            old - new, g, rtol=2e-5, atol=2e-6
        ),
        jax.device_get(after.params),
        tiny.params(),
        jax.device_get(expected),
    )


@pytest.mark.parametrize(
    ("shape", "cut"),
    [pytest.param((1, 1, 1), "shared", marks=pytest.mark.slow), ((2, 2, 2), "wide")],
)
def test_demonstrations_beside_a_rollout_add_their_own_mean(mesh8, devices, shape, cut):
    """One update against the dense mixture of two means, however it is cut: PPO's with
    advantages of the rollout, and phi-weighted log-probs of demonstrations."""
    mesh = mesh8(shape) if shape != (1, 1, 1) else steps.one_device(devices)
    options = dict(demonstrations_share=0.25, demonstrations_weight=0.3)
    method = tiny.method("dapo", imitation="phi", **options)
    rows, b = steps.rollout(), steps.MINIBATCH_ROWS
    shown = np.arange(b) >= b - 4  # some are empty
    batch = batch_lib.rows(rows, np.r_[:12, 28:32])._replace(beside=shown)
    batch = batch._replace(group_ids=np.r_[batch.group_ids[:12], 12:16].astype("int32"))
    mask = batch.completion_mask
    with jax.set_mesh(mesh):
        learner, state = steps.make(
            mesh, method, cut=cut, optimizer=steps.sgd(), micro_rows=8, beside_rows=4
        )
        before = jax.device_get(state.params)
        state, learnt, metrics = learn_lib.learn(learner, state, batch, passes=1)
    advantages = learnt.prepared.constants["advantages"]

    def dense(params):
        logprobs = _logprobs(params, batch)
        old = learnt.rows.old_logprobs
        own, other = mask & ~shown[:, None], mask & shown[:, None]
        ratio = jnp.exp(jnp.where(own, logprobs - old, 0))
        rollout = -jnp.where(own, ratio * advantages, 0).sum() / own.sum()
        p = jax.lax.stop_gradient(jnp.exp(logprobs))
        imitated = -jnp.where(other, p * (1 - p) * logprobs, 0).sum() / other.sum()
        return 0.7 * rollout + 0.3 * imitated

    value, expected = jax.value_and_grad(dense)(tiny.params())
    np.testing.assert_allclose(metrics["loss/policy"], value, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["beside/weight"], 0.3, rtol=1e-6)
    jax.tree.map(
        lambda new, old, g: np.testing.assert_allclose(
            old - new, g, rtol=2e-5, atol=2e-6
        ),
        jax.device_get(state.params),
        before,
        jax.device_get(expected),
    )
    # Trained on, but in no metric of the rollout's.
    signal = learnt.prepared.constants["signal"]
    assert not signal[shown].any()
    trained = signal.sum() + mask[shown].sum()
    assert metrics["ledger/trained_tokens"] == trained
    assert metrics["batch/tokens"] == mask[~shown].sum()
    assert metrics["beside/logprob"] < 0
