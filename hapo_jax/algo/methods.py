"""All methods by name, and all stages by section and name."""

from collections.abc import Callable, Mapping

from hapo_jax.algo import (
    advantages,
    clipping,
    critics,
    kl,
    losses,
    masks,
    phases,
    rivals,
    selections,
    shaping,
    supervised,
)
from hapo_jax.algo.row import DAPO, GRPO, Row

_OWN_STAGES = {
    "algo.advantage": advantages.ADVANTAGES,
    "algo.ratio": losses.RATIOS,
    "algo.clip_range": clipping.CLIP_RANGES,
    "algo.shaping": shaping.SHAPINGS,
    "algo.selection": selections.SELECTIONS,
    "algo.surrogate": losses.SURROGATES | supervised.LOSSES,
    "algo.mask": masks.MASKS,
    "algo.regulariser": kl.REGULARISERS,
    "algo.aggregation": losses.AGGREGATIONS,
    "algo.critic": critics.CRITICS,
    "algo.imitation": supervised.LOSSES,
    "algo.phases": phases.PHASES,
}
_OWN_METHODS = {
    "hapo": Row({}, source="arXiv 2509.16591, §A to §D"),
    # The published code in place of the paper's equations; docs/paper.md.
    "hapo_public": Row(
        {
            "algo.entropy.low_sign": "public",
            "algo.entropy.spread": "quantile_rms",
            "algo.entropy.source": "current",
            "algo.entropy.scope": "micro",
            "algo.temperature.score": "scaled",
            "algo.temperature.strength": 0.05,
            "algo.advantage_fallback": 5.0,
            "algo.clip.high": 0.2,
            "algo.clip.dual": 10.0,
            "algo.clip.log_ratio": 0.0,
            "algo.aggregation": {"name": "token_mean_micro"},
            "rollout.dynamic_sampling": False,
            "reward.wrong": -1.0,
        },
        source="the published code of arXiv 2509.16591; docs/paper.md",
    ),
    "dapo": Row(DAPO, source="arXiv 2503.14476, Eq. (8) to (13)"),
    "grpo": Row({**GRPO, "algo.kl.strength": 0.04}, source="arXiv 2402.03300, Eq. (3)"),
    "dr_grpo": Row(
        {
            **GRPO,
            "algo.advantage": {"name": "dr_grpo"},
            "algo.aggregation": {"name": "seq_mean_token_sum_norm"},
        },
        source="arXiv 2503.20783",
    ),
    "rloo": Row(
        {
            **GRPO,
            "algo.advantage": {"name": "rloo"},
            "algo.aggregation": {"name": "token_mean"},
        },
        source="arXiv 2402.14740",
        open="with PPO's clipped ratio, as in verl; the paper's loss is REINFORCE",
    ),
    "opo": Row(
        {
            **GRPO,
            "algo.advantage": {"name": "opo"},
            "algo.surrogate": {"name": "reinforce"},
            "algo.aggregation": {"name": "token_mean"},
        },
        source="arXiv 2505.23585",
        open="strictly on-policy only with one update per batch: set "
        "learner.minibatch_prompts to rollout.batch_prompts",
    ),
    "reinforce_pp": Row(
        {
            **GRPO,
            "algo.advantage": {"name": "reinforce_pp"},
            "algo.aggregation": {"name": "token_mean"},
        },
        source="arXiv 2501.03262",
    ),
    "reinforce_pp_baseline": Row(
        {
            **GRPO,
            "algo.advantage": {"name": "reinforce_pp_baseline"},
            "algo.aggregation": {"name": "token_mean"},
        },
        source="arXiv 2501.03262",
    ),
}


def _tables() -> dict[str, dict[str, Callable]]:
    """Each section's stages, those of rivals behind the others."""
    tables = {section: dict(table) for section, table in _OWN_STAGES.items()}
    for module in rivals.MODULES:
        for section, own in module.STAGES.items():
            assert not own.keys() & tables[section].keys(), "a name twice"
            tables[section] |= own
    return tables


# {section: {name: function}}; `settings.STAGES` are the same sections.
TABLES: Mapping[str, Mapping[str, Callable]] = _tables()
METHODS: Mapping[str, Row] = _OWN_METHODS | {
    name: row for module in rivals.MODULES for name, row in module.METHODS.items()
}
