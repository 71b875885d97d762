"""Checks of the optimizer and of the machine: what is skipped, waits or fills up."""

import itertools

import numpy as np

from hapo_jax.doctor.evidence import (
    WINDOW,
    Evidence,
    Finding,
    Metrics,
    above,
    lasting,
    percent,
)

_SPIKE = 20.0  # times the median norm
_SPIKES = 0.1  # of the newest steps
_WAITS = 0.3  # of a step's time
_BETWEEN = 0.5  # of the time
_COMPILES = 0.25  # of the time
_COMPILES_S = 60.0  # seconds; the first record and evaluation of a small run take less
_FEW = 10  # steps, whose times say little
_FULL = 0.95  # of the memory


def gradients_skipped(found: Evidence) -> Finding | None:
    """Gradients are finite."""
    recent = found.values("grad/skipped")
    if not recent.sum():
        return None
    first = next(int(m["step"]) for m in found.steps if m.get("grad/skipped"))
    return Finding(
        "gradients_skipped",
        first,
        f"{recent.sum():g} updates of the last {len(recent)} steps had a gradient that "
        "was not finite and were left out",
        "a policy that diverges; log-probs of impossible tokens; bfloat16 overflow",
        "learner.learning_rate lower; model.dtype=float32; algo.clip.log_ratio=20",
    )


def norm_spikes(found: Evidence) -> Finding | None:
    """The gradient's norm is steady."""
    norms = found.values("grad/norm")
    if len(norms) < 10:
        return None
    usual = float(np.median(norms))
    spikes = norms > _SPIKE * usual
    if not usual or spikes.mean() < _SPIKES:
        return None
    return Finding(
        "norm_spikes",
        int(found.steps[-len(norms)]["step"]),
        f"in {int(spikes.sum())} of the last {len(norms)} steps the gradient's norm is "
        f"more than {_SPIKE:g} times the usual {usual:.3g} (largest {norms.max():.3g})",
        "few tokens that decide alone; a learning rate too high; a rare token with a "
        "huge ratio",
        "learner.max_grad_norm lower; algo.clip.dual=3; learner.learning_rate lower",
    )


def learning_rate_zero(found: Evidence) -> Finding | None:
    """The learning rate is above 0."""

    def zero(m: Metrics) -> bool | None:
        if "learner/learning_rate" not in m:
            return None
        return m["learner/learning_rate"] == 0

    since = lasting(found, zero)
    if since is None or found.step >= found.config.num_steps:
        return None
    return Finding(
        "learning_rate_zero",
        since,
        "the learning rate is 0, and steps are left",
        "a warm-up that does not end; a decay that has ended",
        "learner.warmup_steps lower; learner.decay_steps higher, or 0 for all steps",
    )


def compiled_anew(found: Evidence) -> Finding | None:
    """Nothing is compiled after the first step."""
    key = "perf/programs"
    counts = [(int(m["step"]), m[key]) for m in found.steps if key in m]
    grown = [step for (_, a), (step, b) in itertools.pairwise(counts) if b > a]
    if not grown:
        return None
    return Finding(
        "compiled_anew",
        grown[0],
        f"the learner has compiled again in {len(grown)} steps, from {counts[0][1]:g} "
        f"to {counts[-1][1]:g} programs",
        "shapes that change from step to step",
        "nothing: this is an error of the program; please report it",
    )


def waiting(found: Evidence) -> Finding | None:
    """Steps do not wait for graders."""

    def waits(m: Metrics) -> bool | None:
        if not m.get("time/step") or "time/grade" not in m:
            return None
        return m["time/grade"] > _WAITS * m["time/step"]

    since = lasting(found, waits)
    if since is None:
        return None
    m = found.newest
    return Finding(
        "waiting",
        since,
        f"{m['time/grade']:.3g} s of a step's {m['time/step']:.3g} s pass between the "
        "last token and the last verdict",
        "few workers; a slow verifier; completions that run into its time limit",
        "grading.workers higher; grading.timeout_s lower",
    )


def between_steps(found: Evidence) -> Finding | None:
    """Most of the time is spent in steps."""
    between, inside = found.values("time/between"), found.values("time/step")
    whole = between.sum() + inside.sum()
    if len(between) < _FEW or between.sum() <= _BETWEEN * whole:
        return None
    return Finding(
        "between_steps",
        int(found.steps[-len(inside)]["step"]),
        f"of the time of the last {len(inside)} steps {percent(between.sum() / whole)} "
        f"passes between them, {between.max():.3g} s at most, in checkpoints, "
        "evaluations and records",
        "checkpoints or evaluations after nearly every step; a slow disk or bucket; "
        "large evaluation sets",
        "checkpoint.every_steps, eval.every_steps and log.record_every_steps higher; "
        "eval.num_problems or eval.k lower",
    )


def compiling(found: Evidence) -> Finding | None:
    """Compiling is over with a run's first step."""
    later = [m for m in found.steps[-WINDOW:] if m["step"] > 1 and "time/compile" in m]
    whole = sum(
        m.get("time/to_first_update", m["time/step"] + m.get("time/between", 0))
        for m in later
    )
    lost = sum(m["time/compile"] for m in later)
    if len(later) < _FEW or lost <= max(_COMPILES * whole, _COMPILES_S):
        return None
    longest = max(later, key=lambda m: m["time/compile"])
    starts = sum("time/to_first_update" in m for m in later)
    return Finding(
        "compiling",
        int(next(m["step"] for m in later if m["time/compile"])),
        f"{percent(lost / whole)} of the time of the last {len(later)} steps went to "
        f"compilers, most at step {longest['step']:g} ({longest['time/compile']:.3g} "
        f"s); the run was resumed {starts} times among them",
        "restarts that find no compiled programs; shapes that change from step to step "
        "or from one evaluation to the next",
        "JAX_COMPILATION_CACHE_DIR to a folder that outlives the machine; fewer "
        "restarts",
    )


def memory_full(found: Evidence) -> Finding | None:
    """There is memory to spare."""
    key = "perf/memory_share"
    since = lasting(found, above(key, _FULL), 1)
    if since is None:
        return None
    m = found.newest
    return Finding(
        "memory_full",
        since,
        f"{percent(m[key])} of the memory is in use ({m['perf/memory_gib']:.3g} GiB)",
        "a cut of the work that fits only just; other programs beside this one",
        "learner.micro_rows or rollout.slots lower; learner.remat=full",
    )


CHECKS = (
    gradients_skipped,
    norm_spikes,
    learning_rate_zero,
    compiled_anew,
    waiting,
    between_steps,
    compiling,
    memory_full,
)
