"""Ids that the tokenizer does not have have probability 0, for sampler and learner."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from hapo_jax import assembly
from hapo_jax.algo import entropy as entropy_lib
from hapo_jax.learner import head
from hapo_jax.model import policy as policy_lib
from hapo_jax.model import tokenizer as tokenizer_lib
from hapo_jax.model import transformer
from hapo_jax.rollout import sampler
from tests import tiny
from tests.config.test_check import ROOT, load

UNUSED = ((3, 5), (30, 40))
USED = np.array([i for i in range(40) if not any(a <= i < b for a, b in UNUSED)])


class Vocabulary:
    """A tokenizer's backend that has these ids."""

    def __init__(self, ids):
        self._ids = ids

    def get_vocab(self):
        return {str(i): i for i in self._ids}


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (range(40), ()),
        (range(30), ((30, 40),)),  # an embedding padded behind the vocabulary
        (USED, UNUSED),  # a hole as well
        (range(5, 45), ((0, 5),)),
    ],
)
def test_ranges_without_a_token(ids, expected):
    tokenizer = tokenizer_lib.Tokenizer(Vocabulary(ids), (0,), 0)
    assert tokenizer.unused_ids(40) == expected


def model():
    _, params = tiny.model()
    config = dataclasses.replace(tiny.MODEL, unused_ids=UNUSED)
    abstract = nnx.eval_shape(lambda: transformer.Transformer(config, rngs=nnx.Rngs(0)))
    return nnx.merge(nnx.split(abstract, nnx.Param)[0], params)


def test_they_are_never_drawn():
    """Whatever is cut off: greedy, at high temperature, and where top_k is all."""
    hidden = jax.random.normal(jax.random.key(0), (512, tiny.MODEL.d_model))
    logits = model().logits(hidden)
    for truncation in (sampler.Truncation(), sampler.Truncation(top_k=39, top_p=0.999)):
        for temperature in (0.0, 1.0, 50.0):
            tokens, record = sampler.draw(
                logits,
                jax.random.uniform(jax.random.key(1), (512,)),
                entropy_lib.initial_stats(),
                jnp.full((512,), temperature),
                truncation=truncation,
                temperature_fn=lambda entropy, stats, base: base,
            )
            assert np.isin(np.asarray(tokens), USED).all()
            assert all(np.isfinite(x).all() for x in record)


def test_the_learner_scores_and_trains_without_them():
    """Log-probs, entropies and gradients are those of a vocabulary without them."""
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(2, 8, 16)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=(40, 16)), jnp.float32)
    targets = jnp.asarray(rng.integers(len(USED), size=(2, 8)), jnp.int32)
    counts, slope = jnp.array([8, 8]), jnp.ones((2, 8))

    def run(weight, targets, unused):
        options = dict(base_temperature=0.7, width=4, unused_ids=unused)
        scores = head.scores(hidden, weight, targets, counts, **options)
        _, *gradients = head.gradients(
            lambda _, slope: ((), head.Scores(slope)),
            *(hidden, weight, targets, counts, slope),
            **options,
        )
        return scores, gradients

    found, (d_hidden, d_weight) = run(weight, jnp.asarray(USED)[targets], UNUSED)
    expected, (e_hidden, e_weight) = run(weight[USED], targets, ())
    # The same float32 sums over another number of terms.
    close = dict(rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.logprobs, expected.logprobs, **close)
    np.testing.assert_allclose(found.entropy, expected.entropy, **close)
    np.testing.assert_allclose(d_hidden, e_hidden, **close)
    np.testing.assert_allclose(d_weight[USED], e_weight, **close)
    unused = np.setdiff1d(np.arange(40), USED)
    assert (np.asarray(d_weight)[unused] == 0).all()


def test_a_padded_checkpoint_is_recognised(tmp_path):
    folder = tmp_path / "padded"
    shutil.copytree(ROOT / "configs" / "countdown_warm", folder)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    V, D = embedding.shape
    tensors["model.embed_tokens.weight"] = np.concatenate(
        [embedding, np.full((30, D), 100.0, embedding.dtype)]
    )
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    hf = json.loads((folder / "config.json").read_text()) | {"vocab_size": V + 30}
    (folder / "config.json").write_text(json.dumps(hf))
    config = load("countdown")
    config.model.path = str(folder)
    policy = assembly.describe(config, policy_lib.make_mesh(config))
    assert policy.config.unused_ids == ((V, V + 30),)
