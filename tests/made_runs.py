"""Run folders made by hand, as a run at its end leaves them."""

import json

from hapo_jax.config import defaults
from hapo_jax.runs import records


def make(folder, *, seed=0, method="dapo", evaluations, tokens=1000, changes=()):
    """Writes a run.

    Args:
      folder: of the run.
      seed, method: of its config.
      evaluations: {step: {problem: scores}}; the last step is the run's end.
      tokens: sampled per step.
      changes: further (key, value) of the config.
    """
    steps = max(evaluations)
    config = defaults.default().copy_and_resolve_references()
    with config.unlocked():
        config.seed, config.method, config.num_steps = seed, method, steps
        for key, value in changes:
            config.update_from_flattened_dict({key: value})
    folder.mkdir(parents=True)
    content = {"config": config.to_dict(), "format": records.FORMAT, "starts": []}
    (folder / records.CONFIG).write_text(json.dumps(content, default=list))
    lines = []
    for step in range(steps + 1):
        line = {"step": step}
        if step:
            line["ledger/total_sampled_tokens"] = tokens * step
            line["time/total"] = 2.0 * step
        if step in evaluations:
            found = [record(*pair) for pair in evaluations[step].items()]
            path = records.step_path(folder / records.EVAL, step, ".jsonl")
            records.write_lines(path, found)
            scores = [score for r in found for score in r["scores"]]
            k = len(found[0]["scores"])
            line |= {f"eval/avg@{k}": sum(scores) / len(scores), "eval/protocol": 1.0}
        lines.append(line)
    records.write_lines(folder / records.METRICS, lines)
    return folder


def record(problem, scores):
    """Of a problem's evaluation."""
    return {
        "set": "test",
        "id": problem,
        "scores": list(scores),
        "lengths": [5] * len(scores),
        "entropy": [0.5] * len(scores),
        "truncated": [False] * len(scores),
        "majority_score": scores[0],
        "ungraded": 0,
    }
