"""Records of tokens as JSON lines, under the names that prime-rl's exporter uses.

A line is a completion. Viewers of prime-rl's token exports read these fields:

    field                   here
    step, export_step       the step that it was drawn for
    token_ids               of the completion; prompts are not recorded token by token
    position_ids            place in the completion, from 0
    loss_mask               whether the token is in the loss's denominator
    advantages              after redistribution
    losses                  per token {"rl": {"advantage", "mask"}}
    rewards                 of the completion, for each token
    inference_logprobs      under the distribution that the token was drawn from
    trainer_logprobs        after the step's updates
    log_importance_ratio    trainer less inference; importance_ratio: exp of it
    mismatch_kl             importance_ratio - log_importance_ratio - 1
    prob_delta              exp(trainer) - exp(inference)
    entropy                 nats, when it was drawn
    is_masked               a bound acted: is_masked_low, is_masked_high (dual included)

`rank`, `micro_step` and `micro_sequence_idx` are 0, 0 and the place in the step. What
is not finite is null. Under names of our own, and so ignored by others, follow
`problem_id`, `group`, `prompt`, `token_strings`, `score`, `truncated`, and every
further column of `records.PER_TOKEN`.
"""

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hapo_jax.runs import records
from hapo_jax.system.errors import Refused

SCHEMA_VERSION = 1  # of prime-rl's format


def write(
    workdirs: Sequence[str | pathlib.Path],
    path: str | pathlib.Path,
    steps: Sequence[int] | None = None,
) -> int:
    """Writes all records of runs; returns how many completions there were.

    Args:
      workdirs: folders of runs.
      path: of the file; replaced when it is whole.
      steps: None for all that were recorded.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    begun = path.with_name(f".{path.name}{records.BEGUN}")
    count = 0
    try:
        with begun.open("w") as file:  # line by line: a run may be larger than memory
            for workdir in map(pathlib.Path, workdirs):
                for line in lines(workdir, steps):
                    file.write(json.dumps(line, allow_nan=False) + "\n")
                    count += 1
        begun.replace(path)
    finally:
        begun.unlink(missing_ok=True)
    return count


def lines(workdir: pathlib.Path, steps: Sequence[int] | None) -> Iterable[dict]:
    """The lines of a run."""
    task = records.read_config(workdir).get("task", {}).get("name")
    for step in records.rollout_steps(workdir) if steps is None else steps:
        for place, record in enumerate(records.read_rollouts(workdir, step)):
            _check(workdir, record)
            yield {
                "schema_version": SCHEMA_VERSION,
                "step": step,
                "export_step": step,
                "rank": 0,
                "micro_step": 0,
                "micro_sequence_idx": place,
                "export_sequence_idx": place,
                "run_id": workdir.resolve().name,
                "env_name": task,
                **_theirs(record),
                **_ours(record),
            }


def _check(workdir: pathlib.Path, record: Mapping[str, Any]) -> None:
    if missing := [name for name in (*_USED, "dual_clipped") if name not in record]:
        raise Refused(
            f"{workdir}: an earlier version recorded its tokens, without "
            f"{', '.join(missing)}; export a run of this version."
        )


def _theirs(record: Mapping[str, Any]) -> dict[str, Any]:
    size = len(record["tokens"])
    trainer, inference = (
        record[name].astype(np.float64) for name in ("logprobs", "behavior_logprobs")
    )
    difference = trainer - inference
    with np.errstate(over="ignore"):
        ratio = np.exp(difference)
    counted = record["counted"].tolist()
    high = record["clipped_high"]
    low = record["clipped_low"] | record["dual_clipped"]
    advantages = _numbers(record["advantages"])
    return {
        "token_ids": record["tokens"].tolist(),
        "position_ids": [*range(size)],
        "loss_mask": counted,
        "advantages": advantages,
        "losses": [
            {"rl": {"advantage": a, "mask": m}} for a, m in zip(advantages, counted)
        ],
        "rewards": _numbers(np.full(size, record["reward"])),
        "inference_logprobs": _numbers(inference),
        "trainer_logprobs": _numbers(trainer),
        "entropy": _numbers(record["entropy"]),
        "mismatch_kl": _numbers(ratio - difference - 1),
        "log_importance_ratio": _numbers(difference),
        "importance_ratio": _numbers(ratio),
        "prob_delta": _numbers(np.exp(trainer) - np.exp(inference)),
        "is_masked": (low | high).tolist(),
        "is_masked_high": high.tolist(),
        "is_masked_low": low.tolist(),
    }


_USED = (
    *("tokens", "logprobs", "behavior_logprobs", "entropy", "advantages"),
    *("counted", "clipped_low", "clipped_high"),
)


def _ours(record: Mapping[str, Any]) -> dict[str, Any]:
    names = ("problem_id", "group", "prompt", "completion", "truncated")
    found = {name: record[name] for name in (*names, "token_strings")}
    found["score"] = _numbers(np.array([record["score"]]))[0]
    for name in records.PER_TOKEN.keys() & record.keys():
        if name not in _USED and name not in found:
            values = record[name]
            flag = values.dtype == bool
            found[name] = values.tolist() if flag else _numbers(values)
    return found


def _numbers(values: np.ndarray) -> list[float | None]:
    """JSON has no nan and no infinity."""
    finite = np.isfinite(values)
    return [float(v) if f else None for v, f in zip(values.tolist(), finite.tolist())]
