"""Records of tokens made by hand, after the method's formulas, and runs of them."""

import json

import numpy as np

from hapo_jax.runs import records
from tests import made_runs

WORDS = (" the", " so", " wait", " 12", "\n", " +", " therefore", "é", "x")


def record(n, *, seed=0, group=0, score=1.0, strings=None, problem="p", **changes):
    """One completion of n tokens, as `records.read_rollouts` gives it."""
    rng = np.random.default_rng(seed)
    entropy = np.where(
        rng.random(n) < 0.6, 10 ** rng.uniform(-6, -1, n), rng.gamma(1.2, 0.6, n)
    )
    x = np.log(np.maximum(entropy, 1e-8))
    h = (x + 1.0) / 3.0  # the quantile is exp(-1) nats
    scaled = np.clip(np.where(h > 0, h / 0.9, h / 5.0), -1, 1)
    old = -entropy * rng.exponential(1, n)
    new = old + rng.normal(0, 0.3, n) * np.minimum(entropy, 1)
    ratio = np.exp(new - old)
    low, high = 0.2 * (1 - np.minimum(scaled, 0)), 0.28 * (1 + np.maximum(scaled, 0))
    base = np.full(n, 1.25 if score >= 1 else -0.75)
    inside = (ratio > 1 - low / 2) & (ratio < 1 + high / 2)
    advantages = base * np.where(np.where(scaled > 0, ~inside, inside), 1 + scaled, 1)
    bounded = np.clip(ratio, 1 - low, 1 + high)
    if strings is None:
        ids = np.minimum(rng.pareto(1.1, n) * 3, 40_000).astype(int)
        strings = [f"{WORDS[i % 9]}{i if i > 8 else ''}" for i in ids]
    else:
        ids = np.array([sum(map(ord, s[:9])) % 1000 for s in strings], int)
    floats = {
        "entropy": entropy,
        "old_entropy": entropy * (1 + rng.normal(0, 1e-6, n)),
        "entropy_score": scaled,
        "temperature": np.clip(1 + 0.1 * h, 0.5, 1.5),
        "cut_logit": np.full(n, -1e30),
        "behavior_logprobs": old + rng.normal(0, 0.02, n) * np.minimum(entropy, 1),
        "old_logprobs": old,
        "logprobs": new,
        "ratio": ratio,
        "importance_weight": np.ones(n),
        "base_advantages": base,
        "advantages": advantages,
        "loss": -np.minimum(ratio * advantages, bounded * advantages),
        "clip_low": low,
        "clip_high": high,
    }
    flags = {
        "counted": np.ones(n, bool),
        "clipped_low": (advantages < 0) & (ratio < 1 - low),
        "clipped_high": (advantages > 0) & (ratio > 1 + high),
        "dual_clipped": np.zeros(n, bool),
    }
    return {
        "problem_id": problem,
        "group": group,
        "prompt": "How many? ",
        "completion": "".join(strings),
        "score": score,
        "reward": score - 0.25,
        "truncated": False,
        "tokens": ids.astype(np.int32),
        "token_strings": [*strings],
        **{name: values.astype(np.float32) for name, values in floats.items()},
        **flags,
        **changes,
    }


def groups(count=2, size=4, n=60, seed=0, **changes):
    """Records of whole groups; half of each is right."""
    return [
        record(
            n + 5 * i,
            seed=seed + 100 * g + i,
            group=g * size,
            score=float(i % 2),
            problem=f"problem {g}",
            **changes,
        )
        for g in range(count)
        for i in range(size)
    ]


def save(folder, step, rows):
    """Writes the records of a step into a run's folder."""
    longest = max(len(row["tokens"]) for row in rows)
    mask = np.array([np.arange(longest) < len(row["tokens"]) for row in rows])
    per_token = {
        name: [row[name] for row in rows]
        if name == "token_strings"
        else np.array([padded(row[name], longest) for row in rows])
        for name in records.PER_TOKEN
    }
    data = records.rollouts_to_bytes(
        completion_mask=mask,
        per_completion={k: [row[k] for row in rows] for k in records.PER_COMPLETION},
        per_token=per_token,
    )
    path = records.step_path(folder / records.ROLLOUTS, step, ".parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def padded(values, length):
    return np.concatenate([values, np.zeros(length - len(values), values.dtype)])


def run(folder, steps, *, metrics=(), method="hapo", changes=()):
    """A run with these {step: records}, an evaluation at both ends, and lines of
    further metrics."""
    last = max(steps, default=4)
    evaluations = {0: {"a": [0, 1], "b": [0, 0]}, last: {"a": [1, 1], "b": [0, 1]}}
    settings = [
        ("task.name", "countdown"),
        ("algo.shaping.name", "redistribute"),
        ("algo.redistribution.strength", 1.0),
        ("algo.clip_range.name", "by_score"),
        *changes,
    ]
    made_runs.make(folder, method=method, evaluations=evaluations, changes=settings)
    for step, rows in steps.items():
        save(folder, step, rows)
    path = folder / records.METRICS
    curve = [
        {"step": step, "rollout/reward": 0.1 * step, "entropy/mean": 1 / (1 + step)}
        for step in range(1, last + 1)
    ]
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in [*curve, *metrics])
    return folder
