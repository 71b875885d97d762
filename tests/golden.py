"""Reads archives of reference outputs, and the loss of ours on their inputs.

The archives lie in $HAPO_GOLDEN_DIR, one per case, with a manifest. Adapters take a
case to what this package gives for it; they are in `test_golden.py`, and those of
rivals as `GOLDEN` beside their other tests.
"""

import json
import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hapo_jax.algo import kl, masked
from tests.algo import given

_BESIDE = pathlib.Path(__file__).parents[2] / "shared" / "golden" / "public"
FOLDER = pathlib.Path(os.environ.get("HAPO_GOLDEN_DIR", _BESIDE))


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


def load(file: str) -> Case:
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


def manifest() -> list[dict[str, Any]]:
    """The archives there are; none without the folder, and then all tests skip."""
    path = FOLDER / "manifest.json"
    return json.loads(path.read_text())["files"] if path.exists() else []


def tokens(case, **fields):
    """The case as Tokens; what it has not, no stage of the tests reads."""
    inputs = case.inputs
    zeros = jnp.zeros(case.mask.shape)
    numbers = {
        "logprobs": inputs["log_prob"],
        "entropy": inputs.get("entropy", zeros),
        "old_logprobs": inputs["old_log_prob"],
        "old_entropy": inputs.get("entropy", zeros),
        "behavior_logprobs": inputs["old_log_prob"],
        "reference_logprobs": None,
        "advantages": inputs.get("advantages", zeros),
        "mask": case.mask,
    }
    return given.Tokens(**{**numbers, **fields})


def completions(case):
    """(rewards, mask, group_ids) of a case with its reward at the last token."""
    total = jnp.sum(case.inputs["token_level_rewards"], axis=1)
    return total, case.mask, case.inputs["group_index"].astype(jnp.int32)


def sampler(case):
    """(fields of Tokens, settings) for the importance weights of a case, if it has any.

    The log-probs are those of a sampler that the weights are ratios against.
    """
    weights = case.inputs.get("rollout_is_weights")
    if weights is None:
        return {}, {}
    safe = jnp.where(case.mask, weights, 1)
    return (
        {"behavior_logprobs": case.inputs["old_log_prob"] - jnp.log(safe)},
        {"importance_mode": "token", "importance_cap": 1e6},
    )


def value_and_grad(made, tokens, stats, **constants):
    """(loss, its gradient in log-probs, sums) of one micro-batch; constants in place of
    the method's own."""

    def mean(logprobs):
        tokens_here = tokens._replace(logprobs=logprobs)
        numerator, denominator, sums = given.loss(made, tokens_here, stats, **constants)
        return numerator / jnp.where(denominator == 0, 1, denominator), sums

    (value, sums), grad = jax.value_and_grad(mean, has_aux=True)(tokens.logprobs)
    return value, grad, sums


def aggregation(case):
    """Settings for an aggregation of the references, by their name for it."""
    name = case.config["loss_agg_mode"].replace("-", "_")
    if name != "seq_mean_token_sum_norm":
        return {"aggregation": {"name": name}}
    return {"aggregation": {"name": name, "scale_tokens": case.mask.shape[1]}}


def clip_metrics(sums, tokens):
    """The references' metrics; they count all tokens, ours those with signal."""
    count = tokens.mask.sum()
    old_kl = kl.estimate(tokens.old_logprobs, tokens.logprobs, estimator="k1")
    return {
        "pg_clipfrac": num_clipped(sums) / count,
        "ppo_kl": masked.mean(old_kl, tokens.mask),
        "pg_clipfrac_lower": sums["clip/frac_dual"][0] / count,
    }


def num_clipped(sums):
    return sums["clip/frac_low"][0] + sums["clip/frac_high"][0]
