"""hapo-eval on the demo's warm start: the same numbers whatever happens on the way."""

import json
import pathlib
import signal
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest

from hapo_jax import assembly, evaluate
from hapo_jax.config import defaults, eval_sets, resolution
from hapo_jax.config.eval_sets import EvalSet
from hapo_jax.evaluation import compare
from hapo_jax.evaluation import sampling as sampling_lib
from hapo_jax.runs import evaluations
from hapo_jax.runs import records as records_lib
from hapo_jax.tasks.problems import Problem
from tests.environment import of_program

ROOT = pathlib.Path(__file__).parent.parent
WARM = ROOT / "configs" / "countdown_warm"
NUM_PROBLEMS, K = 10, 3


def make_config(**changes):
    """Ten short problems of the demo."""
    c = defaults.default()
    c.task.name = "countdown"
    game = dict(numbers=3, max_number=9, operators="+-*", operations=1)
    c.task.train = dict(split="train", size=50, seed=0, **game)
    c.task.test = dict(split="test", size=50, seed=0, **game)
    c.model.path = str(WARM)
    c.rollout.update(max_prompt_tokens=7, max_completion_tokens=24, chunk_tokens=8)
    c.grading.workers = 1
    c.eval.update(num_problems=NUM_PROBLEMS, k=K, top_p=0.95)
    c.update_from_flattened_dict(changes)
    return c.lock()


def evaluated(out, **changes):
    config = make_config(**changes)
    sets = eval_sets.parse("", config)
    return evaluate.evaluate_checkpoint(config, WARM, sets=sets, out=out)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an evaluation that nothing disturbed."""
    return evaluated(tmp_path_factory.mktemp("whole") / "out")


def assert_same(folder, other):
    """Equal records and figures, but for entropies and log-probs: sums over batches of
    other shapes differ in their last bits."""
    found, expected = (
        records_lib.read_lines(f / "test.jsonl") for f in (folder, other)
    )
    for a, b in zip(found, expected, strict=True):
        for name in ("entropy", "logprobs"):
            np.testing.assert_allclose(a.pop(name), b.pop(name), rtol=1e-4)
        assert a == b
    found, expected = (evaluations.read_results(f)["test"] for f in (folder, other))
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_folder_holds_figures_and_every_completion(whole):
    results = evaluations.read_results(whole)["test"]
    assert results["problems"] == NUM_PROBLEMS
    for name in ("avg@3", "maj@3", "pass@1", "pass@2", "pass@3", "greedy", "length"):
        low, high = (results[f"eval/{name}_{end}"] for end in ("low", "high"))
        assert low <= results[f"eval/{name}"] <= high
    assert results["eval/pass@1"] == pytest.approx(results["eval/avg@3"])
    records = records_lib.read_lines(whole / "test.jsonl")
    assert len({r["id"] for r in records}) == NUM_PROBLEMS
    for r in records:
        for key in ("scores", "lengths", "truncated", "completions", "votes"):
            assert len(r[key]) == K
        assert [len(text.split()) for text in r["completions"]] == [
            n - (not cut) for n, cut in zip(r["lengths"], r["truncated"])
        ]


@pytest.mark.parametrize(
    "changes",
    [
        {"rollout.slots": 8, "grading.workers": 2},
        {"rollout.chunk_tokens": 24, "rollout.share_prompts_from": 0},
    ],
)
def test_scores_do_not_depend_on_slots_batches_or_graders(whole, tmp_path, changes):
    assert_same(evaluated(tmp_path / "out", **changes), whole)


def test_a_part_of_the_problems_gives_the_records_of_the_whole(whole):
    config = resolution.resolve(make_config()).config
    run = assembly.Run(config=config, policy=assembly.describe(config))
    with jax.set_mesh(run.policy.mesh), assembly.make_pool(config) as pool:
        sets = sampling_lib.read_sets(run, eval_sets.parse("", config))
        (evaluator,) = sampling_lib.make_evaluators(run, pool, sets)
        params = run.to_sampler(run.policy.load())
        found = dict(sampling_lib.records(evaluator, params, [7, 2]))
        assert list(sampling_lib.records(evaluator, params, [])) == []
    expected = records_lib.read_lines(whole / "test.jsonl")
    for i in (2, 7):
        assert found[i]["completions"] == expected[i]["completions"]
        assert found[i]["scores"] == expected[i]["scores"]


def test_a_stopped_evaluation_goes_on_and_ends_the_same(whole, tmp_path, monkeypatch):
    out, written = tmp_path / "out", []

    def add(writer, record, real=records_lib.Appender.add):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(record["id"])
        real(writer, record)

    with monkeypatch.context() as patch:
        patch.setattr(records_lib.Appender, "add", add)
        with pytest.raises(KeyboardInterrupt):
            evaluated(out)
    assert not (out / evaluations.RESULTS).exists()
    path = out / "test.jsonl"
    whole_lines = path.read_bytes()
    assert whole_lines.count(b"\n") == 4
    path.write_bytes(whole_lines[: -len(whole_lines.splitlines()[-1]) // 2])  # a kill
    again = []
    real = sampling_lib.records
    monkeypatch.setattr(
        sampling_lib,
        "records",
        lambda e, params, numbers: again.extend(numbers) or real(e, params, numbers),
    )
    evaluated(out)
    assert len(again) == NUM_PROBLEMS - 3
    assert_same(out, whole)
    ended = (out / "test.jsonl").read_bytes()
    # Once more: nothing is left to draw, and nothing changes.
    evaluated(out)
    assert len(again) == NUM_PROBLEMS - 3
    assert (out / "test.jsonl").read_bytes() == ended


@pytest.mark.parametrize(
    ("changes", "differ"),
    [
        ({"eval.k": 4}, True),
        ({"eval.temperature": 0.5}, True),
        ({"eval.top_p": 0.9}, True),
        ({"eval.num_problems": 9}, True),
        ({"eval.greedy": False}, True),
        ({"rollout.max_completion_tokens": 23}, True),
        ({"task.test.seed": 1}, True),
        ({"task.chat_template": "plain"}, True),
        ({"task.system_prompt": "yes", "rollout.max_prompt_tokens": 8}, True),
        ({"model.stop_tokens": ("yes",)}, True),
        ({"seed": 1}, True),
        ({"model.dtype": "bfloat16"}, True),
        ({"rollout.slots": 16, "grading.workers": 2, "eval.every_steps": 3}, False),
        ({"task.train.seed": 1, "checkpoint.keep_best": 0}, False),
    ],
    ids=lambda x: ",".join(x) if isinstance(x, dict) else "",
)
def test_a_protocol_is_what_scores_depend_on(changes, differ):
    pool = types.SimpleNamespace(submit=print)

    def protocol(config):
        run = assembly.Run(config=config, policy=assembly.describe(config))
        with jax.set_mesh(run.policy.mesh):
            sets = sampling_lib.read_sets(run, eval_sets.parse("", config))
            (one,) = sampling_lib.make_evaluators(run, pool, sets)
        return one

    before, after = protocol(make_config()), protocol(make_config(**changes))
    assert (before.protocol != after.protocol) == differ
    assert (before.protocol_number != after.protocol_number) == differ


def test_another_setting_is_refused_by_name(whole):
    before = (whole / "test.jsonl").read_bytes()
    with pytest.raises(
        ValueError, match=r"(?s)other settings.*temperature: was 1.0, now 0"
    ):
        evaluated(whole, **{"eval.temperature": 0.5})
    assert (whole / "test.jsonl").read_bytes() == before


def test_figures_do_not_outlive_their_records(tmp_path):
    """As the refusal of other settings advises, a set is begun anew."""
    folder = finished(tmp_path, [record("p", [1.0, 0.0])], ("aime24", "amc23"))
    evaluations.settings_path(folder, "aime24").unlink()
    evaluations.resume(folder, "aime24", {"checkpoint": "1"}, ["p"])
    assert list(evaluations.read_results(folder)) == ["amc23"]


@pytest.mark.slow
def test_a_killed_program_loses_at_most_what_was_in_flight(tmp_path):
    env = of_program()
    command = [
        *(sys.executable, "-m", "hapo_jax.evaluate", f"--checkpoint={WARM}"),
        *("--config=configs/countdown.py", "--config.eval.num_problems=96", "--k=4"),
        *("--config.rollout.slots=16", "--config.mesh.cpu_devices=1"),
    ]

    def start(out):
        return subprocess.Popen(
            [*command, f"--out={out}"], cwd=ROOT, env=env, stdout=subprocess.DEVNULL
        )

    def lines():
        path = tmp_path / "killed" / "test.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    killed = start(tmp_path / "killed")
    deadline = time.monotonic() + 300
    while lines() < 10 and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    done = lines()
    assert 10 <= done < 96
    for out in ("killed", "whole"):
        assert start(tmp_path / out).wait(timeout=400) == 0
    assert_same(tmp_path / "killed", tmp_path / "whole")


def record(name, scores, length=5):
    k = len(scores)
    return {
        "id": name,
        "scores": scores,
        "majority_score": scores[0],
        "lengths": [length] * k,
        "truncated": [False] * k,
        "entropy": [1.0] * k,
        "ungraded": 0,
    }


def finished(folder, records, sets=("aime24",), **settings):
    """A folder of results that was never computed."""
    for name in sets:
        ids = [r["id"] for r in records]
        known = {"checkpoint": "0", "k": 2, "max_completion_tokens": 96}
        evaluations.resume(folder, name, {**known, **settings}, ids)
        evaluations.finish(folder, name, records, {})
    return folder


def test_compare_pairs_problems_by_id(tmp_path):
    names = [f"p{i}" for i in range(6)]
    before = [record(n, [float(i % 2), 0.0]) for i, n in enumerate(names)]
    after = [record(n, [float(i % 2), 1.0], 7) for i, n in enumerate(names)]
    a = finished(tmp_path / "a", before, ("aime24", "amc23"))
    b = finished(tmp_path / "b", after[::-1], checkpoint="1")
    text = compare.compare(a, b)
    (line,) = [line for line in text.splitlines() if line.startswith("aime24 avg@2")]
    # Every problem gained one of two: a difference without spread, yet six problems
    # cannot tell it from one that others would lack, or have the other way round.
    assert line.split()[3:] == "6 25.0 75.0 +50.0 [-19.2, +78.9] 6 0".split()
    assert "only in one: amc23" in text
    (line,) = [line for line in text.splitlines() if line.startswith("aime24 len")]
    assert line.split()[3:] == "6 5.0 7.0 +2.0 [-43.2, +45.4] 6 0".split()
    (line,) = [line for line in text.splitlines() if line.startswith("aime24 entr")]
    assert line.split()[3:] == "6 1.000 1.000 +0.000 0 0".split()  # nothing bounds it


def test_no_comparison_has_an_interval_of_width_0(tmp_path):
    names = [f"p{i}" for i in range(30)]
    same = [record(n, [float(i % 3 == 0)] * 2) for i, n in enumerate(names)]
    turned = [record(n, [float(i % 3 > 0)] * 2) for i, n in enumerate(names)]
    a = finished(tmp_path / "a", same)
    for b, shown in (
        (finished(tmp_path / "b", same), "33.3 33.3 +0.0 [-11.6, +11.6] 0 0"),
        (finished(tmp_path / "c", turned), "33.3 66.7 +33.3 [-5.6, +65.4] 20 10"),
    ):
        lines = compare.compare(a, b).splitlines()
        for figure in ("avg@2", "maj@2", "pass@2"):
            (line,) = [line for line in lines if f" {figure}," in line]
            assert line.split()[4:] == shown.split()


def test_paired_intervals_are_narrower_than_unpaired_ones():
    rng = np.random.default_rng(0)
    rates = rng.beta(0.5, 0.5, 200)
    a, b = (rng.binomial(16, rates * c) / 16 for c in (0.85, 0.95))
    mean, low, high = compare.paired(a, b)
    assert mean == pytest.approx(b.mean() - a.mean())
    assert 0 < low < mean < high
    unpaired = 2 * 1.97 * np.sqrt((a.var() + b.var()) / 200)
    assert high - low < unpaired / 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.5}, "temperature: None and 0.5"),
        ({"sets": ("amc23",)}, "one set in both"),
        ({"records": [record("q", [1.0, 1.0])]}, "problems in one of them alone: p, q"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, changes, message):
    records = [record("p", [1.0, 0.0])]
    a = finished(tmp_path / "a", records)
    b = finished(tmp_path / "b", **{"records": records, **changes})
    with pytest.raises(ValueError, match=message):
        compare.compare(a, b)
    with pytest.raises(ValueError, match=r"results\.json does not exist"):
        compare.compare(a, tmp_path / "none")


def test_problems_that_occur_in_training_are_reported_apart(tmp_path, monkeypatch):
    flags = tmp_path / "dapo_math_17k_flags.json"
    flags.write_text(json.dumps({"eval_overlap": [{"train": "t", "eval": "amc23-0"}]}))
    names = [f"amc23-{i}" for i in range(4)]
    problems = tuple(Problem(n, "", "", "amc23") for n in names)
    fake = types.SimpleNamespace(
        prompts=types.SimpleNamespace(problems=problems), num_problems=4
    )
    scores = {0: [1.0, 1.0], 1: [0.0, 0.0], 2: [1.0, 0.0], 3: [0.0, 0.0]}
    monkeypatch.setattr(
        sampling_lib,
        "records",
        lambda e, params, numbers: ((i, record(names[i], scores[i])) for i in numbers),
    )
    amc = EvalSet("amc23", "math", {}, flags)
    rows = evaluate._evaluate_set(amc, fake, None, tmp_path / "out", {"k": 2})
    assert list(rows) == ["amc23 (4)", "amc23 not in dapo_math_17k (3)"]
    results = evaluations.read_results(tmp_path / "out")["amc23"]
    assert results["eval/avg@2"] == pytest.approx(3 / 8)
    assert results["not_in_dapo_math_17k"]["eval/avg@2"] == pytest.approx(1 / 6)
