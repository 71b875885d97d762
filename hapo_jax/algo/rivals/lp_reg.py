"""Lp-Reg: rare tokens of failures are kept from vanishing."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import kl, masked, row, stages
from hapo_jax.algo.ranges import Range

Array = jax.Array


@stages.declare(by_rows=True, options={"share": Range(0, 1)})
def rare_failures(
    source_logprobs: Array, advantages: Array, mask: Array, *, share: float = 0.01
) -> Array:
    """Lp-Reg: of the tokens with A < 0 the least probable, floor(share * N) of them.

    arXiv 2510.03222. None if these are fewer than two, as in its code.

    Args:
      source_logprobs: [B, T] float32, nats, of the policy that algo.entropy.source
        names.
      advantages: [B, T] float32, A.
      mask: [B, T] bool.
      share: at most four decimals.
    """
    worse = mask & (advantages < 0)
    count = masked.share(worse, share, least=0)
    count = jnp.where(count > 1, count, 0)
    return masked.top(-source_logprobs, worse, count).astype(jnp.float32)


@stages.declare(options={"coefficient": Range(0, 1_000)})
def lp_reg(
    logprobs: Array,
    old_cut_logprobs: Array,
    advantages: Array,
    selected: Array,
    *,
    coefficient: float = 1.0,
) -> Array:
    """Lp-Reg: rare tokens of failures are pulled up to the policy without its noise.

        coefficient * k3(l, l_proxy)    where selected, A < 0 and l < l_proxy

    arXiv 2510.03222. The proxy is the old policy without tokens less probable than
    `algo.cut_share` times the most probable one; such a token is not pulled.

    Args:
      logprobs: [B, T] float32, nats, l; differentiable.
      old_cut_logprobs: [B, T] float32, nats, l_proxy; may be -inf.
      advantages, selected: [B, T] float32, the second from `algo.selection`.
      coefficient: of the divergence.
    """
    below = jax.lax.stop_gradient(logprobs) < old_cut_logprobs
    pulled = (selected > 0) & (advantages < 0) & below
    # Where it is not, both are 0 before anything is made of them: -inf has no slope.
    own, proxy = (jnp.where(pulled, x, 0) for x in (logprobs, old_cut_logprobs))
    return coefficient * kl.estimate(own, proxy, estimator="k3")


STAGES = {
    "algo.selection": {"rare_failures": rare_failures},
    "algo.regulariser": {"lp_reg": lp_reg},
}
METHODS = {
    "lp_reg": row.Row(
        {
            **row.GRPO,
            "algo.aggregation": {"name": "token_mean"},
            "algo.clip.low": 1.0,
            "algo.clip.high": 9.0,
            "algo.selection": {"name": "rare_failures"},
            "algo.regulariser": {"name": "lp_reg"},
        },
        source="arXiv 2510.03222, with the constants of its code",
        open=f"{row.STATISTICS}, as in its code",
    ),
}
