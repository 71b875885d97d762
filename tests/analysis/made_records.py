"""Run folders with records of tokens that are made by hand."""

import json

import numpy as np

from hapo_jax.runs import records
from tests import made_runs

# What a token is where a test says nothing else.
PLAIN = {
    **dict.fromkeys(("tokens", "entropy_score", "cut_logit", "loss"), 0.0),
    **dict.fromkeys(("behavior_logprobs", "old_logprobs", "logprobs"), -0.5),
    **dict.fromkeys(("temperature", "ratio", "importance_weight"), 1.0),
    "token_strings": "a",
    "entropy": 0.1,
    "old_entropy": 0.1,
    "counted": True,
    "base_advantages": 1.0,
    "advantages": 1.0,
    "clip_low": 0.2,
    "clip_high": 0.28,
    "clipped_low": False,
    "clipped_high": False,
    "dual_clipped": False,
}


def completion(tokens, *, group=0, score=1.0, **changes):
    """A record. `tokens`: dicts of what differs from `PLAIN`."""
    whole = [PLAIN | token for token in tokens]
    words = [t["token_strings"] for t in whole]
    return {
        "problem_id": f"p{group}",
        "group": group,
        "prompt": f"prompt {group}",
        "completion": " ".join(words),
        "score": score,
        "reward": score,
        "truncated": False,
        **{name: [t[name] for t in whole] for name in records.PER_TOKEN},
    } | changes


def make(folder, by_step, *, pivot=0.5, metrics=(), **options):
    """A run whose steps have these completions; `options` of `made_runs.make`."""
    last = max(by_step)
    options.setdefault("evaluations", {last: {"p": [1.0, 0.0]}})
    made_runs.make(folder, **options)
    lines = {line["step"]: line for line in records.read_metrics(folder)}
    for step, rows in by_step.items():
        lengths = np.array([len(row["tokens"]) for row in rows])
        data = records.rollouts_to_bytes(
            completion_mask=np.arange(lengths.max()) < lengths[:, None],
            per_completion={n: [r[n] for r in rows] for n in records.PER_COMPLETION},
            per_token={n: [r[n] for r in rows] for n in records.PER_TOKEN},
        )
        path = records.step_path(folder / records.ROLLOUTS, step, ".parquet")
        path.parent.mkdir(exist_ok=True)
        records.replace(path, data)
        lines.setdefault(step, {"step": step})
        lines[step]["stats/log_entropy_quantile"] = float(np.log(pivot))
        lines[step] |= dict(metrics)
    (folder / records.METRICS).write_text(
        "".join(json.dumps(lines[step]) + "\n" for step in sorted(lines))
    )
    return folder


def word(string, entropy=0.1, **changes):
    """A token of a completion."""
    return {"token_strings": string, "entropy": entropy} | changes
