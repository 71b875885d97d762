"""The variants of an experiment file: each a name and what it changes.

A change is a key and its value. `learner.learning_rate` is a key of the config;
`:method` is one of the file's argument, as in `--config=FILE:method=dapo`.
"""

import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from hapo_jax.config import arguments, dotted
from hapo_jax.system.errors import Refused

SEED = "seed"
_DEFAULT = "sweep"  # the function of the file; those of other names are sweep_NAME
# What a folder may be called everywhere.
_UNSAFE = re.compile(r"[^A-Za-z0-9.=+_-]+")
_LONGEST_NAME = 120

Changes = dict[str, Any]


class Variant(NamedTuple):
    """One run of a sweep.

    Attributes:
      name: of its folder: the group, and `+seed=N` where the seed is changed.
      group: of the runs that differ in their seed alone, which are compared as one.
      changes: what it changes, in the order that was given.
    """

    name: str
    group: str
    changes: Changes

    @property
    def seed(self) -> int | None:
        """The seed that it sets, if it sets one."""
        return self.changes.get(SEED)


class Experiment(NamedTuple):
    """What all variants of a sweep have in common.

    Attributes:
      file: the experiment file.
      arguments: of the file, `KEY=VALUE` each; without `sweep=NAME`.
      overrides: (key, value) of the command line's `--config.KEY=VALUE`.
    """

    file: str
    arguments: tuple[str, ...] = ()
    overrides: tuple[tuple[str, str], ...] = ()

    def spec(self, changes: Mapping[str, Any] | None = None) -> str:
        """The `--config` of a variant: the file with its argument."""
        values = dict(part.partition("=")[::2] for part in self.arguments)
        for key, value in (changes or {}).items():
            if key.startswith(":"):
                values[key[1:]] = text(value)
        said = ",".join(f"{k}={v}" if v else k for k, v in values.items())
        return f"{self.file}:{said}" if said else self.file

    def sets(self, changes: Mapping[str, Any]) -> list[tuple[str, str]]:
        """The `--config.KEY=VALUE` of a variant, as (key, value)."""
        own = [(k, text(v)) for k, v in changes.items() if not k.startswith(":")]
        return [*self.overrides, *own]

    def flags(self, changes: Mapping[str, Any]) -> list[str]:
        """The flags of a variant's run."""
        sets = (f"--config.{key}={value}" for key, value in self.sets(changes))
        return [f"--config={self.spec(changes)}", *sets]

    def config(self, changes: Mapping[str, Any]) -> ConfigDict:
        """The config that a variant's run begins with.

        Raises:
          Refused: a key or a value cannot be.
        """
        config = arguments.load(self.spec(changes))
        for key, value in self.sets(changes):
            arguments.override(config, key, value)
        return config


def product(axes: Mapping[str, Collection[Any]]) -> Iterator[Changes]:
    """Every combination of the axes' values, the last axis the fastest."""
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values))


def zipped(axes: Mapping[str, Collection[Any]]) -> Iterator[Changes]:
    """The first values of all axes, the second ones, and so on.

    Raises:
      Refused: the axes are not of one length.
    """
    lengths = {key: len(values) for key, values in axes.items()}
    if len({*lengths.values()}) > 1:
        told = ", ".join(f"{key} has {n}" for key, n in lengths.items())
        raise Refused(f"zipped: axes must be of one length, and {told} values.")
    for values in zip(*axes.values()):
        yield dict(zip(axes, values))


def read(spec: str, overrides: Sequence[tuple[str, str]] = ()):
    """The experiment and the variants that `FILE[:sweep=NAME,…]` describes.

    Args:
      spec: of --config; `sweep=NAME` in its argument picks `sweep_NAME(add)`, and
        without it there must be `sweep(add)`.
      overrides: (key, value) for all variants.

    Returns:
      Experiment, and its variants in the order in which they were added.

    Raises:
      Refused: the file has no such sweep, two variants have one name, or a name
        cannot be that of a folder.
    """
    experiment, name = split(spec, overrides)
    found: dict[str, Variant] = {}

    def add(changes: Mapping[str, Any], *, name: str = "") -> None:
        made = variant(changes, name)
        if made.name in found:
            raise Refused(
                f"--config={spec}: two variants are called {made.name!r}; give one of "
                "them another name, add(changes, name=…)."
            )
        found[made.name] = made

    _function(experiment.file, spec, name)(add)
    if not found:
        raise Refused(f"--config={spec}: the sweep has added no variant.")
    return experiment, list(found.values())


def split(
    spec: str, overrides: Sequence[tuple[str, str]] = ()
) -> tuple[Experiment, str]:
    """The experiment, and the name of its sweep; see `read`."""
    file, _, argument = spec.partition(":")
    parts = [part for part in argument.split(",") if part]
    names = [p.partition("=")[2] for p in parts if p.partition("=")[0] == "sweep"]
    rest = tuple(p for p in parts if p.partition("=")[0] != "sweep")
    if len(names) > 1:
        raise Refused(f"--config={spec}: give one sweep=NAME.")
    experiment = Experiment(file=file, arguments=rest, overrides=tuple(overrides))
    return experiment, names[0] if names else ""


def variant(changes: Mapping[str, Any], name: str = "") -> Variant:
    """A variant, whose name tells its changes unless one is given."""
    if not isinstance(changes, Mapping):
        raise Refused(
            f"add({changes!r}): changes are a dict of keys and values, such as "
            '{":method": "dapo", "seed": 3}.'
        )
    others = {key: value for key, value in changes.items() if key != SEED}
    group = name or "+".join(
        f"{_short(k, others)}={text(v)}" for k, v in others.items()
    )
    group = _UNSAFE.sub("_", group or "base").strip("_+.") or "base"
    if len(group) > _LONGEST_NAME:
        raise Refused(
            f"add({dict(changes)}): the name of its folder would have {len(group)} "
            f"characters, and at most {_LONGEST_NAME} will do; give one, add(changes, "
            "name=…)."
        )
    own = f"{group}+seed={changes[SEED]}" if SEED in changes else group
    return Variant(name=own, group=group, changes=dict(changes))


def _short(key: str, others: Collection[str]) -> str:
    """The last word of a key, if no other key ends in it."""
    last = re.split(r"[.:]", key)[-1]
    same = [k for k in others if re.split(r"[.:]", k)[-1] == last]
    return last if len(same) == 1 else key.lstrip(":")


def text(value: Any) -> str:
    """A value as a flag says it."""
    return value if isinstance(value, str) else repr(value)


def _function(file: str, spec: str, name: str) -> Callable:
    """The function of the file that adds the variants."""
    module = arguments.load_file(file, spec)
    there = {
        key.removeprefix(f"{_DEFAULT}_") if key != _DEFAULT else "": value
        for key, value in vars(module).items()
        if callable(value) and (key == _DEFAULT or key.startswith(f"{_DEFAULT}_"))
    }
    if name in there:
        return there[name]
    names = [n for n in there if n]
    if not there:
        raise Refused(
            f"--config={spec}: {file} has no function sweep(add) or sweep_NAME(add); "
            "see docs/sweeps.md."
        )
    if not name:
        raise Refused(
            f"--config={spec}: {file} has several sweeps; choose one with "
            f"--config={file}:sweep=NAME, of {', '.join(names)}."
        )
    hint = dotted.nearest(name, names)
    raise Refused(
        f"--config={spec}: {file} has no function sweep_{name}{hint}; there are "
        f"{', '.join(names) or 'sweep alone'}."
    )
