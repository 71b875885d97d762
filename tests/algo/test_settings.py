import math

import pytest

from hapo_jax.algo import methods, settings
from hapo_jax.config import defaults
from tests import tiny


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"advantage": "ppo"}, r"algo.advantage.name='ppo' must be one of grpo, dr"),
        ({"singleton": "raw"}, r"algo.singleton='raw'"),
        ({"entropy_scope": "mini"}, r"algo.entropy.scope='mini'"),
        ({"aggregation": "mean"}, r"algo.aggregation.name='mean'"),
        ({"clip_low": math.nan}, r"algo.clip.low=nan must be a number in \(0, 1\]"),
        ({"clip_low": math.inf}, r"algo.clip.low=inf must be a number in"),
        ({"clip_low": "0.2"}, r"algo.clip.low='0.2' must be a number in"),
        ({"clip_low": True}, r"algo.clip.low=True must be a number in"),
        ({"clip_low": 0.0}, r"algo.clip.low=0.0 must be a number in \(0"),
        (
            {"clip_low": 0.6, "clip_strength": 1.0},
            r"algo.clip.low=0.6 .*algo.clip.strength.*at most 1.*lower either",
        ),
        ({"clip_high": -0.1}, r"algo.clip.high=-0.1 must be a number in \(0"),
        ({"clip_strength": -1.0}, r"algo.clip.strength=-1.0 must be a number in \[0"),
        ({"clip_dual": 1.0}, r"algo.clip.dual=1.0 must be 0 or a number in \(1"),
        ({"clip_log_ratio": 0.1}, r"algo.clip.log_ratio=0.1 must be above 0.247"),
        (
            {"clip_log_ratio": 1.0, "clip_dual": 3.0},
            r"algo.clip.log_ratio=1.0 must be above 1.1 nats",
        ),
        ({"redistribution_strength": 1.5}, r"algo.redistribution.strength=1.5 .*\[0"),
        ({"token_group_strength": -0.5}, r"algo.token_group.strength=-0.5 .*\[0, 1\]"),
        (
            {"entropy_quantile": 1.2},
            r"algo.entropy.quantile=1.2 .*in \[0, 1\]",
        ),
        ({"entropy_quantile": 1 / 3}, r"algo.entropy.quantile=0.33.*four decimals"),
        ({"entropy_control": "mean"}, r"algo.entropy.control='mean' must be one of"),
        (
            {"entropy_control": "shuffled", "entropy_source": "current"},
            r"algo.entropy.control='shuffled' must be 'none' unless algo.entropy",
        ),
        ({"entropy_floor": 0.0}, r"algo.entropy.floor=0.0 must be a number in \(0, 1"),
        ({"temperature_strength": -0.1}, r"algo.temperature.strength=-0.1"),
        ({"temperature_min_factor": 0.0}, r"algo.temperature.min_factor=0.0 .*\(0, 1"),
        ({"temperature_max_factor": 0.9}, r"algo.temperature.max_factor=0.9 .*\[1, 1e"),
        (
            {"kl_strength": 0.1, "kl_estimator": "k1"},
            r"algo.kl.estimator='k1' .*expected gradient is 0; use k1\+",
        ),
        (
            {"importance_mode": "token", "importance_cap": 0.5},
            r"algo.importance.cap=0.5 must be a number in \[1",
        ),
        (
            {"importance_mode": "icepop", "importance_floor": 1.5},
            r"algo.importance.floor=1.5 .*\[0, 1\)",
        ),
    ],
)
def test_nonsense_is_refused_with_key_value_rule_and_remedy(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny.method("dapo", **changes)


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_of_the_configs_can_be_made(name):
    made, chosen = tiny.method(name), tiny.settings(name)
    assert made.needs_reference or not chosen.kl.strength
    if "entropy" in made.outputs and not made.differentiates_entropy:
        assert chosen.entropy.source == "current"
    assert made.by_rows or not made.across_rows


def test_the_section_of_a_config_and_the_settings_are_the_same():
    assert settings.of(defaults.default().algo.to_dict()) == settings.Settings()
    assert settings.defaults() == defaults.default().algo.to_dict()
