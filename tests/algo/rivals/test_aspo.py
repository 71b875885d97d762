"""ASPO."""

import jax.numpy as jnp

from hapo_jax.algo import clipping, entropy, masked
from tests import golden, tiny
from tests.algo import given


def _aspo(case):
    made = tiny.method("aspo", clip_dual=case.config["dc"], kl_strength=0.0)
    tokens, stats = golden.tokens(case), entropy.initial_stats()
    value, grad, _ = golden.value_and_grad(made, tokens, stats)
    terms = given.terms(made, tokens, stats)
    low, _ = clipping.by_row_entropy(tokens.old_entropy, tokens.mask, low=0.2, high=0.2)
    # The reference counts tokens of advantage 0 among the positive ones, and takes the
    # weights that are too large as shares of those with that sign.
    positive = tokens.advantages >= 0

    def fraction(flags, among=True):
        return masked.mean(flags.astype(jnp.float32), tokens.mask & among)

    return {
        "loss": value,
        "grad_log_prob": grad,
        "low_mask": tokens.mask & (low < 0.3),
        "frac_upper": fraction(positive & (terms.ratio > 1 + terms.clip_high)),
        "frac_lower": fraction(terms.clipped_low),
        "neg_dual": fraction(terms.dual_clipped, ~positive),
        "pos_dual": fraction(terms.dual_clipped, tokens.advantages > 0),
    }


GOLDEN = {"aspo": _aspo}
