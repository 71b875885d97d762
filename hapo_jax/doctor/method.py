"""Checks of the method's parts: does each of them act, and not at its bounds alone."""

import numpy as np

from hapo_jax.doctor.evidence import (
    PATIENCE,
    Evidence,
    Finding,
    Metrics,
    above,
    lasting,
    percent,
)

_NEVER = 1e-3  # a part that acts on fewer tokens cannot matter
_LOOK = 30  # steps before "never" is said: a warm-up moves little
_CLIPPED = 0.3  # of the tokens
_AT_BOUND = 0.5
_UNBALANCED = 0.5  # mean advantage over mean absolute one


def clip_never_acts(found: Evidence) -> Finding | None:
    """The clip range bounds something."""
    if "clip/width_low" not in found.newest or len(found.steps) < _LOOK:
        return None
    shares = [_clipped(m) for m in found.steps if "clip/frac_low" in m]
    if not shares or max(shares) >= _NEVER:
        return None
    scaled = bool(found.config.algo.clip.strength)
    part = " and adaptive clipping (D) cannot matter here" if scaled else ""
    return Finding(
        "clip_never_acts",
        int(found.steps[0]["step"]),
        f"in no step the clip acts on more than {percent(max(shares))} of the tokens"
        f"{part}; ratios are {found.newest['ratio/deviation']:.2g} from 1 in the mean",
        "few updates from a batch, so that the policy hardly moves within a step; a "
        "low learning rate",
        "more updates per step (learner.minibatch_prompts lower, learner.passes "
        "higher); learner.learning_rate higher; or algo.clip.strength=0, to say that "
        "it is off",
    )


def _clipped(m: Metrics) -> float:
    return m["clip/frac_low"] + m["clip/frac_high"] + m["clip/frac_dual"]


def clip_acts_everywhere(found: Evidence) -> Finding | None:
    """And leaves something to learn from."""

    def much(m: Metrics) -> bool | None:
        return _clipped(m) > _CLIPPED if "clip/frac_low" in m else None

    since = lasting(found, much)
    if since is None:
        return None
    m = found.newest
    return Finding(
        "clip_acts_everywhere",
        since,
        f"{percent(m['clip/frac_low'])} of the tokens are clipped below, "
        f"{percent(m['clip/frac_high'])} above and {percent(m['clip/frac_dual'])} by "
        "the dual bound: they have no gradient",
        "a learning rate too high; many updates from one batch; a narrow range",
        "learner.learning_rate lower; learner.passes lower; algo.clip.low and "
        "algo.clip.high higher",
    )


def redistribution_never_acts(found: Evidence) -> Finding | None:
    """Redistribution (C) changes advantages where it is on."""
    key = "advantages/frac_reshaped"
    if not found.config.algo.redistribution.strength or len(found.steps) < _LOOK:
        return None
    shares = [m[key] for m in found.steps if key in m]
    if not shares or max(shares) >= _NEVER:
        return None
    return Finding(
        "redistribution_never_acts",
        int(found.steps[0]["step"]),
        f"in no step redistribution changes more than {percent(max(shares))} of the "
        "advantages",
        "entropy scores of 0, from a spread or a floor that is too large; all "
        "entropies alike",
        "algo.entropy.floor lower; algo.entropy.spread; or "
        "algo.redistribution.strength=0",
    )


def temperature_at_bounds(found: Evidence) -> Finding | None:
    """The adaptive temperature is not at one of its ends all the time."""
    if not found.config.algo.temperature.strength or not found.records:
        return None
    drawn = np.concatenate([row["temperature"] for row in found.records])
    score = np.concatenate([row["entropy_score"] for row in found.records])
    if not len(drawn) or not drawn.std():
        return None
    ends = [np.isclose(drawn, end, rtol=1e-5) for end in (drawn.min(), drawn.max())]
    shares = [float(at.mean()) for at in ends]
    if max(shares) < _AT_BOUND or not (np.abs(score) >= 1).mean() > _AT_BOUND:
        return None
    return Finding(
        "temperature_at_bounds",
        found.record_step,
        f"{percent(shares[0])} of the recorded tokens were drawn at the lowest "
        f"temperature, {drawn.min():.3g}, and {percent(shares[1])} at the highest, "
        f"{drawn.max():.3g}",
        "a spread of the entropies that is too small for the score",
        "algo.entropy.floor higher; algo.entropy.spread; algo.temperature.strength "
        "lower",
    )


def advantages_unbalanced(found: Evidence) -> Finding | None:
    """Pushes up and down are of one size."""

    def lean(m: Metrics) -> bool | None:
        if not m.get("advantages/abs"):
            return None
        return abs(m["advantages/mean"]) > _UNBALANCED * m["advantages/abs"]

    since = lasting(found, lean)
    if since is None:
        return None
    m = found.newest
    side = "rewarded" if m["advantages/mean"] > 0 else "punished"
    return Finding(
        "advantages_unbalanced",
        since,
        f"advantages have the mean {m['advantages/mean']:+.3g} at a mean size of "
        f"{m['advantages/abs']:.3g}: nearly all tokens are {side}",
        "wrong completions that are much longer than right ones, or the reverse, under "
        "advantages per completion; a baseline that is off",
        "algo.token_group.strength=1, which is centred over tokens; "
        "algo.advantage.name=grpo",
    )


def wide_ratios(found: Evidence) -> Finding | None:
    """Most ratios stay in the neutral zone."""
    key = "ratio/frac_off_10pct"
    since = lasting(found, above(key, 0.5), PATIENCE)
    if since is None:
        return None
    return Finding(
        "wide_ratios",
        since,
        f"{percent(found.newest[key])} of the ratios are off 1 by more than 10 %",
        "a learning rate too high; many updates from one batch; log-probs of another "
        "distribution",
        "learner.learning_rate lower; learner.passes lower",
    )


CHECKS = (
    clip_never_acts,
    clip_acts_everywhere,
    redistribution_never_acts,
    temperature_at_bounds,
    advantages_unbalanced,
    wide_ratios,
)
