"""SENT: confident tokens, and those that drive the entropy down, are held back.

The paper and its code differ; `sent` is the one, `sent_code` the other, and
`sent_code_v1` the form that the code had before. The curriculum of the paper, problems
in the order of their semantic entropy, is an order of the data and no part of these.
"""

import jax
import jax.numpy as jnp

from hapo_jax.algo import masked, row, selections, stages
from hapo_jax.algo.ranges import FINITE, Range

Array = jax.Array

_STRENGTH = Range(0, 1_000)
_SHARE = Range(0, 1, above=True)


@stages.declare(
    by_rows=True,
    options={
        "tau_entropy": Range(0, 100),
        "tau_cov": FINITE,
        "beta_low": _STRENGTH,
        "beta_high": _STRENGTH,
    },
)
def sent(
    source_logprobs: Array,
    entropy: Array,
    advantages: Array,
    mask: Array,
    *,
    tau_entropy: float,
    tau_cov: float,
    beta_low: float,
    beta_high: float,
) -> Array:
    """SENT: how strongly each token is held to the reference.

        beta_high   if (A - mean A) * (l - mean l) > tau_cov
        beta_low    else if H < tau_entropy
        0           otherwise

    arXiv 2512.04359, which prints none of the four, nor which of the two holds for a
    token that is both.

    Args:
      source_logprobs, entropy: [B, T] float32, nats, of the policy that
        algo.entropy.source names.
      advantages: [B, T] float32.
      mask: [B, T] bool.
      tau_entropy: nats.
      tau_cov: in units of the covariance.
      beta_low, beta_high: strengths of a KL.
    """
    cov = selections.covariance(source_logprobs, advantages, mask)
    beta = jnp.where(entropy < tau_entropy, jnp.float32(beta_low), 0)
    return jnp.where(mask, jnp.where(cov > tau_cov, jnp.float32(beta_high), beta), 0)


@stages.declare(
    by_rows=True,
    options={
        "share": _SHARE,
        "tails": Range(0, 1),
        "largest": _STRENGTH,
        "smallest": _STRENGTH,
        "gather": ("tokens", "rows"),
    },
)
def sent_code(
    source_logprobs: Array,
    entropy: Array,
    advantages: Array,
    mask: Array,
    *,
    share: float = 0.8,
    tails: float = 2e-4,
    largest: float = 2.0,
    smallest: float = 0.5,
    gather: str = "tokens",
) -> Array:
    """SENT by its code: both tails of the covariance among confident tokens.

        confident = the floor(share * N) tokens of lowest H
        cov       = (A - mean A) * (l - mean l),   means over the confident
        selected  = `smallest` for the k confident tokens of smallest cov, `largest` for
                    the k of largest cov, 0 otherwise;   k = max(1, floor(tails * n))

    The code reads A and l of other tokens, see `of_rows`; padding reads 0 here.

    Args:
      source_logprobs, entropy, advantages, mask: as in `sent`.
      share: of the tokens, at most four decimals.
      tails: of the confident tokens, at most four decimals.
      largest, smallest: strengths; `smallest` holds where both do.
      gather: "tokens", what was meant, or "rows".
    """
    confident = _confident(entropy, mask, share)
    numbers = source_logprobs, advantages
    if gather == "rows":
        numbers = (of_rows(x, mask) for x in numbers)
    cov = selections.covariance(*numbers, confident)
    size = masked.share(confident, tails)
    low, high = (masked.top(x, confident, size) for x in (-cov, cov))
    return jnp.where(low, jnp.float32(smallest), jnp.where(high, largest, 0))


def of_rows(x: Array, mask: Array) -> Array:
    """What the code reads for `x`, [B, T], where it means the tokens of the mask.

    Its mask of integers takes whole rows of the batch, row 0 for padding and row 1 for
    a token. So the n-th token gets position n % T of the row that entry n // T of the
    mask, 0 or 1, names.
    """
    place = jnp.cumsum(mask.reshape(-1), dtype=jnp.int32).reshape(mask.shape) - 1
    row_of, column = jnp.divmod(jnp.maximum(place, 0), mask.shape[1])
    return x[mask.reshape(-1)[row_of].astype(jnp.int32), column]


@stages.declare(by_rows=True, options={"share": _SHARE})
def low_entropy(entropy: Array, mask: Array, *, share: float = 0.8) -> Array:
    """SENT by its first code: 1 for the floor(share * N) tokens of lowest entropy."""
    return _confident(entropy, mask, share).astype(jnp.float32)


@stages.declare(by_rows=True, options={"share": _SHARE})
def low_entropy_mask(
    entropy: Array, mask: Array, *, share: float = 0.8
) -> tuple[Array, Array]:
    """SENT by its first code: the loss is of the confident tokens alone."""
    kept = _confident(entropy, mask, share)
    return kept, kept


def _confident(entropy: Array, mask: Array, share: float) -> Array:
    return masked.top(-entropy, mask, masked.share(mask, share))


STAGES = {
    "algo.selection": {
        "sent": sent,
        "sent_code": sent_code,
        "low_entropy": low_entropy,
    },
    "algo.mask": {"low_entropy": low_entropy_mask},
}
_CODE = {
    **row.GRPO,
    "algo.surrogate": {"name": "kl_cov"},
    "algo.aggregation": {"name": "token_mean"},
    "algo.kl.strength": 1e-3,
}
METHODS = {
    "sent": row.Row(
        {
            **row.GRPO,
            "algo.selection": {"name": "sent"},
            "algo.regulariser": {"name": "selected_reference"},
        },
        source="arXiv 2512.04359",
        status="part",
        open="the estimator of the KL, algo.regulariser.estimator; whether the entropy "
        "or the covariance decides where both do: here the covariance; the curriculum "
        f"is data.order=semantic_entropy, and off; {row.STATISTICS}",
        given={
            "algo.selection.tau_entropy": 0.7,
            "algo.selection.tau_cov": 0.3,
            "algo.selection.beta_low": 0.01,
            "algo.selection.beta_high": 0.1,
        },
    ),
    "sent_code": row.Row(
        {**_CODE, "algo.selection": {"name": "sent_code"}},
        source="the published code of arXiv 2512.04359",
        open="whose covariance it is: algo.selection.gather; "
        f"{row.STATISTICS}, as in that code",
    ),
    "sent_code_v1": row.Row(
        {
            **_CODE,
            "algo.selection": {"name": "low_entropy"},
            "algo.mask": {"name": "low_entropy"},
        },
        source="the published code of arXiv 2512.04359, its first form",
        open=f"{row.STATISTICS}, as in that code",
    ),
}
