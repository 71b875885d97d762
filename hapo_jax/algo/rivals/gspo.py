"""GSPO: one importance ratio for a whole completion."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import masked, row, stages

Array = jax.Array


@stages.declare(by_rows=True, across_rows=False)
def gspo(logprobs: Array, old_logprobs: Array, mask: Array, *, limit: float) -> Array:
    """GSPO: the geometric mean of a completion's token ratios, at each of its tokens.

        s_i = exp(mean over t of (log π - log π_old))

    arXiv 2507.18071, Eq. (7). Completions of one token have the token's ratio.

    Args:
      logprobs: [B, T] float32, nats; differentiable.
      old_logprobs: [B, T] float32, nats.
      mask: [B, T] bool.
      limit: of the mean, nats; beyond it the gradient is 0. The code's is 10.

    Returns:
      [B, T] float32 > 0.
    """
    log_ratio = logprobs - jax.lax.stop_gradient(old_logprobs)
    mean = masked.mean(log_ratio, mask, axis=1)[:, None]
    return jnp.broadcast_to(jnp.exp(jnp.clip(mean, -limit, limit)), mask.shape)


@stages.declare(by_rows=True, across_rows=False)
def gspo_token(
    logprobs: Array, old_logprobs: Array, mask: Array, *, limit: float
) -> Array:
    """GSPO-token: the value of `gspo` with the gradient of each token's own log-prob.

        s_it = sg(s_i) * π / sg(π)

    arXiv 2507.18071, Eq. (13) and (14), as in verl. Where the advantage is one number
    per completion, loss and gradient are those of `gspo`.

    Args:
      logprobs, old_logprobs, mask, limit: as in `gspo`.
    """
    ratio = jax.lax.stop_gradient(gspo(logprobs, old_logprobs, mask, limit=limit))
    return ratio * jnp.exp(logprobs - jax.lax.stop_gradient(logprobs))


_GSPO = {
    **row.GRPO,
    "algo.ratio": {"name": "gspo"},
    "algo.clip.low": 3e-4,
    "algo.clip.high": 4e-4,
    "algo.clip.log_ratio": 10.0,
}
STAGES = {"algo.ratio": {"gspo": gspo, "gspo_token": gspo_token}}
METHODS = {
    "gspo": row.Row(_GSPO, source="arXiv 2507.18071, Eq. (5) to (7)"),
    "gspo_token": row.Row(
        {**_GSPO, "algo.ratio": {"name": "gspo_token"}},
        source="arXiv 2507.18071, Eq. (13) and (14)",
    ),
}
