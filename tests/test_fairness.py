"""Methods meet on equal terms: the same prompts, one ledger, scores beside rewards."""

import numpy as np
import pytest

from hapo_jax import train
from hapo_jax.rollout import generate as generate_lib
from hapo_jax.runs import records as records_lib
from tests.test_real_input import checkpoint, data, make_config  # noqa: F401, fixtures

# Rollouts that differ: temperatures, groups left out, other rewards.
METHODS = ("hapo", "dapo", "grpo", "hapo_public")


@pytest.fixture(scope="module")
def runs(checkpoint, data, tmp_path_factory):  # noqa: F811
    """By method: the metrics of two steps, and the batches that were drawn."""
    real, found = generate_lib.generate, {}
    for method in METHODS:
        drawn = []

        def generate(*args, drawn=drawn, **options):
            batch, counts = real(*args, **options)
            drawn.append(batch)
            return batch, counts

        workdir = tmp_path_factory.mktemp(method)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(generate_lib, "generate", generate)
            config = make_config(checkpoint, data, method, num_steps=2)
            train.train(config, str(workdir))
        lines = [m for m in records_lib.read_metrics(workdir) if m["step"]]
        found[method] = lines, drawn
    return found


def prompts(drawn) -> list[int]:
    """Of each group, in the order in which they were drawn."""
    return [
        prompt
        for batch in drawn
        for prompt in batch.prompt_ids[batch.group_ids == np.arange(len(batch.scores))]
    ]


@pytest.mark.slow
def test_every_method_meets_the_same_prompts_in_the_same_order(runs):
    orders = sorted((prompts(drawn) for _, drawn in runs.values()), key=len)
    longest = orders[-1]
    assert len(longest) > len(orders[0]), "none left a group out; this says little"
    for order in orders:
        assert order == longest[: len(order)]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_ledger_holds_all_that_was_drawn(runs, method):
    lines, drawn = runs[method]
    last = lines[-1]
    tokens = sum(batch.completion_mask.sum() for batch in drawn)
    completions = sum(len(batch.scores) for batch in drawn)
    assert last["ledger/total_sampled_tokens"] == tokens > 0
    assert last["ledger/total_sampled_completions"] == completions
    for name in ("sampled_tokens", "sampled_completions", "trained_tokens", "updates"):
        total = sum(line[f"ledger/{name}"] for line in lines)
        assert last[f"ledger/total_{name}"] == total
    assert last["ledger/total_updates"] > 0 < last["ledger/total_trained_tokens"]
    assert last["time/total"] == pytest.approx(sum(m["time/step"] for m in lines))


@pytest.mark.slow
def test_scores_are_logged_beside_a_reward_of_the_methods_own(runs):
    """The first completions of methods without an adaptive temperature are the same,
    and so are their scores, whatever the method makes of them."""
    (grpo, of_grpo), (public, of_public) = runs["grpo"], runs["hapo_public"]
    np.testing.assert_array_equal(of_grpo[0].scores, of_public[0].scores)
    assert grpo[0]["rollout/accuracy"] == public[0]["rollout/accuracy"]
    assert grpo[0]["rollout/reward"] != public[0]["rollout/reward"]
