"""Checks of the policy: who samples is who learns, and it changes as it should."""

import numpy as np

from hapo_jax.doctor.evidence import (
    Evidence,
    Finding,
    above,
    below,
    lasting,
    percent,
    trend,
)

# Nothing but rounding is between the first update and the policy that sampled.
_FIRST_OFF = 0.01  # share of tokens off by more than 10 %
_BEYOND_P95 = 0.05  # share of tokens above a 95th percentile
_MISMATCH_OFF = 0.01
_WEIGHTS_GAP = 0.02  # bfloat16 rounds to 0.4 %
_OF_RATE = 0.1  # of the highest learning rate; below it little moves by intent
_STILL = 1e-9  # nats per token, of k3 to the policy before the step
_TOO_FAR = 0.1  # nats per token and step; verl's runs stay below 0.01
_HALVED = np.log(2)  # over the window, of the entropy
_LITTLE_ENTROPY = 0.05  # nats per token


def first_ratio(found: Evidence) -> Finding | None:
    """On-policy, the first update of a step has ratio 1 at every token."""
    far, off = "ratio/first_frac_off_10pct", "ratio/first_frac_off_5pct"

    def holds(m):
        if far not in m:
            return None
        return m[far] > _FIRST_OFF or m.get(off, 0) > _BEYOND_P95

    since = lasting(found, holds)
    if since is None:
        return None
    m = found.newest
    return Finding(
        "first_ratio",
        since,
        f"in the first update of a step {percent(m[far])} of the ratios are off 1 by "
        f"more than 10 %{_first_p95(m.get(off))} (mean distance "
        f"{m['ratio/first_deviation']:.3g}), before anything was updated",
        "old log-probs of another distribution or precision than the update's; groups "
        "of earlier steps with recorded log-probs; dropout or another source of noise",
        "learner.recompute_old_logprobs=true; model.dtype=float32 to see whether it "
        "is rounding",
    )


def _first_p95(off: float | None) -> str:
    """Which side of 5 % the 95th percentile lies on; runs of old do not say."""
    if off is None:
        return ""
    side = "above" if off > _BEYOND_P95 else "below"
    return f" and {percent(off)} by more than 5 %, so that the p95 is {side} that"


def sampler_gap(found: Evidence) -> Finding | None:
    """Sampler and learner say the same of the same token."""
    key = "mismatch/frac_off_10pct"

    def holds(m):
        if key not in m:
            return None
        # Groups of earlier steps were drawn from another policy, and may be off.
        carried = m.get("rollout/groups_from_last_step", 0)
        carried /= max(m.get("rollout/groups_trained", 0), 1)
        return m[key] > _MISMATCH_OFF + carried

    since = lasting(found, holds)
    if since is None:
        return None
    m = found.newest
    return Finding(
        "sampler_gap",
        since,
        f"{percent(m[key])} of the tokens have another probability in the sampler "
        "than in the learner, by more than 10 % (log-probs "
        f"{m['mismatch/logprob_abs_mean']:.3g} nats apart in the mean, "
        f"{m['mismatch/logprob_abs_max']:.3g} at most)",
        "weights of an earlier step in the sampler; bfloat16 there and float32 here",
        "algo.importance.mode=token corrects for it; model.dtype=float32",
    )


def sampler_weights(found: Evidence) -> Finding | None:
    """The sampler's copy is of the learner's newest weights."""
    gap = found.weights_gap
    if gap is None or gap <= _WEIGHTS_GAP:
        return None
    return Finding(
        "sampler_weights",
        found.step,
        f"the sampler's weights differ from the learner's by {percent(gap)} of the "
        "largest weight, where rounding leaves 0.4 %",
        "a copy that was not made anew after an update",
        "nothing: this is an error of the program; please report it",
    )


def policy_still(found: Evidence) -> Finding | None:
    """Updates change the policy."""
    key = "kl/old_policy_k3"

    def holds(m):
        # The first update of a step is at ratio 1, so one update alone shows nothing;
        # nor do the ends of a schedule.
        least = _OF_RATE * found.config.learner.learning_rate
        says = m.get("learner/updates", 0) > 1 and m["learner/learning_rate"] > least
        return m[key] < _STILL if key in m and says else None

    since = lasting(found, holds)
    if since is None:
        return None
    m = found.newest
    return Finding(
        "policy_still",
        since,
        f"the updates of a step leave the policy where it was: {m[key]:.2g} nats per "
        f"token at learning rate {m['learner/learning_rate']:.2g} and gradient norm "
        f"{m.get('grad/norm', 0):.2g}",
        "a learning rate far too low; gradients cut to nothing; frozen parameters",
        "learner.learning_rate higher; learner.max_grad_norm higher",
    )


def policy_jumps(found: Evidence) -> Finding | None:
    """A step does not leave the region in which ratios mean something."""
    key = "kl/old_policy_k3"
    since = lasting(found, above(key, _TOO_FAR))
    if since is None:
        return None
    m = found.newest
    return Finding(
        "policy_jumps",
        since,
        f"within a step the policy moves by {m[key]:.3g} nats per token (mean distance "
        f"of the ratio to 1: {m.get('ratio/deviation', float('nan')):.3g})",
        "a learning rate too high; too many updates from one batch",
        "learner.learning_rate lower; fewer learner.passes; larger "
        "learner.minibatch_prompts",
    )


def entropy_collapse(found: Evidence) -> Finding | None:
    """The entropy does not run down to nothing."""
    values = found.values("entropy/mean")
    line = trend(np.log(np.maximum(values, 1e-8)))
    low = lasting(found, below("entropy/mean", _LITTLE_ENTROPY))
    falls = line is not None and line.high * len(values) < -_HALVED
    if not falls or low is None:
        return None
    return Finding(
        "entropy_collapse",
        low,
        f"the entropy has fallen to {values[-1]:.3g} nats per token, by "
        f"{percent(-np.expm1(line.slope))} per step [{percent(-np.expm1(line.high))}, "
        f"{percent(-np.expm1(line.low))}] over the last {len(values)} steps",
        "rewarded tokens are the probable ones, and nothing holds the others; a small "
        "upper clip range; sampling below temperature 1",
        "algo.clip.high higher; algo.regulariser.name=entropy or method=hapo; "
        "learner.learning_rate lower",
    )


def entropy_explosion(found: Evidence) -> Finding | None:
    """Nor does it grow without end."""
    values = found.values("entropy/mean")
    line = trend(np.log(np.maximum(values, 1e-8)))
    if line is None or line.low * len(values) < _HALVED:
        return None
    return Finding(
        "entropy_explosion",
        int(found.steps[-len(values)]["step"]),
        f"the entropy grows by {percent(np.expm1(line.slope))} per step "
        f"[{percent(np.expm1(line.low))}, {percent(np.expm1(line.high))}], to "
        f"{values[-1]:.3g} nats per token",
        "negative advantages push probability to whatever is left; an entropy bonus "
        "that is too strong; sampling far above temperature 1",
        "the strength of algo.regulariser lower; algo.clip.low lower; "
        "rollout.base_temperature=1",
    )


CHECKS = (
    first_ratio,
    sampler_gap,
    sampler_weights,
    policy_still,
    policy_jumps,
    entropy_collapse,
    entropy_explosion,
)
