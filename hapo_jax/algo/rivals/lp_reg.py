"""Lp-Reg: rare tokens of failures are kept from vanishing."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import advantages, kl, masked, row, stages
from hapo_jax.algo.ranges import Range

Array = jax.Array


def _threshold(logprobs: Array, eligible: Array, share: float) -> Array:
    """The largest of the `share` lowest log-probs, as a scalar; -inf if these are fewer
    than two, as in the paper's code."""
    count, *_ = masked.share_of(masked.size(eligible), share)
    found = masked.order_statistic(logprobs, eligible, jnp.maximum(count - 1, 0))
    return jnp.where(count > 1, found, -jnp.inf)


def _term(
    logprobs: Array, old_cut_logprobs: Array, rare: Array, coefficient: float
) -> Array:
    below = rare & (jax.lax.stop_gradient(logprobs) < old_cut_logprobs)
    # Selected beforehand: the proxy is -inf at tokens that it does not have.
    proxy = jnp.where(below, old_cut_logprobs, 0)
    divergence = kl.estimate(jnp.where(below, logprobs, 0), proxy, estimator="k3")
    return coefficient * divergence


def _update(values, state: Array, *, share: float) -> Array:
    """The threshold of the step's batch, by its old log-probs."""
    centred, _ = advantages.centre(values["rewards"], values["group_ids"])
    worse = values["mask"] & (centred < 0)[:, None]
    return _threshold(values["old_logprobs"], worse, share)


_OPTIONS = {"share": Range(0, 1), "coefficient": Range(0, 1_000)}


@stages.declare(options=_OPTIONS, init=lambda: jnp.float32(-jnp.inf), update=_update)
def lp_reg(
    logprobs: Array,
    old_logprobs: Array,
    old_cut_logprobs: Array,
    advantages: Array,
    state: Array,
    *,
    share: float = 0.01,
    coefficient: float = 1.0,
) -> Array:
    """Lp-Reg: rare tokens of failures are pulled up to the policy without its noise.

        coefficient * k3(ℓ, ℓ_proxy)   where A < 0, rare, and ℓ < ℓ_proxy

    arXiv 2510.03222. The proxy is the old policy without tokens less probable than
    `algo.cut_share` times the most probable one; such a token is not pulled. Rare is
    the `share` of lowest old log-probs among the step's completions whose reward is
    below the mean of their group.

    Args:
      logprobs: [B, T] float32, nats; differentiable.
      old_logprobs, old_cut_logprobs, advantages: [B, T] float32.
      state: threshold, nats.
      share: at most four decimals.
      coefficient: of the divergence.
    """
    rare = (advantages < 0) & (old_logprobs <= state)
    return _term(logprobs, old_cut_logprobs, rare, coefficient)


@stages.declare(by_rows=True, options=_OPTIONS)
def lp_reg_micro(
    logprobs: Array,
    old_cut_logprobs: Array,
    advantages: Array,
    mask: Array,
    *,
    share: float = 0.01,
    coefficient: float = 1.0,
) -> Array:
    """Lp-Reg as its code has it: rare in the micro-batch, under the current policy.

    As `lp_reg`, with the `share` of lowest current log-probs among the tokens with
    A < 0 that are at hand. How a mini-batch is cut changes the loss.
    """
    worse = mask & (advantages < 0)
    fixed = jax.lax.stop_gradient(logprobs)
    rare = worse & (fixed <= _threshold(fixed, worse, share))
    return _term(logprobs, old_cut_logprobs, rare, coefficient)


STAGES = {"algo.regulariser": {"lp_reg": lp_reg, "lp_reg_micro": lp_reg_micro}}
METHODS = {
    "lp_reg": row.Row(
        {
            **row.GRPO,
            "algo.aggregation": {"name": "token_mean"},
            "algo.clip.low": 1.0,
            "algo.clip.high": 9.0,
            "algo.regulariser": {"name": "lp_reg"},
        },
        source="arXiv 2510.03222, with the constants of its code",
        open="the code takes the rarest tokens of each micro-batch under the current "
        "policy: algo.regulariser.name=lp_reg_micro",
    ),
}
