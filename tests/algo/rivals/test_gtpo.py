"""GTPO."""

import jax.numpy as jnp

from hapo_jax.algo.rivals import gtpo


def _gtpo(case):
    """The token rewards; those of GRPO-S, in the same archive, have no counterpart."""
    shaped = gtpo.gtpo_rewards(
        case.inputs["acc"].astype(jnp.float32),
        case.inputs["entropy"],
        case.mask,
        case.inputs["group_index"].astype(jnp.int32),
        outcome=case.config["alpha1"],
        entropy_bonus=case.config["alpha2"],
    )
    del case.expected["grpos_sequence_reward"]
    return {"gtpo_token_reward": shaped}


GOLDEN = {"gtpo_grpo_s_shaped_reward": _gtpo}
