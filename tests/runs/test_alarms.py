"""Alarms against metrics made by hand; runs that raise them are in test_real_input."""

import math
import re

import pytest

from hapo_jax.runs import alarm_kinds
from hapo_jax.runs import alarms
from hapo_jax.config import defaults

V = 50
# A step of a healthy run, all metrics that alarms look at.
HEALTHY = {
    "grad/skipped": 0.0,
    "grad/norm": 0.3,
    "rollout/truncated": 0.1,
    "rollout/unreadable": 0.2,
    "rollout/accuracy": 0.4,
    "rollout/reward": 0.4,
    "rollout/reward_std": 0.49,
    "rollout/all_right": 0.1,
    "rollout/all_wrong": 0.3,
    "advantages/frac_nonzero": 0.6,
    "batch/tokens": 1000.0,
    "entropy/mean": 0.4,
    "grading/graded": 60,
    "grading/cached": 4,
    "grading/timed_out": 0,
    "grading/crashed": 0,
}
WRONG = {
    "rollout/accuracy": 0.0,
    "rollout/reward": 0.0,
    "rollout/reward_std": 0.0,
    "rollout/all_wrong": 1.0,
    "advantages/frac_nonzero": 0.0,
}


def facts(num_steps=100, **changes):
    c = defaults.default()
    c.num_steps = num_steps
    c.task.name = "math"
    c.task.train = dict(split="train", path="x", prompt_template="", grading="strict")
    c.update_from_flattened_dict(changes)
    return alarm_kinds.Facts(c, V, ("<eos>",))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, {}),
        (WRONG, {"constant_reward": "reward 0: all are wrong.*rollout.group_size"}),
        (
            WRONG | {"rollout/accuracy": 1.0, "rollout/reward": 1.0},
            {"constant_reward": "all are right.*harder problems"},
        ),
        (
            {"advantages/frac_nonzero": 0.0},
            {"no_signal": r"10 % of the groups are all right, 30 % all wr.*max_rounds"},
        ),
        ({"batch/tokens": 0.0}, {"no_signal": "no completion has an advantage"}),
        ({"grad/norm": 0.0}, {"no_gradient": "no parameter moves.*loss/frac_counted"}),
        (
            {"rollout/truncated": 0.97, "rollout/unreadable": 1.0},
            {"truncated": r"97 % of .*completion_tokens=256.*\(tokens that do: '<e"},
        ),
        (
            {"rollout/unreadable": 1.0},
            {"unreadable": "task.train.prompt_template.*task.train.grading=lenient"},
        ),
        (
            WRONG | {"grading/graded": 0, "grading/crashed": 90, "grading/cached": 0},
            {"ungraded": "100 % .*Raise grading.timeout_s=10 and grading.memory"},
        ),
        (
            WRONG | {"entropy/mean": 0.0},
            {"certain_policy": "entropy is 0 nats", "constant_reward": "wrong"},
        ),
        ({"entropy/mean": math.log(V) - 0.01}, {"uniform_policy": "log 50 = 3.912"}),
        ({"entropy/mean": 0.9 * math.log(V)}, {}),
        ({"entropy/mean": math.nan, "grad/norm": math.nan}, {}),
    ],
)
def test_kinds(changes, found, caplog):
    watched = alarms.Alarms(facts())
    noted = [watched.see(step, HEALTHY | changes) for step in range(1, 7)]
    # Once each, when it has lasted for three steps.
    assert noted[2] == {f"alarm/{name}": 1.0 for name in found}
    assert not any(noted[:2] + noted[3:])
    assert len(caplog.records) == len(found)
    for record, (name, words) in zip(caplog.records, found.items(), strict=True):
        assert record.levelname == "WARNING" and "\n" not in record.getMessage()
        assert watched.raised[name].words in record.getMessage()
        assert re.search(words, record.getMessage())
    summary = watched.summary()
    assert summary.count("Steps 1 to 6: ") == len(found) and bool(summary) == bool(
        found
    )


def test_a_spell_that_passes_is_no_alarm():
    watched = alarms.Alarms(facts())
    for step in range(1, 20):
        bad = WRONG if step % 3 else {}
        assert not watched.see(step, HEALTHY | bad)
    assert not watched.summary()


def test_a_short_run_is_told_as_well():
    watched = alarms.Alarms(facts(num_steps=1))
    assert watched.see(1, HEALTHY | WRONG) == {"alarm/constant_reward": 1.0}
    # A supervised run looks at every tenth update alone.
    watched = alarms.Alarms(facts(num_steps=20), every_steps=10)
    stuck = {"grad/skipped": 0.0, "grad/norm": 0.0}
    assert not watched.see(10, stuck)
    assert watched.see(20, stuck) == {"alarm/no_gradient": 1.0}


def test_a_resumed_run_forgets_nothing_and_says_nothing_twice(caplog):
    steps = [HEALTHY | (WRONG if 2 <= step <= 6 else {}) for step in range(1, 10)]
    whole = alarms.Alarms(facts())
    noted = [whole.see(step, m) for step, m in enumerate(steps, start=1)]
    assert noted[3] and "Steps 2 to 6: every" in whole.summary()
    for saved in range(1, 9):
        lines = [{"step": 0, "eval/avg@8": 0.4}] + [
            {"step": step, **m, **more}
            for step, (m, more) in enumerate(zip(steps, noted), start=1)
        ]
        caplog.clear()
        resumed = alarms.Alarms(facts(), lines[: saved + 1])
        assert not caplog.records
        again = [resumed.see(step + 1, steps[step]) for step in range(saved, 9)]
        assert again == noted[saved:]
        assert resumed.summary() == whole.summary()


def test_figures_of_an_evaluation():
    figures = {"eval/truncated": 0.0, "eval/entropy": 0.4}
    assert not alarms.of_figures(figures, facts(), unreadable=0.5)
    (words,) = alarms.of_figures(figures, facts(), unreadable=1.0)
    assert "no answer was found" in words
    (words,) = alarms.of_figures({"eval/entropy": 0.0}, facts())
    assert "certain of every token" in words
    (words,) = alarms.of_figures(figures | {"eval/truncated": 1.0}, facts())
    assert "cut off" in words
