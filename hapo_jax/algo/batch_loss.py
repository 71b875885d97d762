"""The loss of a mini-batch, and its metrics, from what a method says of its tokens.

In sums that add up over micro-batches; who calls divides once, at the end.
"""

import jax
import jax.numpy as jnp

from hapo_jax.algo import kl, masked
from hapo_jax.algo.method import Method
from hapo_jax.algo.terms import Terms, Values, clean, of_batch

Array = jax.Array


def token_loss(
    method: Method, current: Values, constants: Values, weights: Array, state
) -> tuple[Array, dict[str, Array]]:
    """The loss of tokens in any arrangement, of a method that is not `by_rows`.

    Args:
      method: from `make`.
      current: of the current policy, see `Method.terms`.
      constants: theirs, taken where they lay in rows.
      weights: theirs in the aggregation of the mini-batch; float32.
      state: of the method.

    Returns:
      numerator: float32 scalar; the only part with a gradient.
      sums: `area/name` to [2] float32, a sum over tokens and their number, whose
        quotient is the metric.
    """
    assert not method.by_rows, "this method needs whole rows; use `rows_loss`"
    terms = method.terms(current, constants, state)
    numerator = masked.sum(terms.loss * weights, constants["mask"])
    return numerator, _sums(method, current, constants, terms)


def aggregation(
    method: Method, counted: Array, beside: Array | None, state
) -> tuple[Array, Array]:
    """(weights, denominator) of the tokens of a mini-batch, and of those beside it.

    Tokens of a second rollout weigh as if they were of the batch, and leave its
    denominator. With demonstrations the loss is (1 - w) times that of the batch plus w
    times the mean over their tokens, and the denominator is 1.

    Args:
      method: from `make`.
      counted: [B, T] bool, tokens of the batch that its stages count.
      beside: [B, T] bool, tokens beside it; None if there are none.
      state: of the method.
    """
    weights, denominator = method.aggregate(counted)
    if beside is None:
        return weights, denominator
    if method.imitation_weight is None:
        among, _ = method.aggregate(counted | beside)
        return jnp.where(beside, among, weights), denominator
    w = method.imitation_weight(state)
    of_batch = (1 - w) * weights / jnp.where(denominator == 0, 1, denominator)
    of_shown = w / jnp.maximum(masked.count(beside), 1)
    return jnp.where(beside, of_shown, of_batch), jnp.ones_like(denominator)


def rows_loss(
    method: Method, current: Values, constants: Values, state
) -> tuple[Array, Array, dict[str, Array]]:
    """The loss of whole completions, in parts that add up over micro-batches.

    Args:
      method, current, constants, state: see `token_loss`; [B, T] each.

    Returns:
      numerator: float32 scalar; the only part with a gradient.
      denominator: float32 scalar; divide the summed numerators by the summed
        denominators once, by 1 where that sum is 0.
      sums: see `token_loss`. All parts are 0 for an empty mask.
    """
    terms = method.terms(current, constants, state)
    weights, denominator = jax.lax.stop_gradient(
        aggregation(method, terms.counted, constants.get("beside"), state)
    )
    numerator = masked.sum(terms.loss * weights, constants["mask"])
    return numerator, denominator, _sums(method, current, constants, terms)


def critic_loss(
    method: Method, values: Array, constants: Values, weights: Array
) -> tuple[Array, dict[str, Array]]:
    """The loss of a method's critic, beside `token_loss` or `rows_loss`.

    Args:
      method: with a critic.
      values: float32, of the current critic; differentiable.
      constants: see `token_loss`.
      weights: of the policy's loss, 0 where a token does not count.

    Returns:
      numerator and sums as of `token_loss`, over all tokens of the mask.
    """
    found, mask = method.value_loss(values, constants), of_batch(constants)
    per_token = {
        "critic/loss": found.loss,
        "critic/frac_clipped": found.clipped,
        "critic/value": values,
        "critic/return": constants["returns"],
    }
    sums = {name: _sum(x, mask) for name, x in per_token.items()}
    return masked.sum(found.loss * weights, mask), jax.lax.stop_gradient(sums)


def row_weights(method: Method, current: Values, constants: Values, state) -> Array:
    """The weights that `rows_loss` takes, [B, T] float32."""
    terms = method.terms(current, constants, state)
    return jax.lax.stop_gradient(method.aggregate(terms.counted)[0])


def _sums(
    method: Method, current: Values, constants: Values, terms: Terms
) -> dict[str, Array]:
    """Sums over tokens of what a dashboard shows, and how many these are.

    All but the KL to the reference are over tokens with signal: the policy is pulled
    towards the reference at every token.
    """
    values = clean({**constants, **current})
    old, behavior = values["old_logprobs"], values["behavior_logprobs"]
    per_token = {
        "clip/frac_low": terms.clipped_low,
        "clip/frac_high": terms.clipped_high,
        "clip/frac_dual": terms.dual_clipped,
        "clip/width_low": terms.clip_low,
        "clip/width_high": terms.clip_high,
        "ratio/mean": terms.ratio,
        "ratio/deviation": jnp.abs(terms.ratio - 1),
        "ratio/frac_off_5pct": jnp.abs(terms.ratio - 1) > 0.05,
        "ratio/frac_off_10pct": jnp.abs(terms.ratio - 1) > 0.1,
        "kl/old_policy": kl.estimate(old, values["logprobs"], estimator="k1"),
        "kl/old_policy_k3": kl.estimate(old, values["logprobs"], estimator="k3"),
        "kl/behavior_policy_k3": kl.estimate(behavior, old, estimator="k3"),
        "advantages/mean": terms.advantages,
        "advantages/abs": jnp.abs(terms.advantages),
        "advantages/frac_reshaped": terms.advantages != terms.base_advantages,
        "loss/token": terms.loss,
        "loss/frac_counted": terms.counted,
    }
    if "score" in method.reads:
        per_token["entropy_score/mean"] = terms.score
        per_token["entropy_score/frac_positive"] = terms.score > 0
    if "behavior_logprobs" in method.reads:
        per_token["importance/weight"] = terms.weight
    signal = values["signal"]
    sums = {name: _sum(value, signal) for name, value in per_token.items()}
    if method.needs_reference:
        k3 = kl.estimate(
            values["logprobs"], values["reference_logprobs"], estimator="k3"
        )
        sums["kl/reference_k3"] = _sum(k3, of_batch(values))
    if (beside := values.get("beside")) is not None:
        sums["beside/loss"] = _sum(terms.loss, beside)
        sums["beside/logprob"] = _sum(values["logprobs"], beside)
    return jax.lax.stop_gradient(sums)


def _sum(value: Array, mask: Array) -> Array:
    """[2] float32: the sum over the mask, and its size."""
    total = masked.sum(value.astype(jnp.float32), mask)
    return jnp.stack([total, masked.count(mask)])
