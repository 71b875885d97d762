"""An update on demonstrations with a weight that reads more than log-probs."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hapo_jax import sft
from hapo_jax.learner import head
from hapo_jax.learner import learn as learn_lib
from hapo_jax.rollout import batch as batch_lib
from tests import tiny
from tests.learner import test_train_step as steps


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
        model = nnx.merge(tiny.model()[0], params)
        P = batch.prompt_tokens.shape[1]
        tokens = np.concatenate([batch.prompt_tokens, completions], axis=1)
        column = np.arange(tokens.shape[1])[None]
        start = (P - batch.prompt_lengths)[:, None]
        places = np.maximum(column - start, 0), np.int32(column >= start)
        logits = model.logits(model(tokens, *places)[:, P - 1 : -1])
        log_p = jax.nn.log_softmax(logits)
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
