"""Outputs of public reference implementations, losses and gradients alike.

The archives lie in $HAPO_GOLDEN_DIR, one per case, with a manifest. An adapter takes a
case to the outputs that this package gives for it; the table `ADAPTERS` says which
function of the references it stands for. Log-probs, entropies and masks go in as they
are; outputs are compared in float32 with the tolerances that the archives recommend.
"""

import json
import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import (
    advantages,
    clipping,
    entropy,
    importance,
    kl,
    losses,
    masked,
    masks,
    rewards,
    shaping,
    temperature,
)
from tests import tiny
from tests.algo import given

_BESIDE = pathlib.Path(__file__).parents[2] / "shared" / "golden" / "public"
FOLDER = pathlib.Path(os.environ.get("HAPO_GOLDEN_DIR", _BESIDE))

# float32 against float32: the same formula in another order of operations.
RTOL, ATOL = 1e-4, 1e-5

# Functions of the archives without a counterpart here: Archer and other rivals; and
# what needs a critic or a greedy rollout, or masks whole tokens out.
NOT_BUILT = {
    *("archer", "cispo_upper_only", "cispo_verl", "clip_cov"),
    *("edge_grpo", "entropy_adv"),
    *("gae", "gmpo", "gpg_advantage", "gpg_loss", "grpo_passk", "gspo"),
    *("htpo", "kl_cov", "kl_cov_original", "remax"),
    *("rollout_rejection_mask", "sapo", "sent_v1", "sent_v2_int64mask"),
    *("sent_v2_intended", "stapo", "stare", "value_loss"),
}


class Case(NamedTuple):
    """One archive: keyword arguments of the reference, its inputs and its outputs."""

    name: str
    function: str
    config: dict[str, Any]
    inputs: dict[str, jax.Array]
    expected: dict[str, np.ndarray]
    compare_mask: str

    @property
    def mask(self) -> jax.Array:
        return self.inputs["response_mask"] > 0


def test_every_function_is_built_or_named_as_missing():
    in_manifest = {entry["function"] for entry in MANIFEST}
    assert in_manifest - ADAPTERS.keys() == NOT_BUILT
    assert ADAPTERS.keys() <= in_manifest


def _check(file):
    """Compares every output of an archive with what the adapter gives."""
    case = _load(file)
    outputs = ADAPTERS[case.function](case)
    assert outputs.keys() == case.expected.keys()
    where = slice(None)
    if case.compare_mask != "all":
        where = np.asarray(case.inputs[case.compare_mask] > 0)
    for name, expected in case.expected.items():
        actual = np.asarray(outputs[name])
        if expected.ndim == 2:
            actual, expected = actual[where], expected[where]
        np.testing.assert_allclose(actual, expected, RTOL, ATOL, err_msg=name)


# --- entropy score, temperature, clip range, redistribution -------------------------


def _entropy_score(case):
    """Public code: spread about the quantile, confident tokens positive."""
    inputs = case.inputs
    if "response_mask" in inputs:
        mask = case.mask
    else:
        mask = inputs["entropy"] > 0
        # The reference leaves tokens outside its statistics beyond 1; here they end at
        # 1, as a statistic of another batch may be exceeded at any time.
        case.expected["h_hat"] = np.clip(case.expected["h_hat"], -1, 1)
    stats = entropy.fit(
        inputs["entropy"],
        mask,
        quantile=case.config["entropy_pivot"],
        floor=1e-8,
        spread="quantile_rms",
        previous=entropy.initial_stats(),
    )
    score = entropy.score(inputs["entropy"], stats, floor=1e-8, low_sign="public")
    return {
        "h_hat": score,
        "median": stats.quantile,
        "std": stats.std,
        "scale_pos": 1 / jnp.maximum(stats.max_score, masked.EPSILON),
        "scale_neg": 1 / jnp.minimum(stats.min_score, -masked.EPSILON),
    }


def _sampler_temperature(case):
    """Public code: the scaled score, and another floor than in training."""
    inputs = case.inputs
    stats = entropy.EntropyStats(
        inputs["median"],
        inputs["std"],
        1 / inputs["scale_pos"],
        1 / inputs["scale_neg"],
    )
    nats = entropy.of_logits(inputs["logits"])
    adaptive = temperature.adaptive(
        nats,
        stats,
        base_temperature=inputs["base_temperature"],
        strength=case.config["tau"],
        min_factor=0.0,
        max_factor=np.inf,
        floor=1e-6,
        score="scaled",
        low_sign="public",
    )
    return {"temperature": adaptive, "entropy": nats}


def _clip_range(case):
    low, high = clipping.by_score(
        case.inputs["h_hat"],
        low=case.config["cliprange_low"],
        high=case.config["cliprange_high"],
        strength=case.config["clip_alpha"],
    )
    return {"eps_low": low, "eps_high": high}


def _redistribute(case):
    names = ("advantages", "h_hat", "ratio", "eps_low", "eps_high")
    arrays = [case.inputs[name] for name in names]
    strength = case.config["adv_beta"]
    return {"advantages": shaping.redistribute(*arrays, strength=strength)}


# --- advantages ----------------------------------------------------------------------


def _completions(case):
    """(rewards, mask, group_ids) of a case with its reward at the last token."""
    total = jnp.sum(case.inputs["token_level_rewards"], axis=1)
    return total, case.mask, case.inputs["group_index"].astype(jnp.int32)


def _advantage(function, **options):
    return lambda case: {"advantages": function(*_completions(case), **options)}


def _grpo(case):
    scale = case.config.get("norm_adv_by_std_in_grpo", True)
    function = advantages.grpo if scale else advantages.dr_grpo
    return {"advantages": function(*_completions(case), singleton="verl")}


def _hapo_token_group(case):
    adapted = advantages.hapo_token_group(
        *_completions(case),
        fallback=5.0,
        scale_by_std=case.config.get("norm_adv_by_std_in_grpo", True),
        singleton="verl",
    )
    return {"advantages": adapted}


def _reinforce_pp(case):
    gamma = case.config["gamma"]
    total, mask, group_ids = _completions(case)
    return {
        "advantages": advantages.reinforce_pp(total, mask, group_ids, gamma=gamma),
        "returns": advantages.returns_to_go(total, mask, gamma=gamma),
    }


def _overlong(case):
    penalty = rewards.overlong_penalty(
        case.inputs["length"],
        max_tokens=case.config["max_len"],
        buffer_tokens=case.config["buffer_len"],
        factor=case.config["factor"],
    )
    return {"penalty": penalty}


# --- losses --------------------------------------------------------------------------


def _make(method, **changes):
    """A method of the configs, with some settings changed."""
    return tiny.method(method, **changes)


def _temperature(made, nats, stats, base_temperature):
    base = jnp.full(nats.shape, base_temperature, jnp.float32)
    if made.temperature is None:
        return base
    return made.temperature(nats, {"entropy": stats}, base)


def _tokens(case, **fields):
    """The case as Tokens; what it has not, no stage of the tests reads."""
    inputs = case.inputs
    zeros = jnp.zeros(case.mask.shape)
    numbers = {
        "logprobs": inputs["log_prob"],
        "entropy": inputs["entropy"],
        "old_logprobs": inputs["old_log_prob"],
        "old_entropy": inputs["entropy"],
        "behavior_logprobs": inputs["old_log_prob"],
        "reference_logprobs": None,
        "advantages": inputs.get("advantages", zeros),
        "mask": case.mask,
    }
    return given.Tokens(**{**numbers, **fields})


def _value_and_grad(made, tokens, stats):
    """(loss, its gradient in log-probs, sums) of one micro-batch."""

    def mean(logprobs):
        tokens_here = tokens._replace(logprobs=logprobs)
        numerator, denominator, sums = given.loss(made, tokens_here, stats)
        return numerator / jnp.where(denominator == 0, 1, denominator), sums

    (value, sums), grad = jax.value_and_grad(mean, has_aux=True)(tokens.logprobs)
    return value, grad, sums


def _aggregation(case):
    """Settings for an aggregation of the references, by their name for it."""
    name = case.config["loss_agg_mode"].replace("-", "_")
    if name != "seq_mean_token_sum_norm":
        return {"aggregation": {"name": name}}
    return {"aggregation": {"name": name, "scale_tokens": case.mask.shape[1]}}


def _clip_metrics(sums, tokens):
    """The references' metrics; they count all tokens, ours those with signal."""
    count = tokens.mask.sum()
    old_kl = kl.estimate(tokens.old_logprobs, tokens.logprobs, estimator="k1")
    return {
        "pg_clipfrac": _num_clipped(sums) / count,
        "ppo_kl": masked.mean(old_kl, tokens.mask),
        "pg_clipfrac_lower": sums["clip/frac_dual"][0] / count,
    }


def _num_clipped(sums):
    return sums["clip/frac_low"][0] + sums["clip/frac_high"][0]


def _hapo_public(case, **settings):
    """The public code's method with the strengths of a case."""
    config = case.config
    return _make(
        "hapo_public",
        entropy_quantile=config["entropy_pivot"],
        clip_low=config["cliprange_low"],
        clip_high=config["cliprange_high"],
        clip_strength=config["clip_alpha"] * config["adaptive_clip"],
        clip_dual=config["clip_ratio_c"],
        redistribution_strength=config["adv_beta"] * config["adaptive_advantage"],
        **settings,
    )


def _hapo_policy_loss(case):
    aggregation = _aggregation(case)
    # This fork divides by the padded length alone, not by the rows as well.
    if "scale_tokens" in aggregation["aggregation"]:
        aggregation["aggregation"]["scale_tokens"] /= case.mask.shape[0]
    made = _hapo_public(case, **aggregation)
    tokens = _tokens(case)
    value, grad, sums = _value_and_grad(made, tokens, entropy.initial_stats())
    metrics = _clip_metrics(sums, tokens)
    metrics["pg_clipfrac_count"] = _num_clipped(sums)
    return {"loss": value, "grad_log_prob": grad, **metrics}


def _hapo_public_chain(case):
    made = _hapo_public(case)
    adapted = given.advantages(made, *_completions(case))
    tokens = _tokens(case, advantages=adapted)
    value, grad, _ = _value_and_grad(made, tokens, entropy.initial_stats())
    return {"loss": value, "grad_log_prob": grad, "advantages": adapted}


def _hapo_public_microbatch(case):
    """Numerators and denominators add up over micro-batches of given sizes."""
    made, tokens = _hapo_public(case), _tokens(case)
    ends = np.cumsum(np.asarray(case.inputs["micro_sizes"])).tolist()

    def mean(logprobs):
        parts = []
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            rows = tokens._replace(logprobs=logprobs)
            rows = jax.tree.map(lambda x: x[start:end], rows)
            parts.append(given.loss(made, rows, entropy.initial_stats())[:2])
        numerators, denominators = zip(*parts, strict=True)
        return sum(numerators) / sum(denominators)

    # Compiled once: one by one, the operations would be compiled for every row count.
    value, grad = jax.jit(jax.value_and_grad(mean))(tokens.logprobs)
    return {"loss": value, "grad_log_prob": grad}


def _hapo_paper(case):
    config = case.config
    made = _make(
        "hapo",
        entropy_quantile=config["rho"],
        entropy_floor=config["entropy_floor"],
        temperature_strength=config["tau"],
        # The archive has no bounds; these are wide enough not to act.
        temperature_min_factor=1e-6,
        temperature_max_factor=1e6,
        clip_low=config["eps_low"],
        clip_high=config["eps_high"],
    )
    nats, mask = case.inputs["entropy"], case.mask
    stats = given.fit(made, nats, mask, entropy.initial_stats())
    adapted = given.advantages(made, *_completions(case))
    tokens = _tokens(case, advantages=adapted)
    terms = given.terms(made, tokens, stats)
    value, grad, _ = _value_and_grad(made, tokens, stats)
    return {
        "quantile": stats.quantile,
        "std": stats.std,
        "h": entropy.raw_score(nats, stats, floor=config["entropy_floor"]),
        "h_tilde": terms.score,
        "advantages": adapted,
        "eps_low": terms.clip_low,
        "eps_high": terms.clip_high,
        "advantages_redistributed": terms.advantages,
        "loss": value,
        "grad_log_prob": grad,
        "temperature": _temperature(made, nats, stats, 1.0),
    }


def _ppo_dual_clip(case):
    fields, settings = {}, {}
    weights = case.inputs.get("rollout_is_weights")
    if weights is not None:  # the log-probs of a sampler that has these weights
        safe = jnp.where(case.mask, weights, 1)
        fields = {"behavior_logprobs": case.inputs["old_log_prob"] - jnp.log(safe)}
        settings = {"importance_mode": "token", "importance_cap": 1e6}
    made = _make("dapo", clip_dual=3.0, **settings, **_aggregation(case))
    tokens = _tokens(case, **fields)
    value, grad, sums = _value_and_grad(made, tokens, entropy.initial_stats())
    metrics = _clip_metrics(sums, tokens)
    return {"loss": value, "grad_log_prob": grad, **metrics}


def _ce_gppo(case):
    config = case.config
    surrogate = {
        "name": "ce_gppo",
        "beta_low": config["gppo_loss_beta1"],
        "beta_high": config["gppo_loss_beta2"],
    }
    made = _make("ce_gppo", surrogate=surrogate, clip_log_ratio=0.0)
    tokens = _tokens(case)
    value, grad, sums = _value_and_grad(made, tokens, entropy.initial_stats())
    fraction = _clip_metrics(sums, tokens)["pg_clipfrac"]
    return {"loss": value, "grad_log_prob": grad, "pg_clipfrac": fraction}


def _forking(case):
    rule = "quantile" if "rho" in case.config else "top_floor"
    made = _make("forking", mask={"name": "forking", "rule": rule})
    tokens, stats = _tokens(case), entropy.initial_stats()
    value, grad, _ = _value_and_grad(made, tokens, stats)
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
    kept, _ = masks.forking(case.inputs["entropy"], case.mask, share=share)
    return {"high_mask": kept}


def _aspo(case):
    made = _make("aspo", clip_dual=case.config["dc"], kl_strength=0.0)
    tokens, stats = _tokens(case), entropy.initial_stats()
    value, grad, _ = _value_and_grad(made, tokens, stats)
    terms = given.terms(made, tokens, stats)
    low, _ = clipping.by_row_entropy(tokens.old_entropy, tokens.mask, low=0.2, high=0.2)
    # The reference counts tokens of advantage 0 among the positive ones, and takes the
    # weights that are too large as shares of those with that sign.
    positive = tokens.advantages >= 0

    def fraction(flags, among=True):
        return masked.mean(flags.astype(jnp.float32), tokens.mask & among)

    return {
        "loss": value,
        "grad_log_prob": grad,
        "low_mask": tokens.mask & (low < 0.3),
        "frac_upper": fraction(positive & (terms.ratio > 1 + terms.clip_high)),
        "frac_lower": fraction(terms.clipped_low),
        "neg_dual": fraction(terms.dual_clipped, ~positive),
        "pos_dual": fraction(terms.dual_clipped, tokens.advantages > 0),
    }


def _gtpo(case):
    """The token rewards; those of GRPO-S, in the same archive, have no counterpart."""
    shaped = advantages.gtpo_rewards(
        case.inputs["acc"].astype(jnp.float32),
        case.inputs["entropy"],
        case.mask,
        case.inputs["group_index"].astype(jnp.int32),
        outcome=case.config["alpha1"],
        entropy_bonus=case.config["alpha2"],
    )
    del case.expected["grpos_sequence_reward"]
    return {"gtpo_token_reward": shaped}


def _kl(**options):
    def adapter(case):
        inputs, config = case.inputs, case.config
        estimator = config["kl_type"].replace("low_var_kl", "k3")

        def divergence(logprobs):
            reference = inputs["ref_log_prob"]
            value = kl.estimate(logprobs, reference, estimator=estimator, **options)
            return value.sum(), value

        grad, value = jax.grad(divergence, has_aux=True)(inputs["log_prob"])
        return {"loss": value.sum(), "grad_log_prob": grad, "kl": value}

    return adapter


def _aggregate(case, *, count_empty_rows=False, divide_norm_by_rows=True):
    """Value and gradient of an aggregation; global counts as the case gives them."""
    config, mask = case.config, case.mask
    name = config["loss_agg_mode"].replace("-", "_")
    function, options = losses.AGGREGATIONS[name], {}
    if name == "seq_mean_token_sum_norm":
        scale = config.get("loss_scale_factor", mask.shape[1])
        options = {"scale_tokens": scale}

    def mean(loss):
        weights, denominator = function(mask, **options)
        numerator = masked.sum(loss * weights, mask)
        if name == "seq_mean_token_sum_norm" and not divide_norm_by_rows:
            denominator = 1.0
        elif count_empty_rows and name.startswith("seq"):
            denominator = mask.shape[0]
        denominator = config.get("batch_num_tokens", denominator)
        denominator = config.get("global_batch_size", denominator)
        divisor = jnp.where(denominator == 0, 1.0, denominator)
        return numerator / divisor * config.get("dp_size", 1)

    value, grad = jax.value_and_grad(mean)(case.inputs["loss_mat"])
    return {"loss": value, "grad_loss_mat": grad}


def _hapo_aggregate(case):
    """The fork counts empty rows, and gives NaN where it takes the mean of one."""
    outputs = _aggregate(case, count_empty_rows=True, divide_norm_by_rows=False)
    if not np.isfinite(case.expected["loss"]):
        assert not np.all(np.any(case.mask, axis=1))
        assert all(np.all(np.isfinite(value)) for value in outputs.values())
        case.expected.clear()  # an intended departure: an empty row contributes 0
        return {}
    return outputs


def _weights(case):
    config = case.config
    threshold = str(config["rollout_is_threshold"])
    floor, _, cap = threshold.rpartition("_")
    weights = importance.weights(
        case.inputs["log_ratio"],
        jnp.zeros_like(case.inputs["log_ratio"]),
        case.mask,
        level=config["rollout_is"],
        outside="zero" if floor else "clip",
        floor=float(floor or 0),
        cap=float(cap),
        normalize=config.get("rollout_is_batch_normalize", False),
    )
    return {"weights": weights}


ADAPTERS = {
    "aspo": _aspo,
    "ce_gppo": _ce_gppo,
    "forking_tokens": _forking,
    "forking_tokens_mask_trl": _forking_mask,
    "gtpo_grpo_s_shaped_reward": _gtpo,
    "dapo_overlong": _overlong,
    "grpo_outcome_advantage": _grpo,
    "hapo_ada_advantage": _redistribute,
    "hapo_ada_clip": _clip_range,
    "hapo_agg_loss": _hapo_aggregate,
    "hapo_compute_entropy_h": _entropy_score,
    "hapo_kl_penalty": _kl(limit=np.inf),
    "hapo_outcome_advantage": _hapo_token_group,
    "hapo_paper_pipeline": _hapo_paper,
    "hapo_policy_loss": _hapo_policy_loss,
    "hapo_public_chain": _hapo_public_chain,
    "hapo_public_microbatch": _hapo_public_microbatch,
    "hapo_sampler_temperature": _sampler_temperature,
    "kl_penalty": _kl(),
    "opo": _advantage(advantages.opo, singleton="verl"),
    "ppo_dual_clip": _ppo_dual_clip,
    "reinforce_pp": _reinforce_pp,
    "reinforce_pp_baseline": _advantage(
        advantages.reinforce_pp_baseline, singleton="verl"
    ),
    "reinforce_pp_hapo_fork": _reinforce_pp,
    "rloo": _advantage(advantages.rloo, singleton="verl"),
    "rollout_is_weights": _weights,
    "verl_agg_loss": _aggregate,
    "verl_agg_loss_jan2026": lambda case: _aggregate(case, divide_norm_by_rows=False),
}


def _load(file: str) -> Case:
    """Reads one archive; floats as float32, `out_*` only."""
    with np.load(FOLDER / file) as archive:
        arrays = dict(archive)
    meta = json.loads(str(arrays["meta"]))
    inputs, expected = {}, {}
    for name, value in arrays.items():
        kind, _, rest = name.partition("_")
        if kind == "in":
            inputs[rest] = jnp.asarray(value)
        elif kind == "out":
            expected[rest] = np.asarray(value, np.float32)
    return Case(
        file, meta["function"], meta["config"], inputs, expected, meta["compare_mask"]
    )


def _manifest() -> list[dict[str, Any]]:
    """The archives there are; none without the folder, and then all tests skip."""
    path = FOLDER / "manifest.json"
    return json.loads(path.read_text())["files"] if path.exists() else []


MANIFEST = _manifest()
BUILT = [entry["file"] for entry in MANIFEST if entry["function"] in ADAPTERS]

pytestmark = pytest.mark.skipif(
    not MANIFEST, reason=f"no golden vectors in {FOLDER}; set HAPO_GOLDEN_DIR"
)


@pytest.mark.parametrize("file", BUILT or [None])
def test_case(file):
    _check(file)
