"""Outputs of public reference implementations, losses and gradients alike.

An adapter takes a case to the outputs that this package gives for it; the table
`ADAPTERS` says which function of the references it stands for. Log-probs, entropies and
masks go in as they are; outputs are compared in float32 with the tolerances that the
archives recommend.
"""

import re

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
    rewards,
    shaping,
    temperature,
)
from tests import golden, tiny
from tests.algo import given, rivals

# float32 against float32: the same formula in another order of operations.
RTOL, ATOL = 1e-4, 1e-5


def test_every_function_is_built():
    assert {entry["function"] for entry in MANIFEST} == ADAPTERS.keys()


def _check(file):
    """Compares every output of an archive with what the adapter gives."""
    case = golden.load(file)
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


def _advantage(function, **options):
    return lambda case: {"advantages": function(*golden.completions(case), **options)}


def _grpo(case):
    scale = case.config.get("norm_adv_by_std_in_grpo", True)
    function = advantages.grpo if scale else advantages.dr_grpo
    return {"advantages": function(*golden.completions(case), singleton="verl")}


def _hapo_token_group(case):
    adapted = advantages.hapo_token_group(
        *golden.completions(case),
        fallback=5.0,
        scale_by_std=case.config.get("norm_adv_by_std_in_grpo", True),
        singleton="verl",
    )
    return {"advantages": adapted}


def _reinforce_pp(case):
    gamma = case.config["gamma"]
    total, mask, group_ids = golden.completions(case)
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


def _hapo_public(case, **settings):
    """The public code's method with the strengths of a case."""
    config = case.config
    return tiny.method(
        "hapo_public",
        entropy_quantile=config["entropy_pivot"],
        clip_low=config["cliprange_low"],
        clip_high=config["cliprange_high"],
        clip_strength=config["clip_alpha"] * config["adaptive_clip"],
        clip_dual=config["clip_ratio_c"],
        redistribution_strength=config["adv_beta"] * config["adaptive_advantage"],
        **settings,
    )


def _temperature(made, nats, stats, base_temperature):
    base = jnp.full(nats.shape, base_temperature, jnp.float32)
    if made.temperature is None:
        return base
    return made.temperature(nats, {"entropy": stats}, base)


def _hapo_policy_loss(case):
    aggregation = golden.aggregation(case)
    # This fork divides by the padded length alone, not by the rows as well.
    if "scale_tokens" in aggregation["aggregation"]:
        aggregation["aggregation"]["scale_tokens"] /= case.mask.shape[0]
    made = _hapo_public(case, **aggregation)
    tokens = golden.tokens(case)
    value, grad, sums = golden.value_and_grad(made, tokens, entropy.initial_stats())
    metrics = golden.clip_metrics(sums, tokens)
    metrics["pg_clipfrac_count"] = golden.num_clipped(sums)
    return {"loss": value, "grad_log_prob": grad, **metrics}


def _hapo_public_chain(case):
    made = _hapo_public(case)
    adapted = given.advantages(made, *golden.completions(case))
    tokens = golden.tokens(case, advantages=adapted)
    value, grad, _ = golden.value_and_grad(made, tokens, entropy.initial_stats())
    return {"loss": value, "grad_log_prob": grad, "advantages": adapted}


def _hapo_public_microbatch(case):
    """Numerators and denominators add up over micro-batches of given sizes."""
    made, tokens = _hapo_public(case), golden.tokens(case)
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
    made = tiny.method(
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
    adapted = given.advantages(made, *golden.completions(case))
    tokens = golden.tokens(case, advantages=adapted)
    terms = given.terms(made, tokens, stats)
    value, grad, _ = golden.value_and_grad(made, tokens, stats)
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
    fields, settings = golden.sampler(case)
    made = tiny.method("dapo", clip_dual=3.0, **settings, **golden.aggregation(case))
    tokens = golden.tokens(case, **fields)
    value, grad, sums = golden.value_and_grad(made, tokens, entropy.initial_stats())
    metrics = golden.clip_metrics(sums, tokens)
    return {"loss": value, "grad_log_prob": grad, **metrics}


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
    **rivals.golden_adapters(),
}
MANIFEST = golden.manifest()
FILES = [entry["file"] for entry in MANIFEST]

pytestmark = pytest.mark.skipif(
    not MANIFEST, reason=f"no golden vectors in {golden.FOLDER}; set HAPO_GOLDEN_DIR"
)


def case(file):
    """Of several cases of a function that differ in their seed alone, one is fast."""
    again = file is not None and re.search(r"__s[1-9]", file)
    return pytest.param(file, marks=pytest.mark.slow if again else ())


@pytest.mark.parametrize("file", [case(file) for file in FILES or [None]])
def test_case(file):
    _check(file)
