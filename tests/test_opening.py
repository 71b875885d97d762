"""What programs say before they begin: complete, short, and of the right thing."""

import pathlib

import jax
import numpy as np
import pytest

from hapo_jax import assembly, opening
from hapo_jax.config import check, defaults, eval_sets
from hapo_jax.model import policy as policy_lib
from hapo_jax.rollout import batch as batch_lib
from hapo_jax.rollout.demonstrations import Demonstrations
from hapo_jax.rollout.prompts import PromptSet
from hapo_jax.tasks.problems import Problem
from tests.config.test_check import load

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
# Beside the block: what is read from two files, and problems that are left out by id.
MOST_LINES = 15 - 3


@pytest.fixture(scope="module")
def policy():
    config = load("countdown")
    mesh = policy_lib.make_mesh(config)
    config.unlock().rollout.max_completion_tokens = 32
    return assembly.describe(config, mesh)


def prompts(policy, text="numbers 2 5 7 target 3 :", count=3):
    problems = [Problem(f"p{i}", text, "3", "here") for i in range(count)]
    tokens = np.array(policy.tokenizer.encode_prompt(text), np.int32)
    return PromptSet(tuple(problems), (tokens,) * count, num_overlong=2)


def facts_of(config, policy, demonstrations=None):
    resolved = check.check(config, num_devices=jax.device_count())
    sets = eval_sets.parse(resolved.config.eval.sets, resolved.config)
    held_out = [(s, prompts(policy)) for s in sets]
    run = assembly.Run(
        config=resolved.config,
        policy=policy,
        prompts=prompts(policy),
        demonstrations=demonstrations,
    )
    return opening.of_run(run, resolved, config, held_out)


NAMES = sorted(str(p.relative_to(CONFIGS))[:-3] for p in CONFIGS.rglob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_shipped_configs_take_few_lines(policy, name, caplog):
    caplog.set_level("INFO", "hapo_jax")
    config = load(name, None)
    config.unlock().mesh.update(data=-1, fsdp=1, tensor=1)
    if "rollout" not in config:
        pytest.skip("a supervised run, see below")
    opening.show("title", facts_of(config.lock(), policy))
    (record,) = caplog.records
    assert 10 < len(record.getMessage().splitlines()) <= MOST_LINES


def test_all_is_said(policy):
    changes = {
        "task.system_prompt": "yes",
        "algo.kl.strength": 0.01,
        "reward.overlong_buffer_tokens": 8,
        "reward.format_weight": 0.5,
        "rollout.top_p": 0.9,
        "rollout.off_policy": "accept",
    }
    config = load("countdown").unlock()
    config.update_from_flattened_dict(changes)
    found = facts_of(config.lock(), policy)
    found["data"] += opening.leaks({"data/overlap": 1, "data/test_problems": 3})
    expected = {
        "model": "qwen3, 154 k parameters, computes in float32, from ",
        "prompts": "plain text (the tokenizer has no chat template), system prompt "
        "'yes', at most 7 tokens",
        "first prompt": "'numbers 2 5 7 target 3 :'; its last tokens: 'numbers' '2' ",
        "data": "3 problems of countdown: ",
        "grading": "countdown; reward 1 if right, 0 if wrong; 0.5 for an answer that "
        "can be read; up to -1 over the last 8 tokens; at most 10 s each",
        "method": "hapo (advantage grpo, strengths A 0.1, B 1, C 1, D 1, clip 0.2 / "
        "0.28, token_mean, KL 0.01) with algo.kl.strength=0.01 (not 0.0)",
        "step": "32 prompts × 8 completions until '<eos>' or 96 tokens, at temperature "
        "1, top-p 0.9, in rounds of 32 prompts, at most 2, until 32 groups have right "
        "and wrong ones",
        "learning": "2 updates per step, of 16 prompts each; learning rate 0.0002 "
        "after 5 steps of warm-up, cosine to 0 in step 150; weight decay 0.01",
        "derived": "rollout.round_prompts=32 (rollout.batch_prompts), ",
        "evaluation": "test (3 of 3 problems); 8 completions each at temperature 1, "
        "top-p 0.95 and a greedy one; at the start, every 30 steps and at the end",
        "devices": f"{jax.device_count()} x cpu (cpu)",
    }
    assert found.keys() == expected.keys()
    for name, words in expected.items():
        assert found[name].startswith(words), found[name]
    assert found["data"].endswith(
        "2 too long ones left out; 1 of 3 evaluation problems among them"
    )


def test_demonstrations_beside_the_rollout_are_said(policy):
    config = load("countdown", "method=chord").unlock()
    changes = {"schedule": "cosine", "final_weight": 0.05, "decay_steps": 200}
    config.algo.demonstrations.update(changes)
    rows = batch_lib.RolloutBatch.of_tokens(
        prompt_tokens=np.zeros((5, 7), np.int32),
        prompt_lengths=np.full(5, 7, np.int32),
        completion_tokens=np.zeros((5, 9), np.int32),
        completion_mask=np.ones((5, 9), bool),
    )
    shown = Demonstrations([], rows)
    found = facts_of(config.lock(), policy, shown)["imitated"]
    assert found.startswith("32 of 5 demonstrations (give_up=0.0 max_attempts=15 ")
    words = ") beside each update, by phi, weight 0.1, cosine to 0.05 in step 201"
    assert found.endswith(words)


def test_a_long_prompt_is_cut_and_its_end_is_seen(policy):
    tokens = policy.tokenizer.encode("numbers " + "2 " * 500 + "target 3 :")
    text = opening._first(policy, np.array(tokens))
    assert len(text) < 320 and text.startswith("'numbers 2 2 ")
    assert text.endswith(
        "target 3 :'; its last tokens: '2' '2' '2' '2' '2' 'target' '3' ':'"
    )


def test_a_start_says_where_it_goes_on():
    assert opening.start("a", [], 9) == "a is new; steps 1 to 9"
    assert opening.start("a", [2, 4], 9) == "a goes on behind step 4, to step 9"


def test_an_evaluation(policy):
    config = check.check(load("countdown"), num_devices=jax.device_count()).config
    sets = eval_sets.parse("", config)
    run = assembly.Run(config=config, policy=policy)
    found = opening.of_evaluation(run, [(sets[0], prompts(policy))])
    assert found["sets"] == "test (3 of 3 problems)"
    assert found["drawn"].endswith("and a greedy one, until '<eos>' or 96 tokens")
    assert found["grading"] == "countdown; at most 10 s each"
    assert len(found) <= MOST_LINES


def test_a_supervised_run(policy):
    config = load("countdown_sft")
    resolved = check.check_sft(config, num_devices=jax.device_count())
    mask = np.array([[True, True, False]])
    eos = policy.tokenizer.stop_ids[0]
    word = policy.tokenizer.encode("yes")[0]
    prompt = np.array([[0, *policy.tokenizer.encode("target 3 :")]], np.int32)
    rows = batch_lib.RolloutBatch.of_tokens(
        prompt_tokens=prompt,
        prompt_lengths=np.array([3]),
        completion_tokens=np.array([[word, eos, 0]]),
        completion_mask=mask,
    )
    run = assembly.Run(config=resolved.config, policy=policy)
    found = opening.of_sft(run, resolved, rows, rows)
    assert found["first prompt"].startswith(
        "'target 3 :'; its last tokens: 'target' '3'"
    )
    assert found["completed by"].startswith("'yes <eos>'; at most ")
    assert found["data"].startswith("1 demonstrations of countdown: ")
    assert found["learning"].startswith("maximum likelihood, 128 demonstrations per ")
    assert len(found) <= MOST_LINES


def test_plain_prompts_beside_turn_tokens_are_warned_of(policy, caplog, monkeypatch):
    config = defaults.default()
    assembly.warn_of_prompts(config, policy)
    assert not caplog.records
    vocabulary = {"[INST]": 1, "a": 0}
    monkeypatch.setattr(policy.tokenizer.backend, "get_vocab", lambda: vocabulary)
    assembly.warn_of_prompts(config, policy)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "has [INST]" in record.getMessage()


def test_sets_of_one_task_and_two_gradings(policy):
    """Each is told, and the default of the task where a set leaves it open."""
    config = load("gsm8k").unlock()
    config.task.train.grading = "dapo"
    config.mesh.update(data=-1)
    assert facts_of(config.lock(), policy)["grading"].startswith(
        "math (dapo), math (len"
    )
