"""GMPO."""

import jax.numpy as jnp
import numpy as np

from hapo_jax.algo import entropy, masked
from tests import golden, tiny
from tests.algo import given


def _gmpo(case):
    fields, settings = golden.sampler(case)
    if settings:
        settings["importance_mode"] = "geometric"
    tokens, stats = golden.tokens(case, **fields), entropy.initial_stats()
    made = tiny.method("gmpo", **settings)
    value, grad, sums = golden.value_and_grad(made, tokens, stats)
    terms = given.terms(made, tokens, stats)
    # The reference divides by the rows without tokens, too.
    rows = jnp.any(tokens.mask, axis=1).mean()
    # It counts ratios beyond either bound, by the sign of the advantage.
    beyond = jnp.abs(jnp.log(terms.ratio)) > 0.4
    metrics = golden.clip_metrics(sums, tokens)
    for name, among in (
        ("pg_clipfrac", tokens.advantages > 0),
        ("pg_clipfrac_lower", tokens.advantages < 0),
    ):
        metrics[name] = masked.mean((beyond & among).astype(jnp.float32), tokens.mask)
    return {"loss": value * rows, "grad_log_prob": grad * rows, **metrics}


GOLDEN = {"gmpo": _gmpo}


def test_loss_and_gradient_by_hand():
    """Row 0, A = 2: ratios 0.5, 2, and 8 cut at 4. Row 1, A = -1: 8 and 0.125 at 0.5.

    Means of the log-ratios in units of log 2: 2/3 and 1; factors 2^(2/3) and 2.
    """
    ratio = jnp.array([[0.5, 2.0, 8.0], [8.0, 0.125, 1.0]])
    tokens = given.Tokens(
        logprobs=jnp.log(ratio),
        entropy=None,
        old_logprobs=jnp.zeros((2, 3)),
        old_entropy=jnp.ones((2, 3)),
        behavior_logprobs=jnp.zeros((2, 3)),
        reference_logprobs=None,
        advantages=jnp.array([[2.0] * 3, [-1.0] * 3]),
        mask=jnp.array([[True] * 3, [True, True, False]]),
    )
    log2 = float(np.log(2))
    made = tiny.method("gmpo", clip_low=log2, clip_high=2 * log2)
    stats = entropy.initial_stats()
    value, grad, _ = golden.value_and_grad(made, tokens, stats)
    factor = 2 ** (2 / 3)
    np.testing.assert_allclose(value, (-2 * factor + 2) / 2, rtol=1e-5)
    # Half a row's loss, shared by its tokens but for those that are cut.
    first, second = -2 * factor / 3 / 2, 2 / 2 / 2
    expected = [[first, first, 0], [second, 0, 0]]
    np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-6)
    terms = given.terms(made, tokens, stats)
    np.testing.assert_array_equal(terms.clipped_high, [[0, 0, 1], [0, 0, 0]])
    np.testing.assert_array_equal(terms.clipped_low, [[0, 0, 0], [0, 1, 0]])
