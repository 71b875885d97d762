"""All checks by name, in the order in which findings are told."""

from collections.abc import Callable, Mapping

from hapo_jax.doctor import data, machine, method, policy, reward
from hapo_jax.doctor.evidence import Evidence, Finding

CHECKS: Mapping[str, Callable[[Evidence], Finding | None]] = {
    check.__name__: check
    for module in (policy, data, reward, method, machine)
    for check in module.CHECKS
}


# What a check needs beside metrics and config: a field of Evidence.
NEEDS: Mapping[str, str] = {
    "groups_alike": "records",
    "stop_not_learnt": "records",
    "data_repeats": "records",
    "temperature_at_bounds": "records",
    "length_hack": "records",
    "round_trip": "tokenizer",
    "prompt_form": "prompt_tokens",
    "data_twice": "duplicates",
    "leak": "leaks",
    "sampler_weights": "weights_gap",
}

# Alarms that say the same: runs raise them within three steps, see `runs/alarms.py`.
ALARMS: Mapping[str, str] = {
    "reward_constant": "constant_reward",
    "unread_answers": "unreadable",
    "truncation": "truncated",
    "no_contrast": "no_signal",
    "grading_fails": "ungraded",
}


def examine(evidence: Evidence) -> list[Finding]:
    """What a run suffers from."""
    found = (check(evidence) for check in CHECKS.values())
    return [finding for finding in found if finding is not None]


def not_made(evidence: Evidence) -> list[str]:
    """The checks that nothing could be said by, for want of what they look at."""
    return [
        name for name, field in NEEDS.items() if getattr(evidence, field) in (None, ())
    ]
