"""What every stage of every table declares, tried out on a batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hapo_jax.algo import batch_loss, methods, stages
from tests import tiny
from tests.algo import given, test_method

# Declarations; another jax says nothing new about them.
pytestmark = pytest.mark.slow
TABLES = {key.removeprefix("algo."): table for key, table in methods.TABLES.items()}
EVERY = [(section, name) for section, table in TABLES.items() for name in table]
# What a stage must be given to work, or to have an effect on the first step.
NEEDS = {
    "seq_mean_token_sum_norm": {"scale_tokens": 7.0},
    "entropy_gate": {"share": 0.2, "attenuation": "p(1-p)"},
    "entropy_gate_nats": {"nats": 1.0, "attenuation": "4p(1-p)"},
    "adaptive_entropy": {"initial": 1.0, "target": 20.0},
    "rare_failures": {"share": 1.0},
    "top_covariance": {"share": 1.0},
    "sent": dict(tau_entropy=20.0, tau_cov=0.0, beta_low=1.0, beta_high=2.0),
    "sent_code": {"share": 1.0, "tails": 0.5},
}


def _sources(section, name):
    """A stage that reads numbers per completion cannot read the current policy, and to
    one that reads no entropy it is all the same."""
    reads = set(stages.signature(TABLES[section][name])[0])
    if not reads & {"entropy", "score", "source_logprobs"}:
        return ("old",)
    of_rows = section != "advantage" and reads & stages.PER_COMPLETION
    return ("old",) if of_rows else ("old", "current")


EVERY_SOURCE = [(*stage, source) for stage in EVERY for source in _sources(*stage)]


@functools.cache
def make(section, name, source):
    """HAPO with one stage in place of its own."""
    stage = {"name": name, **NEEDS.get(name, {})}
    changes = {section: stage, "entropy_source": source}
    if section == "selection" and name != "none":
        changes |= readers(name)
    if "selected" in stages.signature(TABLES[section][name])[0]:
        changes["selection"] = {"name": "top_covariance", "share": 1.0}
    if section == "advantage":
        changes["token_group_strength"] = 0.5
    reads, _ = stages.signature(TABLES[section][name])
    if {"old_values", "returns"} & {*reads} and section != "critic":
        changes["critic"] = {"name": "value_head"}
    return tiny.method("hapo", **changes)


def readers(selection):
    """The stages that read what is selected, in the method that selects by this."""
    rows = (row.settings for row in methods.METHODS.values())
    own = next(s for s in rows if s.get("algo.selection", {}).get("name") == selection)
    keys = ("surrogate", "regulariser")
    return {key: own[f"algo.{key}"] for key in keys if f"algo.{key}" in own}


def free(tokens):
    """What a loss may have gradients in."""
    return {"logprobs": tokens.logprobs, "entropy": tokens.entropy}


def loss(made, free, tokens, constants, state):
    """(numerator, denominator) of whole rows."""
    current = tokens._replace(**free).current()
    return batch_loss.rows_loss(made, current, constants, state)[:2]


def setting(made, advantages_of_row_0):
    """Tokens with a first row whose advantages are all as given, and its constants."""
    tokens, rewards, mask, group_ids = test_method._batch()
    rows = given.rows(tokens, rewards, group_ids)
    state = made.update_state(rows, made.init_state())
    own = made.constants(rows, state)["advantages"]
    of_row = jnp.arange(len(mask))[:, None] == 0
    adapted = jnp.where(mask & of_row, advantages_of_row_0, own)
    return tokens, made.constants(rows, state, adapted), state


@pytest.mark.parametrize(("section", "name", "source"), EVERY_SOURCE)
def test_zero_advantage_is_silent_just_if_the_method_says_so(section, name, source):
    made = make(section, name, source)
    tokens, constants, state = setting(made, 0.0)

    def total(free, values):
        numerator, _ = loss(made, free, tokens, constants, state)
        if made.has_critic:
            ones = jnp.ones(values.shape)
            numerator += batch_loss.critic_loss(made, values, constants, ones)[0]
        return numerator

    zeros = jnp.zeros(tokens.mask.shape)
    grads = jax.grad(total, argnums=(0, 1))(free(tokens), zeros)
    noisy = any(np.any(np.asarray(g)[0]) for g in jax.tree.leaves(grads))
    assert noisy != made.silent_at_zero


@pytest.mark.parametrize(("section", "name", "source"), EVERY_SOURCE)
def test_shuffled_tokens_give_the_same_loss_unless_it_is_by_rows(section, name, source):
    made = make(section, name, source)
    if made.by_rows:
        pytest.skip("needs whole rows, and the learner gives it those")
    tokens, constants, state = setting(made, 1.0)
    counted = constants.get("counted", tokens.mask)
    weights, _ = made.aggregate(counted)
    order = np.random.default_rng(0).permutation(tokens.mask.size)
    loose, shuffled, weights = jax.tree.map(
        lambda x: x.reshape(-1, 1)[order], (tokens, constants, weights)
    )

    def in_any_order(free):
        current = loose._replace(**free).current()
        return batch_loss.token_loss(made, current, shuffled, weights, state)[0]

    same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    value, grads = jax.value_and_grad(in_any_order)(free(loose))
    expected, expected_grads = jax.value_and_grad(
        lambda x: loss(made, x, tokens, constants, state)[0]
    )(free(tokens))
    same(value, expected)
    for name, grad in expected_grads.items():
        same(grads[name], grad.reshape(-1, 1)[order])


@pytest.mark.parametrize(("section", "name"), EVERY)
def test_a_stage_reads_what_there_is_and_declares_its_options(section, name):
    function = TABLES[section][name]
    reads, options = stages.signature(function)
    assert set(reads) <= stages.NAMES.keys()
    declared = function.declared
    assert set(declared.options) <= {*options, "singleton", "fallback"}
    for option, parameter in options.items():
        default = parameter.default
        legal = declared.options.get(option)
        if isinstance(legal, tuple):
            assert default is parameter.empty or default in legal
        elif legal is not None and default is not parameter.empty:
            assert legal.holds(default)
    assert function.__doc__
