"""The benchmark harness: its definition of the work, its turns, and one real run."""

import dataclasses
import json
import pathlib
import sys
import types

import numpy as np
import pytest

from benchmarks import grading as grading_benchmark
from benchmarks import report, rollout, train, turns, worker, workload
from benchmarks.peers import loop
from hapo_jax.grading import pool as pool_lib

SMOKE = worker.Job("rollout", "smoke", "smoke")
SMOKE_UPDATE = dataclasses.replace(SMOKE, task="update")


def counted_flops(model: workload.Model, work: workload.Work) -> int:
    """Position by position, as slowly as can be."""
    D, C, H, K = model.d_model, model.head_dim, model.heads, model.kv_heads
    layer = D * H * C + 2 * D * K * C + H * C * D + 3 * D * model.d_ff

    def position(visible: int, draws: bool) -> int:
        attention = model.layers * 2 * H * C * visible  # scores, and weighted values
        return 2 * (model.layers * layer + attention + draws * D * model.vocab)

    P = work.prompts.shape[1]
    total = 0
    for _ in work.prompts:
        total += sum(position(i + 1, draws=i == P - 1) for i in range(P))
    for length in work.lengths:
        total += sum(position(P + i, draws=True) for i in range(1, length))
    return total


@pytest.mark.parametrize("name", ["smoke", "tail"])
def test_needed_flops_equal_a_count_by_position(name):
    model = workload.model("smoke")
    work = workload.work(name, vocab=model.vocab)
    assert workload.needed_flops(model, work) == counted_flops(model, work)


@pytest.mark.parametrize("name", workload.works())
def test_work_is_consistent(name):
    work = workload.work(name, vocab=4096)
    assert len(work.lengths) == len(work.prompts) * work.group_size
    assert work.lengths.min() >= 1
    assert work.lengths.max() == work.max_tokens
    assert not np.isin(work.prompts, [work.pad_id, work.stop_id]).any()
    assert work.ragged == (name in ("tail", "smoke"))


def test_more_requests_repeat_the_planned_lengths_with_prompts_of_their_own():
    once = workload.work("tail", vocab=4096)
    more = workload.work("tail", vocab=4096, requests=256)
    np.testing.assert_array_equal(more.lengths[:64], once.lengths)
    np.testing.assert_array_equal(more.prompts[:8], once.prompts)
    copies = more.lengths.reshape(4, 64)
    np.testing.assert_array_equal(np.sort(copies), np.sort(copies[:1]).repeat(4, 0))
    assert len({tuple(prompt) for prompt in more.prompts}) == 32
    with pytest.raises(ValueError, match="requests=100 must be a positive multiple"):
        workload.work("tail", vocab=4096, requests=100)


def test_a_run_with_other_lengths_than_planned_is_an_error():
    _, work = SMOKE.load()
    assert worker.generating(lambda seed: work.lengths, work)(1) == {}
    with pytest.raises(RuntimeError, match="are not the planned"):
        worker.generating(lambda seed: work.lengths + 1, work)(1)


def test_an_update_trains_on_the_planned_tokens_and_no_group_without_signal():
    _, work = SMOKE_UPDATE.load()
    update = SMOKE_UPDATE.update()
    np.testing.assert_array_equal(update.mask.sum(1), work.lengths)
    tokens = update.completions[update.mask]
    assert not np.isin(tokens, [work.pad_id, work.stop_id]).any()
    assert (update.completions[~update.mask] == work.pad_id).all()
    groups = update.advantages.reshape(-1, work.group_size)
    np.testing.assert_allclose(groups.sum(1), 0, atol=1e-5)  # float32
    assert (np.abs(update.advantages) > 0).all()
    assert [len(update.prompts[rows]) for rows in update.micro_batches] == [8, 8]
    _, long_prompts = dataclasses.replace(SMOKE, work="long_prompt").load()
    with pytest.raises(ValueError, match="must hold whole groups of 16"):
        workload.update(long_prompts, "smoke")


def test_an_update_counts_prompts_and_backward_passes():
    model, work = SMOKE_UPDATE.load()
    assert SMOKE_UPDATE.tokens() == SMOKE.tokens() + 16 * 8
    assert SMOKE_UPDATE.needed_flops() == 3 * workload.needed_flops(model, work)


def test_an_update_of_other_tokens_than_planned_is_an_error():
    _, work = SMOKE_UPDATE.load()
    found = {"trained": 171, "loss": 0.5}
    assert worker.updating(lambda: found, work)(1) == found
    with pytest.raises(RuntimeError, match="170 tokens were trained on, not the 171"):
        worker.updating(lambda: {"trained": 170}, work)(1)


def test_engines_that_find_another_loss_are_refused():
    def contender(label, variant, **found):
        process = types.SimpleNamespace(warm_up={variant: [found, {"loss": 9.0}]})
        return turns.Contender(label, process, variant)

    same = [
        contender("ours", "dapo", loss=0.3, grad_norm=2.0),
        contender("ours/hapo", "hapo", loss=0.7, grad_norm=3.0),
        contender("peer", "", loss=0.3001),
    ]
    report.check_same_work(same)
    with pytest.raises(RuntimeError, match="disagree on the grad_norm"):
        report.check_same_work([*same, contender("b", "", loss=0.3, grad_norm=2.1)])


def test_a_loop_does_one_step_at_a_time_and_says_why_it_ended():
    done = []

    def training(pause):
        for i in range(2):
            done.append(i)
            pause()
        raise ValueError("out of data")

    stepwise = loop.Stepwise(training)
    stepwise.step()
    assert done == [0]
    stepwise.step()
    assert done == [0, 1]
    with pytest.raises(RuntimeError) as caught:
        stepwise.step()
    assert "out of data" in str(caught.value.__cause__)


def test_turns_alternate_and_every_round_has_its_seed():
    calls = []

    def contender(label):
        run = lambda variant, seed: calls.append((label, seed)) or {"seed": seed}  # noqa: E731
        return turns.Contender(label, types.SimpleNamespace(run=run), "")

    results = turns.take_turns([contender("a"), contender("b")], rounds=3)
    assert calls == [("a", 1), ("b", 1), ("b", 2), ("a", 2), ("a", 3), ("b", 3)]
    assert [run["seed"] for run in results["b"]] == [1, 2, 3]


def test_engine_line_divides_runs_of_the_same_round():
    def contender(label):
        process = types.SimpleNamespace(
            job=SMOKE, warm_up={"": runs(5.0, 3.0)}, versions={}
        )
        return turns.Contender(label, process, "")

    def runs(*seconds):
        return [
            {"wall_s": s, "cpu_s": s / 2, "peak_rss_mib": 10.0 * s} for s in seconds
        ]

    ours, peer = contender("ours"), contender("peer")
    results = {"ours": runs(1.0, 2.0, 4.0), "peer": runs(2.0, 8.0, 12.0)}
    line = report.engine_line(ours, [ours, peer], results, best_gflop_s=1.0)
    assert line["tokens"] == 171
    assert line["tok_s"] == {"median": 85.5, "min": 42.75, "max": 171.0}
    assert line["speed_over"] == {"peer": {"median": 3.0, "min": 2.0, "max": 4.0}}
    assert (line["compile_s"], line["peak_rss_mib"]) == (4.0, 40)
    assert line["cpu_over_wall"] == 0.5
    needed = workload.needed_flops(*SMOKE.load())
    assert line["gflop_s"] == report.rounded(needed / 2.0 / 1e9)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--engine", "tunix"], "does not import tunix"),
        (["--requests", "16", "--engine", "hf"], "leave --engine out"),
        (["--requests", "9"], "requests=9 must be a positive multiple"),
        (["--requests", "16", "--compare", "temperature"], "exclude each other"),
        (["--rounds", "0"], "must be at least 1"),
        (["--before", "/dev"], "must be a checkout of this project"),
    ],
)
def test_arguments_are_refused_before_anything_starts(more, message, capsys, tmp_path):
    python = ["--peer-python", str(tmp_path / "none")]
    with pytest.raises(SystemExit):
        rollout.parse(["--model", "smoke", "--work", "smoke", *python, *more])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--work", "step", "--engine", "hf"], "--engine hf cannot do --work=step"),
        (["--work", "smoke", "--compare", "method", "--engine", "trl"], "leave"),
        (["--work", "long_prompt"], "must hold whole groups of 16"),
        (["--work", "smoke", "--set", "learner.micro_rows"], "must be KEY=VALUE"),
        (["--work", "smoke", "--set", "model.dtype=float32"], "with a JSON value"),
        (["--work", "smoke", "--set", "learner.micro_row=8"], 'mean "micro_rows"'),
        (["--work", "smoke", "--set", 'learner.micro_rows="8"'], "type <class 'str'>"),
    ],
)
def test_arguments_of_training_are_refused(more, message, capsys, tmp_path):
    with pytest.raises(SystemExit):
        train.parse(["--model", "smoke", "--peer-python", str(tmp_path / "no"), *more])
    assert message in capsys.readouterr().err


def test_a_worker_that_ends_says_why():
    job = dataclasses.replace(SMOKE, model="no such model", methods=("jax",))
    env = turns.environment(cores=1)
    with pytest.raises(RuntimeError, match=r"worker w ended with code 1[^$]*KeyError"):
        turns.Worker("w", sys.executable, "benchmarks.ceilings", job, cores=1, env=env)


def test_workers_need_as_many_cores_as_there_are():
    with pytest.raises(ValueError, match="cores=4096 must be between 1 and"):
        with turns.pinned(4096):
            pass
    with pytest.raises(ValueError, match="first_core=4096 with cores=1 must lie"):
        with turns.pinned(1, 4096):
            pass


@pytest.mark.slow  # starts two processes that import jax and compile
def test_our_engine_generates_the_planned_lengths(capsys, tmp_path):
    peers = f"--peer-python={tmp_path / 'none'}"
    options = "--model=smoke --work=smoke --rounds=2 --slots=4 --compare=temperature"
    rollout.main([*options.split(), peers])
    *lines, ratio, ceiling = map(json.loads, capsys.readouterr().out.splitlines())
    assert [line["engine"] for line in lines] == ["hapo_jax/hapo", "hapo_jax/dapo"]
    for line in lines:
        assert (line["tokens"], line["n"], line["cores"]) == (171, 2, 1)
        assert line["tok_s"]["min"] <= line["tok_s"]["median"] <= line["tok_s"]["max"]
        assert line["wall_s"]["min"] > 0 and line["peak_rss_mib"] > 0
        assert 0 < line["of_ceiling"] < 1
    hapo, dapo = (line["speed_over"] for line in lines)
    assert dapo["hapo_jax/hapo"] == ratio["hapo_over_dapo"]
    assert hapo["hapo_jax/dapo"]["min"] == pytest.approx(
        1 / dapo["hapo_jax/hapo"]["max"], rel=1e-3
    )  # rounding to five digits
    assert set(ceiling["ceiling"]) == {"jax"}
    assert ceiling["best_gflop_s"] == max(ceiling["ceiling"]["jax"]["gflop_s"].values())


@pytest.mark.long  # starts three processes that import jax and compile
@pytest.mark.parametrize("work", ["smoke", "step"])
def test_our_learner_does_the_planned_update(work, capsys, tmp_path):
    peers, before = f"--peer-python={tmp_path / 'none'}", f"--before={turns.ROOT}"
    train.main(["--model=smoke", f"--work={work}", "--rounds=1", peers, before])
    line, other, _ = map(json.loads, capsys.readouterr().out.splitlines())
    assert other["engine"] == "hapo_jax@before" and other["tokens"] == line["tokens"]
    assert line["speed_over"].keys() == {"hapo_jax@before"}
    assert line["tokens"] == (171 + 16 * 8 if work == "smoke" else 16 * 256)
    assert line["compile_s"] > 0 and line["tok_s"]["median"] > 0
    assert work == "step" or line["grad_norm"] > 0


def test_workers_of_peers_import_no_part_of_this_package():
    for path in (pathlib.Path(turns.__file__).parent / "peers").glob("*.py"):
        assert "hapo_jax" not in path.read_text(), path.name


@pytest.mark.skipif(sys.platform != "linux", reason="confines programs on Linux alone")
def test_grading_is_measured_on_right_completions(monkeypatch):
    with pool_lib.GradingPool(
        num_workers=1, timeout_s=30.0, memory_gib=4.0, start_timeout_s=120.0
    ) as pool:
        for name in grading_benchmark.WORK:
            line = grading_benchmark.measure(pool, name, seconds=0.01)
            assert line["work"] == name
            assert line["gradings_s"] > 0
        monkeypatch.setitem(grading_benchmark.WORK, "twice", ("math", same, 1))
        with pytest.raises(RuntimeError, match="twice: .* of"):
            grading_benchmark.measure(pool, "twice", seconds=0.01)


def same():
    """Equal completions, which the pool does not grade again."""
    while True:
        yield "Answer: 1", "1"
