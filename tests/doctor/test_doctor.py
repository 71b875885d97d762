"""The run doctor: every planted fault is found, and a healthy run stays unmentioned."""

import types

import numpy as np
import pytest

from hapo_jax.config import defaults
from hapo_jax.doctor import checks, program
from hapo_jax.doctor import doctor as doctor_lib
from hapo_jax.doctor import evidence as evidence_lib
from hapo_jax.doctor.evidence import Evidence
from hapo_jax.runs import records as records_lib
from hapo_jax.system.errors import Refused, Unhealthy
from tests import made_runs

STEPS = 40
# A step of the demo, rounded.
HEALTHY = {
    "rollout/reward": 0.5,
    "rollout/reward_std": 0.5,
    "rollout/accuracy": 0.5,
    "rollout/unreadable": 0.1,
    "rollout/all_right": 0.05,
    "rollout/all_wrong": 0.1,
    "rollout/truncated": 0.01,
    "rollout/rounds": 1,
    "rollout/groups_trained": 32,
    "reward/format": 0.0,
    "length/mean": 30.0,
    "entropy/mean": 0.45,
    "mismatch/frac_off_10pct": 0.0,
    "mismatch/logprob_abs_mean": 1e-7,
    "mismatch/logprob_abs_max": 1e-6,
    "ratio/deviation": 0.02,
    "ratio/frac_off_10pct": 0.03,
    "ratio/first_deviation": 0.0,
    "ratio/first_frac_off_5pct": 0.0,
    "ratio/first_frac_off_10pct": 0.0,
    "kl/old_policy_k3": 5e-4,
    "clip/frac_low": 0.002,
    "clip/frac_high": 0.002,
    "clip/frac_dual": 0.0,
    "clip/width_low": 0.2,
    "clip/width_high": 0.28,
    "advantages/mean": 0.02,
    "advantages/abs": 0.8,
    "advantages/frac_reshaped": 0.9,
    "grad/norm": 0.5,
    "grad/skipped": 0,
    "learner/learning_rate": 2e-4,
    "learner/updates": 2,
    "grading/graded": 200,
    "grading/cached": 56,
    "grading/timed_out": 0,
    "perf/programs": 3,
    "perf/memory_share": 0.1,
    "perf/memory_gib": 2.0,
    "time/step": 2.0,
    "time/compile": 0.0,
    "time/grade": 0.1,
}


def steps(changes=None):
    """Metrics of a healthy run; `changes` are values, or functions of the step."""
    rng, found = np.random.default_rng(0), []
    for step in range(1, STEPS + 1):
        line = {"step": step}
        for name, value in HEALTHY.items():
            noisy = value and name.split("/")[0] in ("rollout", "entropy", "grad")
            line[name] = value * (1 + 0.05 * rng.standard_normal()) if noisy else value
        line["rollout/rounds"], line["rollout/groups_trained"] = 1, 32
        for name, value in (changes or {}).items():
            line[name] = value(step) if callable(value) else value
        found.append(line)
    return found


def row(group=0, tokens=(5, 6, 2), **changes):
    """A record of a completion."""
    n = len(tokens)
    return {
        "problem_id": f"p{group}",
        "group": group,
        "prompt": "1 2 :",
        "tokens": np.array(tokens, np.int32),
        "token_strings": [str(t) for t in tokens],
        "entropy": np.full(n, 0.7, np.float32),
        "entropy_score": np.linspace(-0.5, 0.5, n).astype(np.float32),
        "temperature": np.linspace(0.9, 1.1, n).astype(np.float32),
        "advantages": np.ones(n, np.float32),
        "counted": np.ones(n, bool),
        "truncated": False,
        "reward": float(tokens[0] % 2),
        "score": float(tokens[0] % 2),
    } | changes


def rows():
    """Two groups of four, all different."""
    return [
        row(g, (5 + i, 6, *[7] * ((3 * i) % 4), 2)) for g in (0, 1) for i in range(4)
    ]


class Words:
    """A tokenizer of numbers: `5 6` is [5, 6]."""

    stop_ids = (2,)
    backend = types.SimpleNamespace(bos_token_id=1)

    def decode(self, ids):
        return " ".join(str(int(i)) for i in ids)

    def encode(self, text):
        return [int(word) for word in text.split()]

    def pieces(self, ids):
        return [" " if i == 3 else str(i) for i in ids]


def config(**changes):
    c = defaults.default()
    c.num_steps = 100
    for key, value in changes.items():
        c.update_from_flattened_dict({key.replace("__", "."): value})
    return c


def evidence(changes=None, *, of=None, **fields):
    given = dict(
        records=rows(),
        record_step=STEPS,
        tokenizer=Words(),
        prompt_tokens=[[1, 8, 9]] * 3,
        leaks=0,
        duplicates=0.0,
        weights_gap=0.003,
    )
    return Evidence(of or config(), steps(changes), **given | fields)


def grow(start, factor):
    """A metric that grows evenly by a factor over the run."""
    return lambda step: start * factor ** (step / STEPS)


def from_step(first, value, before=0.0):
    return lambda step: value if step >= first else before


def same():
    """Groups whose completions are all alike."""
    return [row(g, (5, 6, 2)) for g in (0, 1) for _ in range(4)]


def longer_pays():
    return [
        row(g, (5, *[6] * n), reward=float(n), truncated=True)
        for g in (0, 1)
        for n in (1, 3, 5, 9)
    ]


def last_uncounted():
    return [
        r | {"counted": np.arange(len(r["tokens"])) < len(r["tokens"]) - 1}
        for r in [row(0, (5, 6, 7, 8, 2)), row(0, (6, 6, 7, 8, 2))]
    ]


def at_ends():
    ends = np.array([0.9, 0.9, 0.9, 1.1], np.float32)
    score = np.array([-1, -1, -1, 1], np.float32)
    return [
        row(0, (4 + i, 6, 7, 2), temperature=ends, entropy_score=score)
        for i in range(4)
    ]


class Lossy(Words):
    def encode(self, text):
        return super().encode(text)[1:]


PLANTED = {
    "first_ratio": evidence({"ratio/first_frac_off_10pct": from_step(20, 0.05)}),
    "sampler_gap": evidence({"mismatch/frac_off_10pct": from_step(20, 0.05)}),
    "sampler_weights": evidence(weights_gap=0.5),
    "policy_still": evidence({"kl/old_policy_k3": from_step(20, 0.0, 1e-3)}),
    "policy_jumps": evidence({"kl/old_policy_k3": from_step(20, 0.5)}),
    "entropy_collapse": evidence({"entropy/mean": grow(0.9, 1 / 40)}),
    "entropy_explosion": evidence({"entropy/mean": grow(0.4, 8)}),
    "groups_alike": evidence(records=same()),
    "stop_not_learnt": evidence(records=last_uncounted()),
    "truncation": evidence({"rollout/truncated": grow(0.05, 12)}),
    "no_contrast": evidence({"rollout/all_wrong": from_step(20, 0.9)}),
    "starvation": evidence(
        {"rollout/rounds": 4, "rollout/groups_trained": 5},
        of=config(rollout__max_rounds=4, rollout__batch_prompts=32),
    ),
    "round_trip": evidence(tokenizer=Lossy()),
    "prompt_form": evidence(prompt_tokens=[[1, 1, 8], [1, 8, 2, 3]]),
    "data_repeats": evidence(records=[r | {"problem_id": "p"} for r in rows()]),
    "data_twice": evidence(duplicates=0.2),
    "leak": evidence(leaks=3),
    "reward_constant": evidence({"rollout/reward_std": from_step(20, 0.0, 0.5)}),
    "length_hack": evidence(
        {"length/mean": grow(30, 4), "rollout/accuracy": 0.5}, records=longer_pays()
    ),
    "format_without_answers": evidence(
        {
            "reward/format": lambda step: 0.1 + 0.01 * step,
            "rollout/accuracy": lambda step: 0.5 - 0.005 * step,
        }
    ),
    "grading_fails": evidence({"grading/timed_out": from_step(20, 30)}),
    "unread_answers": evidence({"rollout/unreadable": from_step(20, 0.8)}),
    "clip_never_acts": evidence({"clip/frac_low": 1e-5, "clip/frac_high": 1e-5}),
    "clip_acts_everywhere": evidence({"clip/frac_high": from_step(20, 0.6)}),
    "redistribution_never_acts": evidence({"advantages/frac_reshaped": 0.0}),
    "temperature_at_bounds": evidence(records=at_ends()),
    "advantages_unbalanced": evidence({"advantages/mean": from_step(20, -0.7)}),
    "wide_ratios": evidence({"ratio/frac_off_10pct": from_step(20, 0.7)}),
    "gradients_skipped": evidence({"grad/skipped": from_step(38, 1)}),
    "norm_spikes": evidence({"grad/norm": lambda s: 50.0 if s % 5 == 0 else 0.5}),
    "learning_rate_zero": evidence({"learner/learning_rate": from_step(20, 0.0, 1e-4)}),
    "compiled_anew": evidence({"perf/programs": from_step(20, 4, 3)}),
    "waiting": evidence({"time/grade": from_step(20, 1.5, 0.1)}),
    "between_steps": evidence({"time/between": lambda s: 60.0 if s % 5 == 0 else 0.1}),
    "compiling": evidence(
        {
            "time/compile": lambda s: 30.0 if s % 5 == 0 else 0.0,
            "time/step": lambda s: 32.0 if s % 5 == 0 else 2.0,
        }
    ),
    "memory_full": evidence({"perf/memory_share": from_step(40, 0.99, 0.2)}),
}


def test_a_fault_is_planted_for_every_check():
    assert PLANTED.keys() == checks.CHECKS.keys() and len(PLANTED) >= 16


def test_a_healthy_run_has_no_findings():
    assert checks.examine(evidence()) == []
    assert checks.not_made(evidence()) == []
    # Nor has one that has just begun, or whose folder holds metrics alone.
    assert checks.examine(Evidence(config(), [])) == []
    assert checks.examine(Evidence(config(), steps())) == []
    assert checks.not_made(Evidence(config(), steps())) == list(checks.NEEDS)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name):
    found = {finding.name: finding for finding in checks.examine(PLANTED[name])}
    assert name in found
    finding = found[name]
    assert 0 < finding.since <= STEPS
    for part in (finding.evidence, finding.causes, finding.remedy):
        assert part and "nan" not in part
    assert any(ch.isdigit() for ch in finding.evidence)
    assert str(finding).startswith(f"{name}, since step {finding.since}\n")
    # Others that follow from it may be told beside it, but not many.
    assert len(found) <= 3


@pytest.mark.parametrize("name", ["first_ratio", "no_contrast", "grading_fails"])
def test_a_finding_says_since_when(name):
    (finding,) = (f for f in checks.examine(PLANTED[name]) if f.name == name)
    assert finding.since == 20


def test_first_ratios_off_in_the_middle_are_found_by_their_p95():
    """None is off by 10 %, but one in ten by more than 5 %."""
    (finding,) = checks.examine(
        evidence({"ratio/first_frac_off_5pct": from_step(20, 0.1)})
    )
    assert finding.name == "first_ratio" and finding.since == 20
    assert "10 % by more than 5 %, so that the p95 is above" in finding.evidence


def test_what_has_passed_is_not_told():
    passed = {"rollout/truncated": lambda step: 0.9 if step < 20 else 0.01}
    assert checks.examine(evidence(passed)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {  # a fifth of the groups is of earlier steps, and their tokens may be off
            "mismatch/frac_off_10pct": 0.05,
            "rollout/groups_from_last_step": 32 / 5,
        },
        {  # the end of a schedule moves nothing, and is to move nothing
            "kl/old_policy_k3": from_step(30, 0.0, 1e-3),
            "learner/learning_rate": from_step(30, 1e-12, 2e-4),
        },
        {  # the first step compiles, and a resumption once
            "time/compile": lambda step: {1: 60.0, 30: 40.0}.get(step, 0.0),
        },
        {  # the clip acts at its time
            "clip/frac_low": lambda step: 0.002 if step == 15 else 0.0,
            "clip/frac_high": 0.0,
        },
    ],
    ids=["carried", "end", "compiled", "clip"],
)
def test_what_a_healthy_run_does_too_is_not_told(changes):
    assert checks.examine(evidence(changes)) == []


def test_nothing_is_said_never_to_act_in_a_run_that_has_just_begun():
    begun = evidence({"clip/frac_low": 0.0, "clip/frac_high": 0.0})
    begun = begun._replace(steps=begun.steps[:20])
    assert checks.examine(begun) == []


def test_a_part_that_is_off_cannot_fail_to_act():
    off = config(algo__redistribution__strength=0.0)
    assert not checks.examine(evidence({"advantages/frac_reshaped": 0.0}, of=off))


def test_the_trend_of_noise_has_an_interval_around_zero():
    """In about 95 of 100 series, though neighbours are alike."""
    rng, holds = np.random.default_rng(1), 0
    for _ in range(200):
        noise = rng.standard_normal(30)
        for t in range(1, 30):
            noise[t] += 0.5 * noise[t - 1]
        line = evidence_lib.trend(noise)
        holds += line.low <= 0 <= line.high
    assert holds >= 170
    line = evidence_lib.trend(np.arange(30) * 0.1 + 0.01 * rng.standard_normal(30))
    assert line.low < 0.1 < line.high and line.high - line.low < 0.01
    assert evidence_lib.trend(np.ones(5)) is None


@pytest.fixture
def workdir(tmp_path):
    """A finished run whose clip never acts."""
    folder = made_runs.make(tmp_path / "run", evaluations={STEPS: {"p": [1.0]}})
    lines = steps({"clip/frac_low": 0.0, "clip/frac_high": 0.0})
    lines[9]["doctor/leak"] = 1.0
    records_lib.write_lines(folder / records_lib.METRICS, lines)
    return folder


def test_the_program_reads_a_folder(workdir, capsys):
    assert program.main([str(workdir)]) == 1
    said = capsys.readouterr().out
    assert f"{workdir}, steps 1 to {STEPS}: 1 findings" in said
    assert "clip_never_acts, since step 1" in said and "set       more updates" in said
    assert "told while it ran: leak at step 10" in said
    assert "not checked, for want of records: groups_alike" in said

    records_lib.write_lines(workdir / records_lib.METRICS, steps())
    assert program.main([str(workdir)]) == 0
    assert "no findings" in capsys.readouterr().out
    assert program.examine(workdir) == []


def test_a_folder_without_a_run_or_a_step_is_refused(workdir, tmp_path):
    with pytest.raises(Refused, match="does not exist"):
        program.main([str(tmp_path / "none")])
    (workdir / records_lib.METRICS).write_text("")
    with pytest.raises(Refused, match="no step yet"):
        program.main([str(workdir)])
    with pytest.raises(Refused, match="hapo-doctor runs/demo"):
        program.main([])


def test_beside_a_run_a_finding_is_told_once(tmp_path, caplog):
    doctor = doctor_lib.Doctor(config(), str(tmp_path))
    told = []
    for line in steps({"rollout/truncated": 0.9}):
        doctor.see(line)
        if line["step"] % 5 == 0:
            told.append(doctor.look(line["step"], 0.0))
    assert told[0] == {"doctor/truncation": 1.0} and not any(told[1:])
    # An alarm has said it: the doctor does not say it again.
    caplog.clear()
    alarmed = doctor_lib.Doctor(config(), str(tmp_path))
    for line in steps({"rollout/truncated": 0.99, "alarm/truncated": 1.0}):
        alarmed.see(line)
    assert not alarmed.look(STEPS, 0.0) and not caplog.records
    # A resumed run knows what was told.
    lines = steps({"rollout/truncated": 0.9})
    lines[10]["doctor/truncation"] = 1.0
    assert not doctor_lib.Doctor(config(), str(tmp_path), lines).look(STEPS, 0.0)


def test_a_strict_doctor_ends_the_run():
    with pytest.raises(Unhealthy, match="found leak .*doctor=warn goes on"):
        doctor_lib.end({"doctor/leak": 1.0})


def test_copies_of_weights_are_compared():
    params = {"a": np.ones((2, 2), np.float32), "b": np.array([1.0, -4.0], np.float32)}
    other = {"a": params["a"], "b": np.array([1.0, -3.0], np.float32)}
    assert float(doctor_lib.weights_gap(params, params)) == 0
    assert float(doctor_lib.weights_gap(other, params)) == 0.25
