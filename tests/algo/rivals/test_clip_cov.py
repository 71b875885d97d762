"""Clip-Cov."""

import jax.numpy as jnp
import numpy as np

from hapo_jax.algo import entropy, masked, selections
from hapo_jax.algo.rivals import clip_cov
from tests import golden, tiny
from tests.algo import given


def _clip_cov(case):
    config = case.config
    options = {
        "share": config["clip_cov_ratio"],
        "above": config["lb"],
        "below": config["ub"],
    }
    made = tiny.method(
        "clip_cov",
        mask={"name": "clip_cov", **options},
        entropy_source="current",
        clip_low=0.2,
        clip_high=0.28,
    )
    tokens, stats = golden.tokens(case), entropy.initial_stats()
    # A lot that falls on the tokens of the archive, if it falls on as many as there.
    dropped = jnp.asarray(case.expected["dropped"] > 0)
    random = jnp.where(dropped, 0.25, 0.75)
    value, grad, _ = golden.value_and_grad(made, tokens, stats, random=random)
    terms = given.terms(made, tokens, stats, random=random)
    cov = selections.covariance(tokens.logprobs, tokens.advantages, case.mask)
    # Those that are left out if all that are eligible are.
    kept, _ = clip_cov.clip_cov(
        *(tokens.logprobs, tokens.old_logprobs, tokens.advantages),
        *(terms.clip_low, terms.clip_high, jnp.zeros(cov.shape), case.mask),
        **options | {"share": 1.0},
    )
    left_out, _ = clip_cov.clip_cov(
        *(tokens.logprobs, tokens.old_logprobs, tokens.advantages),
        *(terms.clip_low, terms.clip_high, random, case.mask),
        **options,
    )
    left_out = case.mask & ~left_out
    return {
        "loss": value,
        "grad_log_prob": grad,
        "cov": cov,
        "eligible": case.mask & ~kept,
        "n_dropped": left_out.sum(),
        "dropped": left_out,
        "clipfrac": masked.mean(left_out.astype(jnp.float32), case.mask),
    }


GOLDEN = {"clip_cov": _clip_cov}

LOGPROBS = jnp.array([[-1.0, -3.0, -9.0], [-1.5, -2.5, 0.0]])
ADVANTAGES = jnp.array([[1.0, 1.0, 7.0], [-1.0, -1.0, 7.0]])
MASK = jnp.array([[True, True, False], [True, True, False]])
WIDTH = jnp.full((2, 3), 0.2)


def _kept(random, old=LOGPROBS, **options):
    numbers = LOGPROBS, old, ADVANTAGES, WIDTH, WIDTH, jnp.asarray(random), MASK
    kept, counted = clip_cov.clip_cov(*numbers, **options)
    np.testing.assert_array_equal(counted, MASK)
    return np.asarray(kept)[:, :2].tolist()


def test_by_hand():
    """Covariances 1, -1, -0.5, 0.5; the least random number is drawn."""
    random = [[0.6, 0.1, 0.0], [0.2, 0.4, 0.0]]
    assert _kept(random, above=0.2) == [[True, True], [True, False]]
    assert _kept(random, above=0.6) == [[False, True], [True, True]]
    assert _kept(random, above=0.2, share=0.5) == [[False, True], [True, False]]
    assert _kept(random) == [[True, True], [True, True]]  # none is above 1


def test_what_ppo_clips_is_not_drawn():
    """The ratio of the last token is 0.5, its advantage -1."""
    old = LOGPROBS.at[1, 1].add(jnp.log(2.0))
    random = [[0.6, 0.1, 0.0], [0.2, 0.4, 0.0]]
    assert _kept(random, old=old, above=0.2) == [[False, True], [True, True]]


def test_lots_are_drawn_anew_at_every_step():
    """About half of the eligible tokens each time, others from step to step."""
    made = tiny.method(
        "clip_cov",
        mask={"name": "clip_cov", "share": 0.1, "above": 0.0, "below": 1e6},
    )
    assert not made.by_rows
    rng = np.random.default_rng(0)
    numbers = jnp.asarray(-rng.uniform(0, 3, (8, 10)), jnp.float32)
    mask = jnp.ones((8, 10), bool)
    advantages = jnp.asarray(rng.normal(size=(8, 10)), jnp.float32)
    tokens = given.Tokens(*[numbers] * 5, None, advantages, mask)
    rows, state, drawn = given.rows(tokens), made.init_state(), []
    for _ in range(3):
        state = made.update_state(rows, state)
        kept = made.constants(rows, state, advantages)["kept"]
        again = made.constants(rows, state, advantages)["kept"]
        np.testing.assert_array_equal(again, kept)
        assert (~np.asarray(kept)).sum() == 8
        drawn.append(frozenset(np.flatnonzero(~np.asarray(kept))))
    assert len(set(drawn)) == 3
