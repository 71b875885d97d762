"""HTPO."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import entropy
from hapo_jax.algo.rivals import htpo
from tests import golden, tiny


def _htpo(case):
    """With the shares of the archives, at which tails of short rows are not empty."""
    surrogate = {"name": "htpo", "low_tail": 0.2, "high_tail": 0.3}
    made = tiny.method("htpo", surrogate=surrogate)
    tokens, stats = golden.tokens(case), entropy.initial_stats()
    hard = case.inputs["difficulty"][:, None] & case.mask
    value, grad, sums = golden.value_and_grad(
        *(made, tokens, stats),
        correct=case.inputs["acc"][:, None] & case.mask,
        group_accuracy=jnp.where(hard, 0.0, 1.0),
    )
    metrics = golden.clip_metrics(sums, tokens)
    return {"loss": value, "grad_log_prob": grad, **metrics}


GOLDEN = {"htpo": _htpo}


def _slopes(ratio, advantages, *, nats=(0.1, 0.2, 0.3, 0.4, 0.5), right, accuracy, **o):
    """d loss / d log-prob of a completion; its uncertain token is that of 0.5 nats."""
    shape = (1, len(nats))
    ratio, advantages, nats = (
        jnp.broadcast_to(jnp.asarray(x, jnp.float32), shape)
        for x in (ratio, advantages, jnp.array(nats))
    )
    low, high = jnp.full(shape, 0.2), jnp.full(shape, 0.28)

    def total(logprobs):
        surrogate = htpo.htpo(
            *(jnp.exp(logprobs), advantages, low, high, nats),
            *(jnp.ones(shape, bool), jnp.full(shape, right)),
            *(jnp.full(shape, accuracy),),
            **{"dual": 10.0, **o},
        )
        return surrogate.loss.sum()

    return np.asarray(jax.grad(total)(jnp.log(ratio)))[0]


@pytest.mark.parametrize(
    ("right", "accuracy", "ratio", "advantage", "code", "reverse"),
    [
        (True, 0.5, 1.5, 1.0, 1.28, -1.28),  # the code pushes it further down
        (True, 0.5, 0.5, 1.0, 2.0, -2.0),
        (True, 0.5, 1.0, 1.0, -1.0, -1.0),
        (False, 0.5, 0.5, -1.0, -0.8, 0.8),
        (False, 0.9, 0.5, -1.0, -0.8, 0.8),
        (False, 0.5, 1.5, -1.0, 1.5, 1.5),
        (False, 0.5, 20.0, -1.0, 0.0, 0.0),  # dual clip
        (True, 0.9, 1.5, 1.0, 0.0, 0.0),
    ],
)
def test_uncertain_tokens_by_hand(right, accuracy, ratio, advantage, code, reverse):
    given = dict(right=right, accuracy=accuracy)
    slopes = _slopes(ratio, advantage, **given)
    np.testing.assert_allclose(slopes[-1], code, rtol=1e-5)
    slopes = _slopes(ratio, advantage, **given, sign="reversed")
    np.testing.assert_allclose(slopes[-1], reverse, rtol=1e-5)


def test_confident_tokens_are_those_of_ppo():
    slopes = _slopes(
        [0.5, 1.5, 1.0, 0.5, 1.0], [1.0, 1.0, 1.0, -1.0, -1.0], right=True, accuracy=0.9
    )
    np.testing.assert_allclose(slopes[:4], [-0.5, 0, -1, 0], rtol=1e-5)


def test_tails_are_not_learnt():
    """Of four confident tokens half are a tail, whose highest is kept; of two uncertain
    ones the higher is."""
    hard = _slopes(1.0, 1.0, right=True, accuracy=0.5, low_tail=0.5)
    np.testing.assert_allclose(hard, [0, -1, -1, -1, -1], rtol=1e-5)
    easy = _slopes(1.0, 1.0, right=True, accuracy=0.9, high_share=0.4, high_tail=0.5)
    np.testing.assert_allclose(easy, [-1, -1, -1, -1, 0], rtol=1e-5)
    wrong = _slopes(1.0, -1.0, right=False, accuracy=0.9, high_share=0.4)
    np.testing.assert_allclose(wrong, [1, 1, 1, 1, 1], rtol=1e-5)
