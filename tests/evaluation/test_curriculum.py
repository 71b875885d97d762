"""The order by semantic entropy: classes of answers, stages, and the stream's order."""

import itertools
import json
import math

import numpy as np
import pytest

from configs import countdown
from hapo_jax import train
from hapo_jax.config import check
from hapo_jax.evaluation import curriculum
from hapo_jax.rollout import generate as generate_lib
from hapo_jax.rollout import prompts
from hapo_jax.runs import records as records_lib
from hapo_jax.system.errors import Refused
from tests.test_real_input import checkpoint, data, make_config  # noqa: F401, fixtures


def test_equal_answers_are_one_class():
    """By hand: classes of probability 0.3 + 0.1 and 0.2, so shares 2/3 and 1/3."""
    found = curriculum.semantic_entropy([0, 1, 0], np.log([0.3, 0.2, 0.1]))
    assert found == pytest.approx(-(2 / 3) * math.log(2 / 3) - math.log(1 / 3) / 3)
    assert curriculum.semantic_entropy([4, 4], [-900.0, -1000.0]) == 0
    assert curriculum.semantic_entropy([0, 1], [-900.0, -900.0]) == pytest.approx(
        math.log(2)
    )


def test_completions_without_an_answer_do_not_agree():
    found = curriculum.semantic_entropy([None, None, 3], np.log([0.2, 0.2, 0.2]))
    assert found == pytest.approx(math.log(3))


def record(votes, logprobs, lengths):
    return {"votes": votes, "logprobs": logprobs, "lengths": lengths}


def test_certain_problems_come_first():
    records = [
        record([0, 1], [-1.0, -1.0], [2, 2]),  # log 2
        record([0, 0], [-1.0, -2.0], [2, 2]),  # 0
        record([0, 1], [-1.0, -9.0], [1, 9]),  # little; per token log 2
        record([0, 0], [-5.0, -2.0], [2, 2]),  # 0
    ]

    def order(number, per_token):
        found = curriculum.stages(records, number, per_token=per_token)
        return [list(stage) for stage in found]

    assert order(2, False) == [[1, 3], [2, 0]]
    assert order(2, True) == [[1, 3], [0, 2]]
    assert order(3, False) == [[1, 3], [2], [0]]


def test_stages_come_one_after_another_in_every_pass():
    stages = [np.array([5, 2, 7]), np.array([0, 1, 3]), np.array([6, 4])]
    whole = prompts.take_staged(stages, 3, 0, 24)
    for start in (0, 8, 16):
        ends = np.cumsum([start, *map(len, stages)])
        for stage, a, b in zip(stages, ends, ends[1:]):
            assert set(whole[a:b]) == set(stage)
    assert list(whole[:8]) != list(whole[8:16]) or list(whole[:8]) != list(whole[16:])
    for cursor, count in ((0, 1), (7, 2), (5, 19), (23, 1), (8, 8)):
        np.testing.assert_array_equal(
            prompts.take_staged(stages, 3, cursor, count),
            whole[cursor : cursor + count],
        )
    assert list(prompts.take_staged(stages, 4, 0, 24)) != list(whole)


@pytest.mark.parametrize("missing", ["samples", "stages"])
def test_what_the_paper_does_not_give_is_asked_for(missing):
    config = countdown.get_config().unlock()
    config.data.order = "semantic_entropy"
    config.data.curriculum.update({"samples": 2, "stages": 2} | {missing: 0})
    with pytest.raises(Refused, match=f"data.curriculum.{missing} is missing"):
        check.check(config, num_devices=1)


SORTED = {
    "data.order": "semantic_entropy",
    "data.curriculum.samples": 4,
    "data.curriculum.stages": 2,
    "rollout.round_prompts": 2,
    "rollout.batch_prompts": 2,
    "learner.minibatch_prompts": 2,
    "eval.at_start": False,
    "checkpoint.every_steps": 1,
}


def run(checkpoint, data, workdir, num_steps, monkeypatch):  # noqa: F811
    """The prompts of each round, in their order."""
    real, met = generate_lib.generate, []

    def generate(*args, prompt_ids, **options):
        met.append(list(prompt_ids))
        return real(*args, prompt_ids=prompt_ids, **options)

    with monkeypatch.context() as patch:
        patch.setattr(generate_lib, "generate", generate)
        config = make_config(checkpoint, data, "grpo", num_steps=num_steps, **SORTED)
        train.train(config, str(workdir))
    return met


@pytest.mark.slow
def test_a_run_meets_its_problems_in_that_order_and_goes_on_with_it(
    checkpoint,  # noqa: F811
    data,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    met = run(checkpoint, data, whole, 3, monkeypatch)
    found = records_lib.read_lines(whole / records_lib.ORDER)
    assert [r["id"] for r in sorted(found, key=lambda r: r["id"])] == [
        "p0",
        "p1",
        "p2",
        "p3",
    ]
    ordered = sorted(found, key=lambda r: r["id"])
    stages = curriculum.stages(ordered, 2, per_token=True)
    expected = prompts.take_staged(stages, 0, 0, 6)
    assert list(itertools.chain(*met)) == list(expected)
    # What the order has cost is in the ledger from the first step on.
    lines = [m for m in records_lib.read_metrics(whole) if m["step"]]
    cost = sum(sum(r["lengths"]) for r in found)
    total = lines[0]["ledger/total_sampled_tokens"]
    assert total == cost + lines[0]["ledger/sampled_tokens"]
    assert lines[0]["ledger/total_sampled_completions"] == 4 * 4 + 16

    first = run(checkpoint, data, parts, 1, monkeypatch)
    # A kill while the problems were ordered costs those that it did not come to.
    assert (parts / records_lib.ORDER).read_text() == (
        whole / records_lib.ORDER
    ).read_text()
    assert first + run(checkpoint, data, parts, 3, monkeypatch) == met
    resumed = [m for m in records_lib.read_metrics(parts) if m["step"]]
    key = "ledger/total_sampled_tokens"
    assert [m[key] for m in resumed] == [m[key] for m in lines]

    lost = (parts / records_lib.ORDER).read_text().splitlines()[:-1]
    (parts / records_lib.ORDER).write_text("\n".join(lost) + "\n")
    assert all(json.loads(line) for line in lost)
    with pytest.raises(Refused, match="does not hold every training problem"):
        run(checkpoint, data, parts, 4, monkeypatch)
