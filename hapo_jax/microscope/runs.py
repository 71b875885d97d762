"""What the page knows of a run besides its tokens: settings, curves, findings."""

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hapo_jax.doctor import doctor, program
from hapo_jax.doctor.evidence import Finding
from hapo_jax.evaluation import figures as figures_lib
from hapo_jax.microscope import block, columns, thinning
from hapo_jax.runs import alarms, records
from hapo_jax.system.errors import Refused

FINDINGS = (alarms.PREFIX, doctor.PREFIX)  # begin the metrics that say one was made
# What an alarm means; docs/faults.md says what to do.
MEANS = {
    "uniform_policy": "the policy draws tokens at random",
    "certain_policy": "the policy is certain of every token",
    "ungraded": "nearly all completions ran the verifier out of time or broke it",
    "truncated": "nearly all completions are cut off at the token limit",
    "unreadable": "nearly no completion gives an answer that can be read",
    "constant_reward": "every completion has the same reward",
    "no_signal": "no completion has an advantage",
    "no_gradient": "the gradient is 0 in every update",
}


class Run(NamedTuple):
    """A run, ready for the page.

    Attributes:
      summary: what is in the page's index.
      metrics: block of its curves.
      steps: block of each step that is kept.
      words: what was left out, and by which rule; empty if nothing.
    """

    summary: dict[str, Any]
    metrics: str
    steps: dict[int, str]
    words: str


def read(
    workdir: str | pathlib.Path,
    *,
    tokens: int = thinning.TOKENS,
    steps: Sequence[int] | None = None,
) -> Run:
    """Reads a run, which may still go on.

    Args:
      workdir: of the run.
      tokens: how many are kept, see `thinning.keep`.
      steps: those whose tokens are kept; None for all that were recorded.

    Raises:
      Refused: the folder holds no run, or a step was not recorded.
    """
    workdir = pathlib.Path(workdir)
    config = records.read_config(workdir)
    metrics = records.read_metrics(workdir)
    sizes = {
        step: records.rollout_sizes(workdir, step)
        for step in records.rollout_steps(workdir)
    }
    sizes = {step: rows for step, rows in sizes.items() if rows}
    if steps is not None:
        sizes = thinning.named(sizes, steps)
    if not metrics and not sizes:
        raise Refused(f"{workdir} has neither metrics nor rollouts yet; let it run.")
    kept = thinning.keep(sizes, tokens)
    blocks, summaries = {}, []
    for step, groups in kept.groups.items():
        found = records.read_rollouts(workdir, step)
        found = [record for record in found if record["group"] in set(groups)]
        blocks[step] = block.of_records(found)
        summaries.append(_step(step, found, len(sizes[step])))
    evaluations = [*_evaluations(workdir, metrics)]
    findings = [*_findings(workdir, metrics)]
    marked = {e["step"] for e in evaluations} | {f["step"] for f in findings}
    places, told = thinning.lines([line["step"] for line in metrics], marked)
    summary = {
        "name": workdir.resolve().name,
        "settings": dict(_flat(config)),
        "facts": _facts(config, records.read_starts(workdir), metrics),
        "formulas": _formulas(config),
        "findings": findings,
        "evaluations": evaluations,
        "steps": summaries,
        "thinned": [text for text in (kept.words, told) if text],
    }
    return Run(
        summary=summary,
        metrics=_curves([metrics[i] for i in places]),
        steps=blocks,
        words=" ".join(summary["thinned"]),
    )


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """(dotted key, value) of a config."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _facts(config, starts, metrics) -> list[tuple[str, str]]:
    """What a reader wants to know first: (what, value)."""
    flat = dict(_flat(config))
    model = flat.get("model.path") or "untrained"
    last = max((line["step"] for line in metrics), default=0)
    of = f" of {flat['num_steps']}" if flat.get("num_steps") else ""
    facts = [
        ("method", flat.get("method")),
        ("task", flat.get("task.name")),
        ("model", pathlib.PurePath(str(model)).name),
        ("steps", f"{last}{of}"),
        ("group size", flat.get("rollout.group_size")),
        ("prompts per step", flat.get("rollout.batch_prompts")),
        ("longest completion", flat.get("rollout.max_completion_tokens")),
        ("seed", flat.get("seed")),
    ]
    if starts:
        versions = starts[-1].get("versions", {})
        facts += [
            ("devices", starts[-1].get("devices")),
            ("hapo_jax", versions.get("hapo_jax")),
            ("jax", versions.get("jax")),
        ]
    return [(what, str(value)) for what, value in facts if value not in (None, "")]


def _formulas(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a token's place in the formulas depends on."""
    flat = dict(_flat(config))
    names = {
        "shaping": "algo.shaping.name",
        "strength": "algo.redistribution.strength",
        "zone": "algo.redistribution.zone",
        "clipRange": "algo.clip_range.name",
        "low": "algo.clip.low",
        "high": "algo.clip.high",
        "dual": "algo.clip.dual",
        "clipStrength": "algo.clip.strength",
        "quantile": "algo.entropy.quantile",
        "source": "algo.entropy.source",
        "baseTemperature": "rollout.base_temperature",
        "temperatureStrength": "algo.temperature.strength",
        "minFactor": "algo.temperature.min_factor",
        "maxFactor": "algo.temperature.max_factor",
        "surrogate": "algo.surrogate.name",
        "ratioOf": "algo.ratio_of",
        "importance": "algo.importance.mode",
    }
    return {name: flat.get(key) for name, key in names.items()}


def _evaluations(workdir: pathlib.Path, metrics) -> Iterable[dict[str, Any]]:
    """The figures of every evaluation; intervals are made where they are not there."""
    with_records = set(records.eval_steps(workdir))
    for line in metrics:
        found = {k: v for k, v in line.items() if k.startswith("eval/")}
        if not found:
            continue
        if line["step"] in with_records and not any(k.endswith("_low") for k in found):
            found = _figures(records.read_eval(workdir, line["step"])) | found
        known = {k: v for k, v in found.items() if math.isfinite(v)}
        yield {"step": line["step"], "figures": known}


def _figures(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The figures of an evaluation, from its results by problem."""
    results = [r for r in results if "scores" in r]
    sets = [*dict.fromkeys(r.get("set", "") for r in results)]
    found: dict[str, float] = {}
    for name in sets:
        figures = figures_lib.summary([r for r in results if r.get("set", "") == name])
        found |= figures if len(sets) == 1 else figures_lib.named(figures, name)
    return found


def _findings(workdir: str | pathlib.Path, metrics) -> Iterable[dict[str, Any]]:
    """What was found to be wrong with the run while it ran, in the order of the steps,
    and what the run doctor finds in its folder now."""
    found = {finding.name: finding for finding in _examined(workdir, metrics)}
    for line in metrics:
        for key, value in line.items():
            prefix = next((p for p in FINDINGS if key.startswith(p)), None)
            name = key.removeprefix(prefix or "")
            if prefix and value and (prefix == alarms.PREFIX or name not in found):
                means = MEANS.get(name, "") if prefix == alarms.PREFIX else ""
                yield {"step": line["step"], "name": name, "means": means}
    for name, finding in found.items():
        means = f"{finding.evidence}. Set: {finding.remedy}"
        yield {"step": finding.since, "name": name, "means": means}


def _examined(workdir: str | pathlib.Path, metrics) -> list[Finding]:
    """The doctor's findings; none before the first step."""
    begun = any("grad/skipped" in line for line in metrics)
    return program.examine(workdir) if begun else []


def _curves(metrics: Sequence[Mapping[str, float]]) -> str:
    """The block of the metrics: single precision, nan where there is no value."""
    names = sorted({key for line in metrics for key in line} - {"step"})
    steps = np.array([line["step"] for line in metrics], np.int32)
    parts = [({"name": "step", "kind": "i4"}, columns.planes(steps))]
    for name in names:
        values = np.array([line.get(name, math.nan) for line in metrics], np.float32)
        parts.append(({"name": name, "kind": "f4"}, columns.planes(values)))
    return block.pack({"size": len(metrics)}, parts)


def _step(step: int, found: Sequence[Mapping[str, Any]], recorded: int):
    """What the list of steps shows of one."""
    groups: dict[int, list[Mapping[str, Any]]] = {}
    for record in found:
        groups.setdefault(record["group"], []).append(record)
    return {
        "step": step,
        "recorded": recorded,
        "groups": [_group(group, rows) for group, rows in groups.items()],
    }


def _group(group: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    flags = [name for name in block.FLAGS[1:] if name in rows[0]]
    fired = {name: int(sum(row[name].sum() for row in rows)) for name in flags}
    return {
        "group": group,
        "problem": rows[0]["problem_id"],
        "prompt": rows[0]["prompt"][:400],
        "rewards": [_finite(row["reward"]) for row in rows],
        "scores": [_finite(row["score"]) for row in rows],
        "lengths": [len(row["tokens"]) for row in rows],
        "truncated": sum(bool(row["truncated"]) for row in rows),
        "entropy": [_finite(row["entropy"].sum()) for row in rows],
        "fired": fired,
    }


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
