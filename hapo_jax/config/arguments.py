"""From the command line to a config: the file, its argument, and `--config.KEY=VALUE`.

    --config=configs/countdown.py:method=dapo,seed=3 --config.learner.learning_rate=1e-5

`load` runs the file, with its argument behind the colon; `override` sets one key from
text.
"""

import importlib.util
import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from hapo_jax.config import defaults as config_lib
from hapo_jax.system.errors import Refused


def load(spec: str) -> ConfigDict:
    """The config of `FILE` or `FILE:ARGUMENT`.

    Raises:
      Refused: there is no such file, it has no `get_config`, or it refuses the
        argument.
    """
    name, _, argument = spec.partition(":")
    path = pathlib.Path(name)
    if not path.is_file():
        raise Refused(
            f"--config={spec}: {path} is not a file; give an experiment file such as "
            "configs/countdown.py, perhaps with its argument, as in "
            "configs/countdown.py:method=dapo."
        )
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    if module_spec is None:
        raise Refused(f"--config={spec}: {path} must be a Python file, ending in .py.")
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise Refused(
            f"--config={spec}: {path} has no function get_config(arg=None); see "
            "configs/countdown.py."
        )
    config = module.get_config(argument) if argument else module.get_config()
    if not isinstance(config, ConfigDict):
        raise Refused(
            f"--config={spec}: get_config returned {type(config).__name__} and not a "
            "ConfigDict; end it with `return config_lib.apply_method(c, ...).lock()`."
        )
    return config


def split(arguments: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Takes `--config.KEY=VALUE` out of a command line.

    `--config.KEY VALUE` is the same; `--config.KEY` alone is true and `--noconfig.KEY`
    false, for the settings that are so.

    Returns:
      (key, value) in their order, and the other arguments.
    """
    found, rest = [], []
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, value = argument.lstrip("-").partition("=")
        no = name.startswith("noconfig.")
        if argument == "--":
            rest += [argument, *waiting]
            break
        if not argument.startswith("-") or not (no or name.startswith("config.")):
            rest.append(argument)
            continue
        key = name.partition(".")[2]
        if no:
            value = "false"
        elif not equals:
            value = "true" if key in _SWITCHES else next(waiting, "")
        found.append((key, value))
    return found, rest


def override(config: ConfigDict, key: str, text: str) -> None:
    """Sets one key, in place, to what a text says in the type of its present value.

    An open section takes keys that it lacks; `check.py` compares them with what the
    task knows.

    Raises:
      Refused: there is no such key, it is a section, the text is not of its type, or
        the key is set by the file's argument alone; names key, value, rule and remedy.
    """
    said = f"--config.{key}={text}"
    if key in ("method", "settings_of"):
        if text == config.get("method", None):
            return
        raise Refused(
            f"{said}: a method is a set of settings and not a label alone; choose it "
            f"by the file's argument, --config=FILE:method={text}."
        )
    section, _, name = key.rpartition(".")
    if not config_lib.has(config, key):
        if section in config_lib.OPEN and config_lib.has(config, section) and name:
            with config.unlocked():
                config_lib.get(config, section)[name] = config_lib.literal(text)
            return
        known = [*config_lib.keys(config)]
        hint = config_lib.nearest(key, known) or _same_name(name, known)
        raise Refused(
            f"{said}: {key} is no setting{hint}; see hapo_jax/config/defaults.py."
        )
    present = config_lib.get(config, key)
    if isinstance(present, ConfigDict):
        example = next(iter(present), "KEY")
        raise Refused(
            f"{said}: {key} is a section; set what is in it, such as "
            f"--config.{key}.{example}=…"
        )
    holder = config_lib.get(config, section) if section else config
    holder[name] = config_lib.like(said, text, present)


_SWITCHES = frozenset(
    key
    for default in (config_lib.default(), config_lib.default_sft())
    for key in config_lib.keys(default)
    if isinstance(config_lib.get(default, key), bool)
)


def _same_name(name: str, known: Sequence[str]) -> str:
    """A hint for a key that is right but for its section, or an empty string."""
    same = [key for key in known if key.rpartition(".")[2] == name]
    return f" (did you mean {same[0]!r}?)" if same else ""
