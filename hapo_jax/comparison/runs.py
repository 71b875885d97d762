"""The runs that are compared, by variant and seed, with their evaluations."""

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hapo_jax.config import dotted, upgrade
from hapo_jax.evaluation import figures
from hapo_jax.runs import changes, inputs, records
from hapo_jax.sweeps import sweep_folder
from hapo_jax.system.errors import Refused

# What runs may be drawn over: name → the metric that counts it, and its unit.
AXES = {
    "steps": ("step", "steps"),
    "sampled_tokens": ("ledger/total_sampled_tokens", "sampled tokens"),
    "seconds": ("time/total", "seconds"),
}
# Settings that two runs of a pair must share, lest the difference is one of tasks or
# of starts.
_SHARED = ("seed", "task.name", "task.train", "task.test", "model")
# And what of their inputs, see `runs/inputs.py`.
_INPUTS = ("task.train", "tokenizer", "weights")
_PREFIX = "eval/"
NOT_BEGUN = ": not begun"  # behind a folder that is left out


class Curve(NamedTuple):
    """A metric of a run, evaluation by evaluation.

    Attributes:
      steps: [E] that were evaluated.
      axis: [E] where they are on the axis that was asked for.
      values: [E, P] by problem, or [E, 1] where there is one value per evaluation.
      problems: [P] their names; one empty name where there is one value.
    """

    steps: np.ndarray
    axis: np.ndarray
    values: np.ndarray
    problems: tuple[str, ...]


class Run(NamedTuple):
    """A run that is at its end.

    Attributes:
      folder: of the run.
      seed: of its config.
      config: as nested dicts.
      curve: of the metric.
      protocol: number of its evaluations', equal where they can be compared.
      cost: last values of the ledger: tokens, updates, seconds.
    """

    folder: pathlib.Path
    seed: int
    config: dict[str, Any]
    curve: Curve
    protocol: float | None
    cost: dict[str, float]


class Found(NamedTuple):
    """What there is to compare.

    Attributes:
      groups: variant → seed → run.
      left_out: folders whose run is not at its end, and why, in words.
      metric, over: as asked for.
    """

    groups: dict[str, dict[int, Run]]
    left_out: list[str]
    metric: str
    over: str


def read(
    paths: Sequence[str | pathlib.Path],
    *,
    metric: str,
    over: str = "steps",
    by: str = "",
) -> Found:
    """Reads runs, and the runs of sweeps.

    Args:
      paths: folders of runs or of sweeps.
      metric: such as eval/avg@8, or eval/SET/avg@8; any other one of metrics.jsonl.
      over: a key of AXES.
      by: what makes a variant: a key of the config, such as method; empty: the group
        of a sweep's variant, and the method of a run that is of no sweep.

    Raises:
      Refused: a folder is neither, a run has no such metric, or two runs are of one
        variant and seed.
    """
    groups: dict[str, dict[int, Run]] = {}
    left_out: list[str] = []
    for name, path in _folders(paths, left_out):
        state = sweep_folder.progress(path)
        if not state.finished:
            left_out.append(f"{path}: at step {state.step}, not at its end")
            continue
        config = records.read_config(path)
        variant = _group(config, by, name, path)
        run = Run(
            folder=path,
            seed=config["seed"],
            config=config,
            curve=curve(path, metric, over),
            protocol=state.metrics.get(figures.PROTOCOL),
            cost={k: v for k, v in state.metrics.items() if _is_cost(k)},
        )
        seeds = groups.setdefault(variant, {})
        if run.seed in seeds:
            raise Refused(
                f"{path} and {seeds[run.seed].folder} are both {variant} with seed "
                f"{run.seed}; leave one out, or part them with --by=KEY."
            )
        seeds[run.seed] = run
    if not groups:
        told = "".join(f"\n  {line}" for line in left_out)
        raise Refused(f"no run is at its end.{told}")
    return Found(groups=groups, left_out=left_out, metric=metric, over=over)


def _folders(paths: Sequence[str | pathlib.Path], left_out: list[str]):
    """(variant's group or empty, folder) of every run."""
    for path in map(pathlib.Path, paths):
        if (path / sweep_folder.FILE).exists():
            sweep = sweep_folder.read(path)
            for variant in sweep.variants:
                at = sweep.run_folder(variant)
                if (at / records.CONFIG).exists():
                    yield variant.group, at
                else:
                    left_out.append(f"{at}{NOT_BEGUN}")
        elif (path / records.CONFIG).exists():
            yield "", path
        else:
            raise Refused(f"{path} is the folder of no run and of no sweep.")


def _group(config: Mapping[str, Any], by: str, name: str, path: pathlib.Path) -> str:
    if not by:
        return name or str(config.get("method", path.name))
    value: Any = config
    for part in by.split("."):
        if not isinstance(value, Mapping) or part not in value:
            known = [*dotted.keys(upgrade.from_saved(dict(config)))]
            hint = dotted.nearest(by, known)
            raise Refused(f"--by={by}: {path} has no such setting{hint}.")
        value = value[part]
    return str(value)


def _is_cost(key: str) -> bool:
    return key.startswith("ledger/total_") or key == "time/total"


def curve(path: pathlib.Path, metric: str, over: str) -> Curve:
    """A metric of a run; see `Curve`.

    Raises:
      Refused: the run has no such metric.
    """
    lines = records.read_metrics(path)
    counted, _ = AXES[over]
    at: dict[int, float] = {}
    last = 0.0
    for line in lines:  # an evaluation's line is its step's
        last = line.get(counted, last)
        at[line["step"]] = last
    steps = [line["step"] for line in lines if metric in line]
    if not steps:
        known = sorted({k for line in lines for k in line if k.startswith(_PREFIX)})
        known = [k for k in known if not k.endswith(("_low", "_high"))]
        raise Refused(
            f"--metric={metric}: {path} has none{dotted.nearest(metric, known)}; "
            f"it has {', '.join(known)}."
        )
    by_problem = [_by_problem(path, step, metric) for step in steps]
    if all(found is not None for found in by_problem):
        problems = [*by_problem[0]]
        shared = all(found.keys() == by_problem[0].keys() for found in by_problem)
        if shared:
            values = [[found[p] for p in problems] for found in by_problem]
            return Curve(
                steps=np.array(steps),
                axis=np.array([at[step] for step in steps], np.float64),
                values=np.array(values, np.float64),
                problems=tuple(problems),
            )
    values = [[line[metric]] for line in lines if metric in line]
    return Curve(
        steps=np.array(steps),
        axis=np.array([at[step] for step in steps], np.float64),
        values=np.array(values, np.float64),
        problems=("",),
    )


def _by_problem(path: pathlib.Path, step: int, metric: str) -> dict[str, float] | None:
    """The metric of each problem of an evaluation; None if it is not one of those."""
    if not metric.startswith(_PREFIX) or step not in records.eval_steps(path):
        return None
    *named, figure = metric.removeprefix(_PREFIX).split("/")
    found = [r for r in records.read_eval(path, step) if "scores" in r]
    sets = [*dict.fromkeys(r.get("set", "") for r in found)]
    wanted = "/".join(named) if named else next(iter(sets), "")
    found = [r for r in found if r.get("set", "") == wanted]
    if not found:
        return None
    name, _, number = figure.partition("@")
    passes = [int(number)] if name == "pass" and number.isdigit() else []
    values = figures.per_problem(found, passes).get(figure)
    if values is None or name == "entropy":  # whose mean is over tokens
        return None
    return dict(zip((r["id"] for r in found), values.tolist(), strict=True))


def check_pair(a: Run, b: Run, over: str) -> None:
    """Refuses two runs of one seed whose difference over an axis would not be the
    method's.

    Raises:
      Refused: names what differs.
    """
    told = []
    for key in _SHARED:
        before, after = _section(a.config, key), _section(b.config, key)
        told += [str(change) for change in changes.between(before, after)]
    saved, given = inputs.read(a.folder), inputs.read(b.folder)
    if saved and given:
        both = [{k: v for k, v in i.items() if k in _INPUTS} for i in (saved, given)]
        told += inputs.differences(*both)
    if a.protocol != b.protocol:
        told.append("they were evaluated under other protocols (see eval.*)")
    if a.curve.problems != b.curve.problems:
        told.append("they were evaluated on other problems")
    ends = a.curve.steps[-1], b.curve.steps[-1]
    if over == "steps" and ends[0] != ends[1]:
        told.append(
            f"one ends at step {ends[0]} and the other at {ends[1]}; runs that end by "
            "a budget are compared with --over=sampled_tokens"
        )
    if told:
        listing = "\n".join(f"  {line}" for line in told)
        raise Refused(f"{a.folder} and {b.folder} cannot be paired:\n{listing}")


def _section(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A part of a config, {key: value}."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part, {}) if isinstance(value, Mapping) else {}
    return dict(_flat(value, key))


def _flat(value: Any, prefix: str) -> Iterable[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield prefix, value
        return
    for key, inner in value.items():
        yield from _flat(inner, f"{prefix}.{key}")


def mean_cost(runs: Iterable[Run]) -> dict[str, float]:
    """Means over runs of what they have cost."""
    every = [run.cost for run in runs]
    keys = dict.fromkeys(key for cost in every for key in cost)
    return {
        key: float(np.mean([cost.get(key, math.nan) for cost in every])) for key in keys
    }
