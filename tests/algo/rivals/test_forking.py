"""Forking tokens."""

import jax.numpy as jnp

from hapo_jax.algo import entropy
from hapo_jax.algo.rivals import forking
from tests import golden, tiny
from tests.algo import given


def _forking(case):
    rule = "quantile" if "rho" in case.config else "top_floor"
    made = tiny.method("forking", mask={"name": "forking", "rule": rule})
    tokens, stats = golden.tokens(case), entropy.initial_stats()
    value, grad, _ = golden.value_and_grad(made, tokens, stats)
    outputs = {"loss": value, "grad_log_prob": grad}
    if rule == "quantile":
        selected = given.terms(made, tokens, stats).counted
        outputs["selected"] = selected
        # By interpolation, between the highest that is left out and the lowest kept.
        threshold = case.expected["threshold"]
        left_out = jnp.where(tokens.mask & ~selected, tokens.old_entropy, -jnp.inf)
        kept = jnp.where(selected, tokens.old_entropy, jnp.inf)
        assert left_out.max() < threshold <= kept.min()
        del case.expected["threshold"]
    return outputs


def _forking_mask(case):
    share = round(1 - case.config["threshold"], 4)
    kept, _ = forking.forking(case.inputs["entropy"], case.mask, share=share)
    return {"high_mask": kept}


GOLDEN = {"forking_tokens": _forking, "forking_tokens_mask_trl": _forking_mask}
