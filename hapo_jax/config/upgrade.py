"""Configs of runs that earlier versions began, in today's keys and units."""

from ml_collections import ConfigDict

from hapo_jax.config import defaults
from hapo_jax.system.errors import Refused


def upgraded(saved: dict, format: int) -> dict:
    """A config from a run's config.json in today's keys and units.

    Args:
      saved: nested dicts, resolved.
      format: see `records.FORMAT`.
    """
    if format < 3 and "algo" in saved:
        saved = saved | {"algo": _with_stages(saved["algo"])}
    if format >= 2 or "learner" not in saved:
        return saved
    updates, learner = 1, dict(saved["learner"])
    if "rollout" in saved:
        saved = saved | {"settings_of": saved["method"]}
        per_pass = saved["rollout"]["batch_prompts"] / learner["minibatch_prompts"]
        updates = per_pass * learner["passes"]
    learner["schedule"] = "cosine" if learner["decay_steps"] else "constant"
    for key in ("warmup_steps", "decay_steps"):
        steps = learner[key] / updates
        learner[key] = int(steps) if steps == int(steps) else steps
    return saved | {"learner": learner}


def _with_stages(algo: dict) -> dict:
    """Advantage and aggregation were names, and the scale of one a setting."""
    algo = dict(algo)
    scale = algo.pop("aggregation_scale_tokens", 0)
    algo["advantage"] = {"name": algo["advantage"]}
    aggregation = {"name": algo["aggregation"]}
    if aggregation["name"] == "seq_mean_token_sum_norm":
        aggregation["scale_tokens"] = scale
    return algo | {"aggregation": aggregation}


def from_saved(saved: dict) -> ConfigDict:
    """The config of a run from its config.json; what that lacks has its default.

    Raises:
      Refused: it is not the config of a run of hapo-train.
    """
    if "method" not in saved:
        raise Refused(
            "the folder's config.json is not of hapo-train; give --config, and for a "
            "supervised run its hf/ as --checkpoint."
        )
    config = defaults.default()
    config.update(_tuples(saved))
    return config.lock()


def _tuples(value):
    """JSON's lists as the tuples that they were."""
    if isinstance(value, dict):
        return {key: _tuples(v) for key, v in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
