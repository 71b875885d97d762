"""Settings by their whole names, such as `learner.learning_rate`."""

import difflib
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from hapo_jax.algo import settings

# Sections whose keys are options of a task or of a stage, variables of a template, or
# fields of a model's config.json.
OPEN = (
    *(f"algo.{name}" for name in settings.STAGES),
    "loss",
    "task.train",
    "task.test",
    "task.demonstrations",
    "task.words",
    "task.template_options",
    "model.sizes",
    "model.init",
)


def keys(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """Keys with their sections, as `eval.k`; an open section is one key."""
    for key, value in config.items():
        name = prefix + key
        if isinstance(value, ConfigDict) and name not in OPEN:
            yield from keys(value, f"{name}.")
        else:
            yield name


def get(config: ConfigDict, key: str) -> Any:
    """The value of a key with its section, as `eval.k`; None if there is none."""
    for part in key.split("."):
        if not isinstance(config, ConfigDict) or part not in config:
            return None
        config = config[part]
    return config


def has(config: ConfigDict, key: str) -> bool:
    """Whether the config has this key."""
    section, _, name = key.rpartition(".")
    found = get(config, section) if section else config
    return isinstance(found, ConfigDict) and name in found


def put(config: ConfigDict, key: str, value: Any) -> None:
    """Sets a key with its section; a dict takes the place of the whole section."""
    section, _, name = key.rpartition(".")
    holder = get(config, section) if section else config
    with holder.unlocked():
        if isinstance(value, dict):
            del holder[name]
            value = ConfigDict(value)
        holder[name] = value


def nearest(name: str, known) -> str:
    """` (did you mean …?)` for a misspelt name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
