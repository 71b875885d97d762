"""Sets of settings by name: methods, and protocols of evaluation.

A method is DAPO, GRPO, … by its settings alone (`algo/methods.py`); nothing in the code
asks its name.
"""

from typing import Any

from ml_collections import ConfigDict

from hapo_jax.algo.methods import METHODS
from hapo_jax.algo.not_offered import NOT_OFFERED
from hapo_jax.config import defaults, dotted
from hapo_jax.system.errors import Refused

# Protocols of papers: settings of the section `eval`.
EVAL_PRESETS = {
    "hapo": dict(temperature=0.5, top_p=0.7, k=8, num_problems=0, greedy=False),
    "dapo": dict(temperature=1.0, top_p=0.7, k=32, num_problems=0, greedy=False),
}


def apply_preset(config: ConfigDict, name: str) -> ConfigDict:
    """Sets `config.eval` to a protocol; returns the config.

    Raises:
      Refused: the protocol is unknown.
    """
    if name not in EVAL_PRESETS:
        raise Refused(
            f"--preset={name!r} is unknown{dotted.nearest(name, EVAL_PRESETS)}; "
            f"there are {', '.join(EVAL_PRESETS)}."
        )
    config.eval.update(EVAL_PRESETS[name])
    return config


def apply_method(config: ConfigDict, name: str) -> ConfigDict:
    """Sets what the method sets and leaves the rest; returns the config.

    Raises:
      Refused: the method is unknown, or known too little of.
    """
    if missing := NOT_OFFERED.get(name):
        raise Refused(
            f"method={name!r} is not offered. Known of {missing.source}: "
            f"{missing.known}. Missing: {missing.missing}. See docs/methods.md."
        )
    if name not in METHODS:
        raise Refused(
            f"method={name!r} is unknown{dotted.nearest(name, METHODS)}; "
            f"there are {', '.join(METHODS)}."
        )
    config.method = config.settings_of = name
    for key, value in METHODS[name].settings.items():
        dotted.put(config, key, value)
    return config


def departures(config: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """Settings of `algo` that are not the method's: key → (the config's, the method's).

    Args:
      config: before `resolve`, so that what follows from other settings is left open.
    """
    own = apply_method(defaults.default(), config.method)
    found = {
        key: (_plain(dotted.get(config, key)), _plain(dotted.get(own, key)))
        for key in dotted.keys(own)
        if key.startswith("algo.")
    }
    return {key: pair for key, pair in found.items() if pair[0] != pair[1]}


def _plain(value: Any) -> Any:
    """A section as a dict, which compares by what it holds."""
    return value.to_dict() if isinstance(value, ConfigDict) else value
