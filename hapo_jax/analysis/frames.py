"""Run folders as pandas data frames: tokens, completions, steps, evaluations.

Every function takes one folder, several, or names with folders, {name: folder}, and
every frame has a column `run`: the name, or else the folder's.

A token is *uncertain* where its entropy, when it was drawn, is above the pivot: the
quantile of its step's batch (`algo.entropy.quantile`), as HAPO's statistics draw the
line; the others are *confident*. A completion is *correct* where the verifier gave it
a score of 1.
"""

import pathlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hapo_jax.runs import records
from hapo_jax.system.errors import Refused

Folder = str | pathlib.Path
Runs = Folder | Sequence[Folder] | Mapping[str, Folder]

GROUP = ["run", "step", "group"]  # what names a group over runs
COMPLETION = [*GROUP, "completion"]  # and a completion
_PIVOT = "stats/log_entropy_quantile"
_CORRECT = 1.0  # the least score
_EVALUATED = ("scores", "lengths", "entropy", "truncated")


def folders(runs: Runs) -> dict[str, pathlib.Path]:
    """Name → folder of the runs.

    Raises:
      Refused: there is none, a folder holds no run, or two would have one name.
    """
    if isinstance(runs, Mapping):
        found = [(name, pathlib.Path(path)) for name, path in runs.items()]
    else:
        paths = [runs] if isinstance(runs, str | pathlib.Path) else runs
        found = [(path.resolve().name, path) for path in map(pathlib.Path, paths)]
    if not found:
        raise Refused(f"runs={runs!r} names no run; give the folder of one.")
    named = dict(found)
    if len(named) < len(found):
        raise Refused(
            f"runs={[str(path) for _, path in found]} have equal names; give them as "
            "{name: folder}."
        )
    for path in named.values():
        if not (path / records.CONFIG).exists():
            raise Refused(
                f"{path} holds no run; give the folder of one, such as runs/demo of "
                "`make demo`."
            )
    return named


def tokens(runs: Runs, steps: Collection[int] | None = None) -> pd.DataFrame:
    """The recorded tokens, one row each, in the order in which they were drawn.

    Args:
      runs: see the module.
      steps: that are wanted; None: all that were recorded.

    Returns:
      A frame with the columns
        run, step, group, completion: where it is; `completion` counts a step's records.
        position: in the completion, from 0.
        string: the token as text; `tokens` is its number.
        score, reward, truncated, correct: of its completion.
        signal: whether its completion has an advantage, which the learner's shares
          count.
        the numeric columns of `records.PER_TOKEN`; entropies in nats.
        log_entropy: log(max(entropy, floor)), log nats, what HAPO scores.
        pivot: nats, the quantile of the step's batch.
        uncertain: entropy > pivot.
        zone_low, zone_high: 1 - low/2 and 1 + high/2, the neutral zone of
          redistribution, of the widths that `algo.redistribution.zone` names.
        in_zone: the ratio is between them.

    Raises:
      Refused: a run has no records, not those of a step, or some of an earlier version
        that lack a column.
    """
    parts, settings, lines = [], {}, {}
    for run, folder, step, rows in _recorded(runs, steps):
        if run not in settings:  # once for all its steps
            settings[run] = records.read_config(folder)["algo"]
            lines[run] = {line["step"]: line for line in records.read_metrics(folder)}
        lengths = [len(row["tokens"]) for row in rows]
        of_token = _per_completion(run, step, rows).iloc[
            np.repeat(np.arange(len(rows)), lengths)
        ]
        columns = {name: of_token[name].to_numpy() for name in _OF_TOKEN}
        columns["position"] = np.concatenate([np.arange(n) for n in lengths])
        columns["string"] = [s for row in rows for s in row["token_strings"]]
        for name in _NUMERIC:
            columns[name] = np.concatenate([row[name] for row in rows])
        pivot = lines[run].get(step, {}).get(_PIVOT)
        if pivot is None:
            raise Refused(
                f"{folder}: {records.METRICS} has no {_PIVOT} for step {step}, so that "
                "its tokens cannot be told apart; leave the step out."
            )
        parts.append(_with_regions(pd.DataFrame(columns), settings[run], pivot))
    return pd.concat(parts, ignore_index=True)


_OF_TOKEN = (
    *("run", "step", "group", "completion"),
    *("score", "reward", "truncated", "correct", "signal"),
)
_NUMERIC = [name for name in records.PER_TOKEN if name != "token_strings"]


def _with_regions(frame: pd.DataFrame, algo: Mapping[str, Any], pivot: float):
    """Adds what depends on the run's settings and on the statistics of the step."""
    floor = np.float32(algo["entropy"]["floor"])
    low, high = frame["clip_low"], frame["clip_high"]
    if algo["redistribution"]["zone"] == "base":
        low, high = algo["clip"]["low"], algo["clip"]["high"]
    frame["log_entropy"] = np.log(np.maximum(frame["entropy"], floor))
    frame["pivot"] = np.exp(pivot)
    frame["uncertain"] = frame["entropy"] > frame["pivot"]
    frame["zone_low"], frame["zone_high"] = 1 - low / 2, 1 + high / 2
    ratio = frame["ratio"]
    frame["in_zone"] = (ratio > frame["zone_low"]) & (ratio < frame["zone_high"])
    return frame


def completions(runs: Runs, steps: Collection[int] | None = None) -> pd.DataFrame:
    """The recorded completions, one row each.

    Args, Raises: as in `tokens`.

    Returns:
      A frame with the columns run, step, group, completion (its number in the step's
      record), problem_id, prompt, text, score, reward, truncated, correct, signal (it
      has an advantage), length (tokens) and entropy (nats, mean over its tokens).
    """
    parts = [
        _per_completion(run, step, rows)
        for run, _, step, rows in _recorded(runs, steps)
    ]
    return pd.concat(parts, ignore_index=True)


def _per_completion(run: str, step: int, rows: Sequence[Mapping[str, Any]]):
    frame = pd.DataFrame(
        {
            "run": run,
            "step": step,
            "group": [row["group"] for row in rows],
            "completion": np.arange(len(rows)),
            "problem_id": [row["problem_id"] for row in rows],
            "prompt": [row["prompt"] for row in rows],
            "text": [row["completion"] for row in rows],
            "score": np.array([row["score"] for row in rows], np.float32),
            "reward": np.array([row["reward"] for row in rows], np.float32),
            "truncated": [row["truncated"] for row in rows],
            "signal": [bool((row["base_advantages"] != 0).any()) for row in rows],
            "length": [len(row["tokens"]) for row in rows],
            "entropy": [float(row["entropy"].mean()) for row in rows],
        }
    )
    frame["correct"] = frame["score"] >= _CORRECT
    return frame


def _recorded(
    runs: Runs, steps: Collection[int] | None
) -> Iterator[tuple[str, pathlib.Path, int, list[dict[str, Any]]]]:
    """(run, folder, step, records) of every wanted step."""
    for run, folder in folders(runs).items():
        known = records.rollout_steps(folder)
        wanted = known if steps is None else sorted(steps)
        if not wanted:
            raise Refused(
                f"{folder} holds no records of tokens; train with "
                "log.record_every_steps and log.record_groups above 0."
            )
        for step in wanted:
            rows = records.read_rollouts(folder, step)
            missing = sorted(records.PER_TOKEN.keys() - rows[0].keys())
            if missing:
                raise Refused(
                    f"{folder}, step {step}: the records lack {', '.join(missing)}, "
                    "which the version that wrote them did not know; run it again."
                )
            yield run, folder, step, rows


def steps(runs: Runs) -> pd.DataFrame:
    """The metrics of docs/metrics.md, one row per step, NaN where a step has none.

    Returns:
      A frame with the columns run, method, seed, step and a column per metric.

    Raises:
      Refused: a run has no metrics.
    """
    parts = []
    for run, folder in folders(runs).items():
        lines = records.read_metrics(folder)
        if not lines:
            raise Refused(f"{folder} holds no metrics; it has not begun.")
        config = records.read_config(folder)
        frame = pd.DataFrame(lines)
        frame.insert(0, "seed", config["seed"])
        frame.insert(0, "method", config["method"])
        frame.insert(0, "run", run)
        parts.append(frame)
    return pd.concat(parts, ignore_index=True)


def evaluations(runs: Runs) -> pd.DataFrame:
    """The sampled completions of all evaluations, one row each.

    Returns:
      A frame with the columns run, step, set, problem, sample (its number among the
      problem's), score, correct, length (tokens), entropy (nats, mean over its tokens),
      truncated.

    Raises:
      Refused: a run has not been evaluated.
    """
    parts = []
    for run, folder in folders(runs).items():
        evaluated = records.eval_steps(folder)
        if not evaluated:
            raise Refused(f"{folder} holds no evaluation.")
        for step in evaluated:
            for row in records.read_eval(folder, step):
                part = pd.DataFrame({k.rstrip("s"): row[k] for k in _EVALUATED})
                part.insert(0, "sample", np.arange(len(part)))
                part.insert(0, "problem", row["id"])
                part.insert(0, "set", row.get("set", ""))
                part.insert(0, "step", step)
                part.insert(0, "run", run)
                parts.append(part)
    frame = pd.concat(parts, ignore_index=True)
    frame.insert(6, "correct", frame["score"] >= _CORRECT)
    return frame
