"""The policy objective: one function per stage, put together once from settings.

    tokens ─► score ─► clip range ─► shaping ─► surrogate ─► importance ─► token mask
           ─► regularisers ─► aggregation ─► (numerator, denominator, sums)

`make_objective` checks the settings and picks the stages; the functions after it run
them. A method is a choice of stages, never a branch in here: HAPO with all strengths at
zero is DAPO, DAPO with a symmetric clip and a mean per completion is GRPO.

The learner calls `compute_advantages` and `fit_stats` once per rollout; the sampler
calls `temperature` at every position. `loss` takes whole rows. Almost every method is
token-wise, that is, the loss of a token follows from its own log-prob and from what was
known before (`known`, and the weights of its aggregation): for those `token_loss` gives
the same numbers from any tokens in any order.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from hapo_jax.algo import entropy as entropy_lib
from hapo_jax.algo import kl, losses, masked, settings, stages
from hapo_jax.algo import temperature as temperature_lib

Array = jax.Array


# The container that every stage reads.
Tokens = stages.Tokens


class TokenTerms(NamedTuple):
    """The loss before aggregation and what led to it; [B, T] each.

    Attributes:
      loss: float32, differentiable, 0 outside the mask.
      mask: bool, the tokens that count in the denominator.
      ratio: float32, importance ratio of current over old policy.
      advantages: float32, after shaping.
      clip_low, clip_high: float32, widths of the clip range below and above 1.
      clipped_low, clipped_high, dual_clipped: bool, which bound acted.
      score: float32 entropy score in [-1, 1]; all 0 where no stage uses it.
    """

    loss: Array
    mask: Array
    ratio: Array
    advantages: Array
    clip_low: Array
    clip_high: Array
    clipped_low: Array
    clipped_high: Array
    dual_clipped: Array
    score: Array


class Known(NamedTuple):
    """What rows tell about each token before the policy is run; [B, T] float32.

    Attributes:
      score: entropy score, or None where none is used or it is the current policy's.
      importance: weight on the surrogate, or None for 1.
      signal: bool, tokens of completions with an advantage. Metrics are over these, so
        that they do not depend on whether the others are passed through the policy.
    """

    score: Array | None
    importance: Array | None
    signal: Array


@dataclasses.dataclass(frozen=True)
class Objective:
    """The stages, in the order in which they run. All are pure functions.

    Attributes:
      temperature: (entropy, stats, *, base_temperature) -> temperature, any shape.
      advantage: (rewards, mask, group_ids) -> [B, T].
      fit: (entropy, mask, *, previous) -> EntropyStats.
      score: (entropy, stats) -> [B, T] in [-1, 1], or None where no stage uses it.
      ratio: (tokens) -> [B, T], differentiable; per token or per sequence.
      clip_range: (tokens, score) -> (low, high), [B, T] each.
      shaping: (tokens, score, ratio, low, high) -> advantages [B, T].
      surrogate: (tokens, ratio, advantages, low, high) -> losses.Surrogate.
      importance: (tokens) -> weights [B, T] on the surrogate, or None.
      token_mask: (tokens, surrogate) -> (kept, counted), bool [B, T] each: a token
        that is not kept has no policy loss, one not counted leaves the denominator.
      regularisers: each (tokens) -> [B, T], added to the weighted surrogate.
      aggregate: (mask) -> (weights [B, T], denominator), see `losses.py`.
      entropy_source: "old" or "current" policy's entropy for the score.
      stats_scope: "batch", statistics as given, or "micro", fitted on the tokens at
        hand, which makes the loss depend on how the batch is cut.
      needs_current_entropy: `Tokens.entropy` is read.
      needs_reference: `Tokens.reference_logprobs` is read.
      token_wise: given `known` and the weights of the whole mini-batch, no term of a
        token depends on another token, and every token of the mask is counted.
      zero_advantage_is_silent: a token whose advantage is 0 has loss 0 and gradient 0.
    """

    temperature: Callable[..., Array]
    advantage: Callable[[Array, Array, Array], Array]
    fit: Callable[..., entropy_lib.EntropyStats]
    score: Callable[[Array, entropy_lib.EntropyStats], Array] | None
    ratio: Callable[[Tokens], Array]
    clip_range: Callable[[Tokens, Array], tuple[Array, Array]]
    shaping: Callable[[Tokens, Array, Array, Array, Array], Array]
    surrogate: Callable[[Tokens, Array, Array, Array, Array], losses.Surrogate]
    importance: Callable[[Tokens], Array] | None
    token_mask: Callable[[Tokens, losses.Surrogate], tuple[Array, Array]]
    regularisers: tuple[Callable[[Tokens], Array], ...]
    aggregate: Callable[[Array], tuple[Array, Array]]
    entropy_source: str
    stats_scope: str
    needs_current_entropy: bool
    needs_reference: bool
    token_wise: bool
    zero_advantage_is_silent: bool


def compute_advantages(
    objective: Objective, rewards: Array, mask: Array, group_ids: Array
) -> Array:
    """Advantages of a rollout: [B] rewards, [B, T] mask, [B] ids -> [B, T] float32."""
    return jax.lax.stop_gradient(objective.advantage(rewards, mask, group_ids))


def fit_stats(
    objective: Objective,
    entropy: Array,
    mask: Array,
    previous: entropy_lib.EntropyStats,
) -> entropy_lib.EntropyStats:
    """Statistics of a rollout's entropies [B, T]; `previous` if the mask is empty."""
    return objective.fit(entropy, mask, previous=previous)


def temperature(
    objective: Objective,
    entropy: Array,
    stats: entropy_lib.EntropyStats,
    base_temperature: Array | float,
) -> Array:
    """Sampling temperature for entropies of any shape, nats; float32 of that shape."""
    return objective.temperature(entropy, stats, base_temperature=base_temperature)


def token_terms(
    objective: Objective, tokens: Tokens, stats: entropy_lib.EntropyStats
) -> TokenTerms:
    """Runs the stages up to the token loss; see `Objective`.

    Args:
      objective: from `make_objective`.
      tokens: one micro-batch.
      stats: of the batch; replaced by those of `tokens` for stats_scope "micro".

    Returns:
      TokenTerms, [B, T] each; only `loss` and `ratio` carry a gradient, and only with
      respect to `tokens.logprobs`.
    """
    tokens = _prepare(objective, tokens)
    return _terms(objective, tokens, known(objective, tokens, stats), stats)


def known(
    objective: Objective, tokens: Tokens, stats: entropy_lib.EntropyStats
) -> Known:
    """What of the objective follows from rows and the old policy alone.

    Args:
      objective: from `make_objective`.
      tokens: whole rows; current log-probs and entropies are not read.
      stats: see `token_terms`.

    Returns:
      Known, [B, T] each.
    """
    score = None
    if objective.score is not None and objective.entropy_source == "old":
        score = _score(objective, tokens.old_entropy, tokens.mask, stats)
    importance = objective.importance(tokens) if objective.importance else None
    signal = tokens.mask & (tokens.advantages != 0).any(axis=1, keepdims=True)
    return jax.lax.stop_gradient(Known(score, importance, signal))


def loss(
    objective: Objective, tokens: Tokens, stats: entropy_lib.EntropyStats
) -> tuple[Array, Array, dict[str, Array]]:
    """Loss of one micro-batch, in parts that add up over micro-batches.

    Args:
      objective: from `make_objective`.
      tokens: one micro-batch.
      stats: see `token_terms`.

    Returns:
      numerator: float32 scalar; the only part with a gradient.
      denominator: float32 scalar; divide the summed numerators by the summed
        denominators once, by 1 where that sum is 0.
      sums: `area/name` to [2] float32, a sum over tokens and their number, whose
        quotient is the metric; see `Known.signal`. All parts are 0 for an empty mask.
    """
    tokens = _prepare(objective, tokens)
    given = known(objective, tokens, stats)
    terms = _terms(objective, tokens, given, stats)
    weights, denominator = jax.lax.stop_gradient(objective.aggregate(terms.mask))
    numerator = masked.sum(terms.loss * weights, terms.mask)
    sums = jax.lax.stop_gradient(_sums(objective, tokens, given, terms))
    return numerator, denominator, sums


def token_loss(
    objective: Objective,
    tokens: Tokens,
    given: Known,
    weights: Array,
    stats: entropy_lib.EntropyStats,
) -> tuple[Array, dict[str, Array]]:
    """Numerator and sums of `loss`, of tokens that need not lie in rows.

    Args:
      objective: one that is `token_wise`.
      tokens: any tokens in any arrangement of two axes.
      given: their `known`, taken where they lay in rows.
      weights: theirs in the aggregation of the mini-batch; float32.
      stats: of the batch.

    Returns:
      numerator and sums, as `loss` returns them.
    """
    assert objective.token_wise, "this objective needs whole rows; use `loss`"
    tokens = _prepare(objective, tokens)
    terms = _terms(objective, tokens, given, stats)
    numerator = masked.sum(terms.loss * weights, tokens.mask)
    return numerator, jax.lax.stop_gradient(_sums(objective, tokens, given, terms))


def _prepare(objective: Objective, tokens: Tokens) -> Tokens:
    """Zeros padding, which may hold NaN, and cuts every gradient but that of logprobs.

    Zero everywhere means ratio 1 and advantage 0 in padding, so that no stage after
    this one can produce a non-finite number there.
    """
    chex.assert_rank(tokens.mask, 2)
    chex.assert_type(tokens.mask, bool)
    optional = {
        "entropy": objective.needs_current_entropy,
        "reference_logprobs": objective.needs_reference,
    }

    def clean(name: str, value: Array | None) -> Array | None:
        if value is None:
            assert not optional.get(name, True), f"this objective reads Tokens.{name}"
            return None
        if name == "mask":
            return value
        chex.assert_equal_shape([value, tokens.mask])
        chex.assert_type(value, jnp.float32)
        value = jnp.where(tokens.mask, value, 0)
        return value if name == "logprobs" else jax.lax.stop_gradient(value)

    return Tokens(**{name: clean(name, x) for name, x in tokens._asdict().items()})


def _terms(
    objective: Objective, tokens: Tokens, given: Known, stats: entropy_lib.EntropyStats
) -> TokenTerms:
    """`token_terms` of prepared tokens."""
    if objective.score is None:
        score = jnp.zeros_like(tokens.advantages)
    elif objective.entropy_source == "current":
        score = _score(objective, tokens.entropy, tokens.mask, stats)
    else:
        score = jnp.where(tokens.mask, given.score, 0)
    ratio = objective.ratio(tokens)
    low, high = objective.clip_range(tokens, score)
    shaped = objective.shaping(tokens, score, ratio, low, high)
    surrogate = objective.surrogate(tokens, ratio, shaped, low, high)
    per_token = surrogate.loss
    if given.importance is not None:
        per_token = per_token * jnp.where(tokens.mask, given.importance, 0)
    kept, counted = objective.token_mask(tokens, surrogate)
    per_token = jnp.where(kept, per_token, 0)
    for regulariser in objective.regularisers:
        per_token = per_token + jnp.where(counted, regulariser(tokens), 0)
    return TokenTerms(
        loss=per_token,
        mask=counted,
        ratio=ratio,
        advantages=shaped,
        clip_low=low,
        clip_high=high,
        clipped_low=surrogate.clipped_low & tokens.mask,
        clipped_high=surrogate.clipped_high & tokens.mask,
        dual_clipped=surrogate.dual_clipped & tokens.mask,
        score=score,
    )


def _score(
    objective: Objective, entropy: Array, mask: Array, stats: entropy_lib.EntropyStats
) -> Array:
    """Entropy score [B, T]; 0 outside the mask."""
    if objective.stats_scope == "micro":
        stats = objective.fit(entropy, mask, previous=stats)
    return jnp.where(mask, objective.score(entropy, stats), 0)


def _sums(
    objective: Objective, tokens: Tokens, given: Known, terms: TokenTerms
) -> dict[str, Array]:
    """Sums over tokens of what a dashboard shows, and how many these are; see `loss`.

    All but the KL to the reference are over tokens with signal: the policy is pulled
    towards the reference at every token.
    """
    old, behavior = tokens.old_logprobs, tokens.behavior_logprobs
    per_token = {
        "clip/frac_low": terms.clipped_low,
        "clip/frac_high": terms.clipped_high,
        "clip/frac_dual": terms.dual_clipped,
        "clip/width_low": terms.clip_low,
        "clip/width_high": terms.clip_high,
        "ratio/mean": terms.ratio,
        "ratio/deviation": jnp.abs(terms.ratio - 1),
        "kl/old_policy": kl.estimate(old, tokens.logprobs, estimator="k1"),
        "kl/old_policy_k3": kl.estimate(old, tokens.logprobs, estimator="k3"),
        "kl/behavior_policy_k3": kl.estimate(behavior, old, estimator="k3"),
        "advantages/mean": terms.advantages,
        "advantages/abs": jnp.abs(terms.advantages),
        "advantages/frac_reshaped": terms.advantages != tokens.advantages,
        "loss/token": terms.loss,
        "loss/frac_counted": terms.mask,
    }
    if objective.score is not None:
        per_token["entropy_score/mean"] = terms.score
        per_token["entropy_score/frac_positive"] = terms.score > 0
    if given.importance is not None:
        per_token["importance/weight"] = given.importance
    signal = given.signal & tokens.mask
    sums = {name: _sum(value, signal) for name, value in per_token.items()}
    if objective.needs_reference:
        k3 = kl.estimate(tokens.logprobs, tokens.reference_logprobs, estimator="k3")
        sums["kl/reference_k3"] = _sum(k3, tokens.mask)
    return sums


def _sum(value: Array, mask: Array) -> Array:
    """[2] float32: the sum over the mask, and its size."""
    total = masked.sum(value.astype(jnp.float32), mask)
    return jnp.stack([total, masked.count(mask)])


def make_objective(
    *,
    advantage: str,
    token_group_strength: float,
    entropy_quantile: float,
    entropy_floor: float,
    entropy_source: str,
    entropy_scope: str,
    entropy_spread: str,
    entropy_low_sign: str,
    temperature_strength: float,
    temperature_min_factor: float,
    temperature_max_factor: float,
    temperature_score: str,
    redistribution_strength: float,
    redistribution_zone: str,
    clip_low: float,
    clip_high: float,
    clip_strength: float,
    clip_dual: float,
    clip_log_ratio: float,
    aggregation: str,
    aggregation_scale_tokens: float,
    kl_strength: float,
    kl_estimator: str,
    importance_mode: str,
    importance_cap: float,
    importance_floor: float,
    advantage_fallback: float,
    singleton: str,
) -> Objective:
    """Picks the stages. The four strengths at 0 leave DAPO, exactly.

    Args:
      advantage: base advantage, a name of `advantages.ADVANTAGES`.
      token_group_strength: s in (1 - s) * base + s * token-level group average; [0, 1].
      entropy_quantile: pivot of the score, in [0, 1], at most four decimals.
      entropy_floor: nats, > 0.
      entropy_source: "old" or "current" policy's entropy for clip range and
        redistribution; the temperature always follows statistics of the old policy.
      entropy_scope: "batch" or "micro", see `Objective.stats_scope`.
      entropy_spread: "std" or "quantile_rms", see `entropy.fit`.
      entropy_low_sign: "paper" or "public", see `entropy.score`.
      temperature_strength: >= 0, 0 for a constant temperature.
      temperature_min_factor, temperature_max_factor: bounds around 1.
      temperature_score: "raw" or "scaled", see `temperature.adaptive`.
      redistribution_strength: in [0, 1], 0 for none.
      redistribution_zone: neutral zone from the "adapted" or the "base" clip range.
      clip_low, clip_high: widths of the clip range below and above 1, > 0.
      clip_strength: >= 0, 0 for the same range everywhere.
      clip_dual: > 1, or 0 for no dual clip.
      clip_log_ratio: nats, clamp of the log-ratio, or 0 for none.
      aggregation: a name of `losses.AGGREGATIONS`.
      aggregation_scale_tokens: tokens; read by "seq_mean_token_sum_norm" only.
      kl_strength: weight of the KL term towards the reference, 0 for none.
      kl_estimator: one of `kl.ESTIMATORS`.
      importance_mode: "none", "token", "sequence" or "icepop" (token level, weights
        outside the bounds drop the token).
      importance_cap, importance_floor: bounds of a weight, floor < 1 <= cap.
      advantage_fallback: see `advantages.hapo_token_group`, 0 for none.
      singleton: "zero" or "verl", what a group of one gets.

    Returns:
      Objective.

    Raises:
      ValueError: a setting or a combination makes no sense; names key, value, rule and
        remedy.
    """
    settings.check(locals())
    low_sign = entropy_low_sign
    uses_score = clip_strength > 0 or redistribution_strength > 0
    return Objective(
        temperature=functools.partial(
            temperature_lib.adaptive,
            strength=temperature_strength,
            min_factor=temperature_min_factor,
            max_factor=temperature_max_factor,
            floor=entropy_floor,
            score=temperature_score,
            low_sign=low_sign,
        ),
        advantage=stages.advantage(
            advantage, token_group_strength, advantage_fallback, singleton
        ),
        fit=functools.partial(
            entropy_lib.fit,
            quantile=entropy_quantile,
            floor=entropy_floor,
            spread=entropy_spread,
        ),
        score=functools.partial(
            entropy_lib.score, floor=entropy_floor, low_sign=low_sign
        )
        if uses_score
        else None,
        ratio=functools.partial(stages.token_ratio, limit=clip_log_ratio or math.inf),
        clip_range=functools.partial(
            stages.clip_range, low=clip_low, high=clip_high, strength=clip_strength
        ),
        shaping=functools.partial(
            stages.redistribute,
            strength=redistribution_strength,
            base=(clip_low, clip_high) if redistribution_zone == "base" else None,
        ),
        surrogate=functools.partial(stages.ppo, dual=clip_dual),
        importance=stages.importance_weights(
            importance_mode, importance_floor, importance_cap
        ),
        token_mask=stages.all_tokens,
        regularisers=stages.regularisers(kl_strength, kl_estimator),
        aggregate=stages.aggregation(aggregation, aggregation_scale_tokens),
        entropy_source=entropy_source,
        stats_scope=entropy_scope,
        needs_current_entropy=uses_score and entropy_source == "current",
        needs_reference=kl_strength > 0,
        token_wise=entropy_scope == "batch" and aggregation != "token_mean_micro",
        zero_advantage_is_silent=kl_strength == 0,
    )
