"""Methods meet on equal terms: the same prompts, one ledger, scores beside rewards."""

import numpy as np
import pytest

from hapo_jax import train
from hapo_jax.rollout import generate as generate_lib
from hapo_jax.rollout import schedule
from hapo_jax.runs import records as records_lib
from tests.test_real_input import checkpoint, data, make_config  # noqa: F401, fixtures

# Rollouts that differ: temperatures, groups left out, other rewards.
CORRECTION = {"share": 1.0, "new_tokens": 2}
CHANGES = {
    "edge_grpo": {
        "rollout.max_completion_tokens": 20,
        **{f"rollout.correction.{key}": value for key, value in CORRECTION.items()},
    }
}
METHODS = ("hapo", "grpo", "hapo_public", "aepo", "remax", "edge_grpo")


@pytest.fixture(scope="module")
def runs(checkpoint, data, tmp_path_factory):  # noqa: F811
    """By method: the metrics of two steps, the batches that were drawn, and the
    lengths of all completions that came from the sampler."""
    generated, sampled, found = generate_lib.generate, schedule.run, {}
    for method in METHODS:
        drawn, lengths = [], []

        def generate(*args, drawn=drawn, **options):
            batch, counts = generated(*args, **options)
            drawn.append(batch)
            return batch, counts

        def run(*args, step, lengths=lengths, **options):
            for completion in sampled(*args, step=step, **options):
                if step in (1, 2):  # and of no evaluation
                    lengths.append(len(completion.tokens))
                yield completion

        workdir = tmp_path_factory.mktemp(method)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(generate_lib, "generate", generate)
            patch.setattr(schedule, "run", run)
            changes = CHANGES.get(method, {})
            config = make_config(checkpoint, data, method, num_steps=2, **changes)
            train.train(config, str(workdir))
        lines = [m for m in records_lib.read_metrics(workdir) if m["step"]]
        found[method] = lines, drawn, lengths
    return found


def prompts(drawn) -> list[int]:
    """Of each group, in the order in which they were drawn; rounds have four."""
    return [
        prompt
        for batch in drawn
        if len(batch.scores) == 4 * 8  # and no second rollout
        for prompt in batch.prompt_ids[batch.group_ids == np.arange(len(batch.scores))]
    ]


@pytest.mark.slow
def test_every_method_meets_the_same_prompts_in_the_same_order(runs):
    orders = sorted((prompts(drawn) for _, drawn, _ in runs.values()), key=len)
    longest = orders[-1]
    assert len(longest) > len(orders[0]), "none left a group out; this says little"
    for order in orders:
        assert order == longest[: len(order)]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_ledger_holds_all_that_was_drawn(runs, method):
    lines, _, lengths = runs[method]
    last = lines[-1]
    assert last["ledger/total_sampled_tokens"] == sum(lengths) > 0
    assert last["ledger/total_sampled_completions"] == len(lengths)
    beside = sum(lines[i]["ledger/sampled_completions"] for i in (0, 1)) - sum(
        lines[i]["rollout/completions"] for i in (0, 1)
    )
    # Of four prompts per step: a greedy completion each, or one of them drawn again.
    extended = sum(line.get("correction/extended", 0) for line in lines)
    assert beside == {"remax": 2 * 4, "aepo": 2 * 8, "edge_grpo": extended}.get(
        method, 0
    )
    for name in ("sampled_tokens", "sampled_completions", "trained_tokens", "updates"):
        total = sum(line[f"ledger/{name}"] for line in lines)
        assert last[f"ledger/total_{name}"] == total
    assert last["ledger/total_updates"] > 0 < last["ledger/total_trained_tokens"]
    assert last["time/total"] == pytest.approx(sum(m["time/step"] for m in lines))


@pytest.mark.slow
def test_a_second_rollout_is_paid_for_and_in_no_mean(runs):
    lines, drawn, _ = runs["aepo"]
    groups, second = ([b for b in drawn if len(b.scores) == n] for n in (32, 8))
    assert len(groups) == len(second) == len(lines)
    for line, first, again in zip(lines, groups, second):
        assert line["rollout/completions"] == 32
        assert line["rollout/accuracy"] == pytest.approx(first.scores.mean())
        assert line["second/accuracy"] == pytest.approx(again.scores.mean())
        kept = np.count_nonzero(again.rewards > again.rewards.mean())
        # Before the first step the entropy counts as 0, and afterwards it is high.
        expected = kept if line["step"] == 1 else kept // 2
        assert line["second/kept"] == expected
    assert [line["second/temperature"] for line in lines] == [1.2, 0.8]
    assert sum(line["second/kept"] for line in lines) > 0


@pytest.mark.slow
def test_corrections_are_paid_for_and_change_what_is_learnt_from(runs):
    lines, drawn, lengths = runs["edge_grpo"]
    for line, batch in zip(lines, drawn, strict=True):
        kinds = [line[f"correction/{k}"] for k in ("extended", "answered", "replaced")]
        wrong = 32 * (1 - line["correction/first_accuracy"])
        assert 0 < sum(kinds) <= round(wrong) and min(kinds) > 0
        assert line["rollout/accuracy"] > line["correction/first_accuracy"]
        # Put behind a first completion, or in its place.
        given = batch.given.any(1)
        assert given.sum() == sum(kinds)
        assert (batch.given & batch.completion_mask).sum() == batch.given.sum()
        assert not batch.record.temperature[batch.given].any()
        drawn_there = batch.completion_mask & ~batch.given
        assert (batch.record.temperature[drawn_there] > 0).all()
    # Nobody has paid for what was put there, and somebody for what it replaced.
    paid = sum(line["ledger/sampled_tokens"] for line in lines)
    kept = sum((b.completion_mask & ~b.given).sum() for b in drawn)
    assert sum(lengths) == paid >= kept


@pytest.mark.slow
def test_scores_are_logged_beside_a_reward_of_the_methods_own(runs):
    """The first completions of methods without an adaptive temperature are the same,
    and so are their scores, whatever the method makes of them."""
    (grpo, of_grpo, _), (public, of_public, _) = runs["grpo"], runs["hapo_public"]
    np.testing.assert_array_equal(of_grpo[0].scores, of_public[0].scores)
    assert grpo[0]["rollout/accuracy"] == public[0]["rollout/accuracy"]
    assert grpo[0]["rollout/reward"] != public[0]["rollout/reward"]
