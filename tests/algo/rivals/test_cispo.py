"""CISPO."""

import jax.numpy as jnp
import numpy as np

from hapo_jax.algo import entropy, losses
from hapo_jax.algo.rivals import cispo
from tests import golden, tiny
from tests.algo import given


def _outputs(case, name, **changes):
    fields, settings = golden.sampler(case)
    tokens, stats = golden.tokens(case, **fields), entropy.initial_stats()
    made = tiny.method(name, **settings, **changes, **golden.aggregation(case))
    value, grad, sums = golden.value_and_grad(made, tokens, stats)
    terms = given.terms(made, tokens, stats)
    # The reference counts tokens of advantage 0, too, and has no dual clip.
    bounded = (terms.clipped_low | terms.clipped_high).sum() / tokens.mask.sum()
    metrics = golden.clip_metrics(sums, tokens) | {"pg_clipfrac": bounded}
    return {"loss": value, "grad_log_prob": grad, **metrics}


def _upper_only(case):
    return _outputs(case, "cispo", surrogate={"name": "cispo", "cap": 1.28})


def _verl(case):
    return _outputs(case, "cispo_verl", clip_low=0.2, clip_high=0.28)


GOLDEN = {"cispo_upper_only": _upper_only, "cispo_verl": _verl}

RATIO = np.array([[0.5, 1.0, 8.0], [0.5, 1.0, 8.0]], np.float32)
ADVANTAGES = np.array([[2.0] * 3, [-1.0] * 3], np.float32)


def gradient(name, **changes):
    """Of the loss of each token in its log-prob, at `RATIO`."""
    tokens = given.Tokens(
        logprobs=jnp.log(RATIO),
        entropy=None,
        old_logprobs=jnp.zeros((2, 3)),
        old_entropy=jnp.ones((2, 3)),
        behavior_logprobs=jnp.zeros((2, 3)),
        reference_logprobs=None,
        advantages=jnp.asarray(ADVANTAGES),
        mask=jnp.ones((2, 3), bool),
    )
    made = tiny.method(name, aggregation="token_sum", **changes)
    return golden.value_and_grad(made, tokens, entropy.initial_stats())[1]


def test_gradient_by_hand():
    """A times the ratio, at most the cap, whatever the sign of A."""
    expected = [[-1.0, -2.0, -10.0], [0.5, 1.0, 5.0]]
    np.testing.assert_allclose(gradient("cispo"), expected, rtol=1e-5)
    expected = [[-1.6, -2.0, -3.0], [0.8, 1.0, 1.5]]
    verl = gradient("cispo_verl", clip_low=0.2, clip_high=0.5)
    np.testing.assert_allclose(verl, expected, rtol=1e-5)


def test_without_a_bound_it_is_the_gradient_of_the_unclipped_ratio():
    unbounded = gradient("cispo", surrogate={"name": "cispo", "cap": 1e6})
    np.testing.assert_allclose(unbounded, -ADVANTAGES * RATIO, rtol=1e-5)


def test_flags_say_where_a_bound_acts():
    widths = jnp.full((2, 3), 0.25)
    numbers = jnp.log(RATIO), jnp.asarray(RATIO), jnp.asarray(ADVANTAGES)
    above = RATIO == 8
    found = cispo.cispo(*numbers)
    assert isinstance(found, losses.Surrogate)
    np.testing.assert_array_equal(found.clipped_high, above)
    assert not found.clipped_low.any() and not found.dual_clipped.any()
    found = cispo.cispo_verl(*numbers, widths, widths)
    np.testing.assert_array_equal(found.clipped_high, above)
    np.testing.assert_array_equal(found.clipped_low, RATIO == 0.5)
