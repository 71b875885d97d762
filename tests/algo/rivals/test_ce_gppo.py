"""CE-GPPO."""

from hapo_jax.algo import entropy
from tests import golden, tiny


def _ce_gppo(case):
    config = case.config
    surrogate = {
        "name": "ce_gppo",
        "beta_low": config["gppo_loss_beta1"],
        "beta_high": config["gppo_loss_beta2"],
    }
    made = tiny.method("ce_gppo", surrogate=surrogate, clip_log_ratio=0.0)
    tokens = golden.tokens(case)
    value, grad, sums = golden.value_and_grad(made, tokens, entropy.initial_stats())
    fraction = golden.clip_metrics(sums, tokens)["pg_clipfrac"]
    return {"loss": value, "grad_log_prob": grad, "pg_clipfrac": fraction}


GOLDEN = {"ce_gppo": _ce_gppo}
