"""Methods of other papers, a module each: its stages, and its row of settings.

    STAGES = {section: {name: function}}     such as {"algo.surrogate": {"aspo": aspo}}
    METHODS = {name: row.Row(...)}

To add one, write its module and name it here; `methods.py` takes up both.
"""

from hapo_jax.algo.rivals import (
    acpo,
    adaptive_entropy,
    archer,
    aspo,
    ce_gppo,
    cispo,
    clip_cov,
    dppo,
    edge_grpo,
    entropy_adv,
    entropy_bonus,
    forking,
    gmpo,
    gpg,
    gspo,
    gtpo,
    kl_cov,
    lp_reg,
    maxrl,
    otb,
    passk,
    ppo,
    rejection,
    remax,
    sapo,
    sent,
    stapo,
    v32_mask,
)

MODULES = (
    acpo,
    adaptive_entropy,
    archer,
    aspo,
    ce_gppo,
    cispo,
    clip_cov,
    dppo,
    edge_grpo,
    entropy_adv,
    entropy_bonus,
    forking,
    gmpo,
    gpg,
    gspo,
    gtpo,
    kl_cov,
    lp_reg,
    maxrl,
    otb,
    passk,
    ppo,
    rejection,
    remax,
    sapo,
    sent,
    stapo,
    v32_mask,
)
