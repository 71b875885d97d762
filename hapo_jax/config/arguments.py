"""From the command line to a config: the file, its argument, and `--config.KEY=VALUE`.

    --config=configs/countdown.py:method=dapo,seed=3 --config.learner.learning_rate=1e-5

`load` runs the file, which reads its argument, behind the colon, by `parse_arg`;
`override` sets one key from text.
"""

import ast
import importlib.util
import pathlib
import types
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from hapo_jax.config import defaults, dotted, ranges
from hapo_jax.system.errors import Refused


def load(spec: str) -> ConfigDict:
    """The config of `FILE` or `FILE:ARGUMENT`.

    Raises:
      Refused: there is no such file, it has no `get_config`, or it refuses the
        argument.
    """
    name, _, argument = spec.partition(":")
    module = load_file(name, spec)
    if not hasattr(module, "get_config"):
        raise Refused(
            f"--config={spec}: {name} has no function get_config(arg=None); see "
            "configs/countdown.py."
        )
    config = module.get_config(argument) if argument else module.get_config()
    if not isinstance(config, ConfigDict):
        raise Refused(
            f"--config={spec}: get_config returned {type(config).__name__} and not a "
            "ConfigDict; end it with `return presets.apply_method(c, ...).lock()`."
        )
    return config


def load_file(name: str, spec: str) -> types.ModuleType:
    """An experiment file, run; `spec` is what --config says of it.

    Raises:
      Refused: there is no such file, or it is not Python.
    """
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
    return module


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
    if not dotted.has(config, key):
        if section in dotted.OPEN and dotted.has(config, section) and name:
            with config.unlocked():
                dotted.get(config, section)[name] = literal(text)
            return
        known = [*dotted.keys(config)]
        hint = dotted.nearest(key, known) or _same_name(name, known)
        raise Refused(
            f"{said}: {key} is no setting{hint}; see hapo_jax/config/defaults.py."
        )
    present = dotted.get(config, key)
    if isinstance(present, ConfigDict):
        example = next(iter(present), "KEY")
        raise Refused(
            f"{said}: {key} is a section; set what is in it, such as "
            f"--config.{key}.{example}=…"
        )
    holder = dotted.get(config, section) if section else config
    word = ranges.RANGES[key].word if key in ranges.RANGES else ""
    if not word:
        holder[name] = like(said, text, present)
        return
    value = text if text == word else like(said, text, 0)
    with holder.ignore_type():  # the one or the other, whichever it is so far
        holder[name] = value


_SWITCHES = frozenset(
    key
    for default in (defaults.default(), defaults.default_sft())
    for key in dotted.keys(default)
    if isinstance(dotted.get(default, key), bool)
)


def _same_name(name: str, known: Sequence[str]) -> str:
    """A hint for a key that is right but for its section, or an empty string."""
    same = [key for key in known if key.rpartition(".")[2] == name]
    return f" (did you mean {same[0]!r}?)" if same else ""


def parse_arg(arg: str | None, **known):
    """Reads the argument string of a config: `configs/x.py:method=dapo,seed=3,tiny`.

    Args:
      arg: comma-separated `key=value`, or `key` alone for True; None is empty.
      **known: the keys that the config knows, with their defaults, whose types the
        values take.

    Returns:
      ConfigDict of the defaults with the given values.

    Raises:
      Refused: an unknown key, or a value that is not of the default's type.
    """
    values = dict(known)
    for part in filter(None, (arg or "").split(",")):
        key, _, text = part.partition("=")
        if key not in known:
            raise Refused(
                f"config argument {key!r} is unknown"
                f"{dotted.nearest(key, known)}; this config takes "
                f"{', '.join(known) or 'none'}."
            )
        said = f"config argument {key}={text!r}"
        if isinstance(known[key], bool) and not text:
            text = "true"
        values[key] = like(said, text, known[key])
    return ConfigDict(values)


def like(said: str, text: str, like: Any):
    """A text as a value of the type of `like`."""
    if isinstance(like, bool):
        if text.lower() not in ("true", "false", "1", "0"):
            raise Refused(f"{said} must be true or false.")
        return text.lower() in ("true", "1")
    if isinstance(like, tuple | list):
        value = literal(text)
        return type(like)(value if isinstance(value, tuple | list) else (text,))
    if like is None:
        return literal(text)
    try:
        return type(like)(text)
    except ValueError:
        raise Refused(f"{said} must be of type {type(like).__name__}.") from None


def literal(text: str):
    """A Python literal, true and false in any case, or the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
