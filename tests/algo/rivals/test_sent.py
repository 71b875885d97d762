"""SENT."""

import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import entropy, selections
from hapo_jax.algo.rivals import sent
from tests import golden, tiny

# The archives' share of the covariance's tails; the code's is 0.0002.
TAILS = 0.1


def _loss(name, **changes):
    def adapter(case):
        made = tiny.method(name, kl_strength=0.0, entropy_source="current", **changes)
        tokens, stats = golden.tokens(case), entropy.initial_stats()
        value, grad, _ = golden.value_and_grad(made, tokens, stats)
        return {"loss": value, "grad_log_prob": grad}

    return adapter


def _by_rows(case):
    """Several tokens read the same numbers; of equal ones, what the archive took."""
    made = tiny.method("sent_code", kl_strength=0.0)
    tokens, stats = golden.tokens(case), entropy.initial_stats()
    # Padding is read as it is; the method has 0 there.
    numbers = tokens.logprobs, tokens.entropy, tokens.advantages, case.mask
    ours = np.asarray(sent.sent_code(*numbers, tails=TAILS, gather="rows"))
    log_ratio = tokens.logprobs - tokens.old_logprobs
    pull = case.expected["grad_log_prob"] * case.mask.sum()
    pull += tokens.advantages * jnp.exp(log_ratio)
    selected = np.where(case.mask, np.round(2 * pull * jnp.sign(log_ratio)) / 2, 0)
    cov = selections.covariance(
        *(sent.of_rows(x, case.mask) for x in (tokens.logprobs, tokens.advantages)),
        sent.low_entropy(tokens.entropy, case.mask) > 0,
    )
    for strength in (0.5, 2.0):
        both = (np.sort(cov[of == strength]) for of in (selected, ours))
        np.testing.assert_allclose(*both, rtol=1e-5)
    value, grad, _ = golden.value_and_grad(
        made, tokens, stats, selected=jnp.asarray(selected, jnp.float32)
    )
    return {"loss": value, "grad_log_prob": grad}


GOLDEN = {
    "sent_v1": _loss("sent_code_v1"),
    "sent_v2_intended": _loss(
        "sent_code", selection={"name": "sent_code", "tails": TAILS}
    ),
    "sent_v2_int64mask": _by_rows,
}

LOGPROBS = jnp.array([[-1.0, -3.0, -9.0], [-1.5, -2.5, 0.0]])
ADVANTAGES = jnp.array([[1.0, 1.0, 7.0], [-1.0, -1.0, 7.0]])
NATS = jnp.array([[0.1, 0.9, 0.0], [0.2, 0.3, 0.0]])
MASK = jnp.array([[True, True, False], [True, True, False]])


def test_strengths_of_the_paper_by_hand():
    """Covariances 1, -1, -0.5, 0.5: the first and the last are above 0.2."""
    options = dict(tau_entropy=0.25, tau_cov=0.2, beta_low=0.5, beta_high=2.0)
    found = sent.sent(LOGPROBS, NATS, ADVANTAGES, MASK, **options)
    np.testing.assert_array_equal(found, [[2, 0, 0], [0.5, 2, 0]])
    off = options | {"beta_low": 0.0, "beta_high": 0.0}
    assert not sent.sent(LOGPROBS, NATS, ADVANTAGES, MASK, **off).any()


def test_what_the_paper_does_not_print_must_be_given():
    missing = (
        "algo.selection.tau_entropy, algo.selection.tau_cov, algo.selection.beta_low, "
        "algo.selection.beta_high are missing"
    )
    with pytest.raises(ValueError, match=missing):
        tiny.method("sent", selection="sent")


def test_tails_of_the_code_by_hand():
    """The confident are the first and the second row: A 1, -1, -1 and l -1, -1.5, -2.5.

    Means -1/3 and -5/3, so covariances 8/9, -1/9 and 5/9.
    """
    found = sent.sent_code(LOGPROBS, NATS, ADVANTAGES, MASK)
    np.testing.assert_array_equal(found, [[2, 0, 0], [0.5, 0, 0]])
    one = MASK & (NATS == 0.1)  # the tail that is both has the strength of the smallest
    found = sent.sent_code(LOGPROBS, NATS, ADVANTAGES, one)
    np.testing.assert_array_equal(found, [[0.5, 0, 0], [0, 0, 0]])


def test_rows_of_the_code_by_slow_loop():
    rng = np.random.default_rng(0)
    shape = 3, 5
    mask = np.arange(5) < np.array([[5], [3], [4]])
    logprobs, nats, advantages = (
        rng.normal(size=shape).astype(np.float32) for _ in range(3)
    )
    # As the reference gathers: a mask of integers takes rows of the batch.
    whole = mask.astype(np.int64)
    order = np.argsort(nats[mask])[: int(0.8 * mask.sum())]
    A, l = (x[whole].reshape(-1)[order] for x in (advantages, logprobs))  # noqa: E741
    cov = (A - A.mean()) * (l - l.mean())
    found = sent.sent_code(
        *(jnp.asarray(x) for x in (logprobs, nats, advantages, mask)), gather="rows"
    )
    # Several tokens may read the same numbers.
    for strength, extreme in ((2.0, cov.max()), (0.5, cov.min())):
        (place,) = np.flatnonzero(np.asarray(found) == strength)
        (index,) = np.flatnonzero(np.flatnonzero(mask)[order] == place)
        np.testing.assert_allclose(cov[index], extreme, rtol=1e-6)


def test_the_first_form_is_of_confident_tokens():
    kept, counted = sent.low_entropy_mask(NATS, MASK, share=0.75)
    np.testing.assert_array_equal(kept, [[True, False, False], [True, True, False]])
    np.testing.assert_array_equal(counted, kept)
    np.testing.assert_array_equal(sent.low_entropy(NATS, MASK, share=0.75), kept)
