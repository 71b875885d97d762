"""Checks of what completions are rewarded for, and of who says so."""

import math
import statistics

import numpy as np

from hapo_jax.doctor.evidence import (
    Evidence,
    Finding,
    Metrics,
    lasting,
    percent,
    trend,
)
from hapo_jax.grading.pool import OUTCOMES, UNGRADED

_UNGRADED = 0.02  # of the completions
_UNREADABLE = 0.5
_LONGER = math.log(1.25)  # growth of the length over the window
_LENGTH_PAYS = 0.3  # correlation of length and reward within groups


def reward_constant(found: Evidence) -> Finding | None:
    """Rewards differ."""

    def equal(m: Metrics) -> bool | None:
        return m["rollout/reward_std"] == 0 if "rollout/reward_std" in m else None

    since = lasting(found, equal)
    if since is None:
        return None
    m = found.newest
    return Finding(
        "reward_constant",
        since,
        f"every completion has the reward {m['rollout/reward']:g} (accuracy "
        f"{percent(m['rollout/accuracy'])})",
        "a verifier that reads no answer; gold answers that nothing can equal; "
        "problems that are all too easy or too hard",
        "task.train.grading=lenient; task.train.columns, so that the gold answer is "
        "the right column; other problems",
    )


def length_hack(found: Evidence) -> Finding | None:
    """Longer is not better by itself."""
    lengths = found.values("length/mean")
    grows = trend(np.log(np.maximum(lengths, 1)))
    better = trend(found.values("rollout/accuracy"))
    if grows is None or better is None:
        return None
    if grows.low * len(lengths) < _LONGER or better.low > 0:
        return None
    pays = _within_groups(found)
    if pays is None or pays[1] < _LENGTH_PAYS:
        return None
    return Finding(
        "length_hack",
        int(found.steps[-len(lengths)]["step"]),
        f"completions grow by {percent(np.expm1(grows.slope))} per step, to "
        f"{lengths[-1]:.4g} tokens, and the accuracy does not (slope "
        f"[{better.low:.2g}, {better.high:.2g}] per step); within recorded groups "
        f"longer ones have more reward (correlation {pays[0]:.2f}, at least "
        f"{pays[1]:.2f})",
        "a reward that counts words, attempts or format; a mean per completion, in "
        "which wrong long completions weigh little per token",
        "reward.overlong_factor=1; algo.aggregation.name=token_mean; a verifier that "
        "sees the answer alone",
    )


def _within_groups(found: Evidence) -> tuple[float, float] | None:
    """(correlation of length and reward, lower end of its 95 % interval)."""
    lengths, rewards = [], []
    for group in {row["group"] for row in found.records}:
        rows = [row for row in found.records if row["group"] == group]
        n = np.array([len(row["tokens"]) for row in rows], float)
        r = np.array([row["reward"] for row in rows], float)
        if len(rows) > 2 and n.std() and r.std():
            lengths += [*(n - n.mean())]
            rewards += [*(r - r.mean())]
    if len(lengths) < 6:
        return None
    r = float(np.corrcoef(lengths, rewards)[0, 1])
    half = statistics.NormalDist().inv_cdf(0.975) / math.sqrt(len(lengths) - 3)
    return r, math.tanh(math.atanh(min(r, 0.999999)) - half)


def format_without_answers(found: Evidence) -> Finding | None:
    """The format is not all that is learnt."""
    form, right = (
        trend(found.values("reward/format")),
        trend(found.values("rollout/accuracy")),
    )
    if form is None or right is None or form.low <= 0 or right.high > 0:
        return None
    return Finding(
        "format_without_answers",
        int(found.steps[-len(found.values("reward/format"))]["step"]),
        f"the reward for the format grows by [{form.low:.2g}, {form.high:.2g}] per "
        f"step while the accuracy falls or stays, [{right.low:.2g}, {right.high:.2g}]",
        "the format pays more than a right answer is likely to",
        "reward.format_weight lower, or 0 once the format is there",
    )


def grading_fails(found: Evidence) -> Finding | None:
    """The verifier comes to its end."""

    def share(m: Metrics) -> float:
        total = sum(m.get(f"grading/{name}", 0) for name in OUTCOMES)
        lost = sum(m.get(f"grading/{name}", 0) for name in UNGRADED)
        return lost / total if total else 0.0

    since = lasting(found, lambda m: share(m) > _UNGRADED)
    if since is None:
        return None
    m, g = found.newest, found.config.grading
    counts = {name: m.get(f"grading/{name}", 0) for name in UNGRADED}
    told = ", ".join(f"{name} {count:g}" for name, count in counts.items() if count)
    return Finding(
        "grading_fails",
        since,
        f"{percent(share(m))} of the completions could not be graded ({told}) and "
        "count as wrong",
        "a verifier that hangs on long completions; too little time or memory; too "
        "many workers for the cores",
        f"grading.timeout_s (now {g.timeout_s:g}) or grading.memory_gib (now "
        f"{g.memory_gib:g}) higher; grading.workers lower",
    )


def unread_answers(found: Evidence) -> Finding | None:
    """The verifier finds answers."""

    def unread(m: Metrics) -> bool | None:
        key = "rollout/unreadable"
        return m[key] > _UNREADABLE if key in m else None

    since = lasting(found, unread)
    if since is None:
        return None
    return Finding(
        "unread_answers",
        since,
        f"in {percent(found.newest['rollout/unreadable'])} of the completions the "
        "verifier finds no answer; they count as wrong",
        "answers in another form than the task reads; completions that are cut off",
        "task.system_prompt, to ask for the form; task.train.grading=lenient; "
        "rollout.max_completion_tokens higher",
    )


CHECKS = (
    reward_constant,
    length_hack,
    format_without_answers,
    grading_fails,
    unread_answers,
)
