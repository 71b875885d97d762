"""A step goes on whatever completions hold: the real verifier behind a fake sampler."""

import concurrent.futures
import functools
import json
import sys

import numpy as np
import pytest

from hapo_jax.grading import pool as pool_lib
from hapo_jax.rollout import collect, generate, schedule
from hapo_jax.rollout.batch import TokenRecord
from hapo_jax.rollout.prompts import PromptSet
from hapo_jax.rollout.requests import Completion
from hapo_jax.rollout.rewards import Rewards
from hapo_jax.rollout.sampler import Sampling
from hapo_jax.tasks.problems import Problem
from tests.tasks import hostile_programs

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="confines on Linux alone"
)

RIGHT, WRONG = "def square(n): return n * n", "def square(n): return n"
HOSTILE = [*list(hostile_programs.FORGERIES.values())[:6], "while True: pass"]
SPEC = {
    "tests": [{"type": "python", "code": "assert square(7) == 49"}],
    "entry_point": "square",
    "prelude": "",
    "test_s": 0.5,
    "total_s": 0.5,
    "memory_mib": 256,
}


class FakePrograms:
    """One token per completion: the number of its text. One in twenty is hostile."""

    max_prompt_tokens, max_completion_tokens = 2, 3
    sampling = Sampling(stop_ids=(), pad_id=0)
    mesh = None  # of one process

    def __init__(self):
        self.texts = []

    def run(self, programs, params, requests, **_):
        for place, _ in enumerate(requests):
            number = len(self.texts)
            if number % 20 == 19:
                text = HOSTILE[number // 20 % len(HOSTILE)]
            else:
                text = (RIGHT if number % 3 else WRONG) + f"  # {number}"
            self.texts.append(text)
            tokens = np.array([number], np.int32)
            yield Completion(
                request=place,
                tokens=tokens,
                record=TokenRecord.zeros((1,)),
                truncated=False,
            )


def test_steps_go_on_among_hostile_completions(monkeypatch):
    fake, G = FakePrograms(), 8
    monkeypatch.setattr(schedule, "run", fake.run)
    answer = json.dumps(SPEC)
    problems = tuple(Problem(str(i), "p", answer, "code") for i in range(4))
    prompts = PromptSet(problems, tuple(np.ones(1, np.int32) for _ in problems), 0)
    with pool_lib.GradingPool(
        num_workers=2, timeout_s=10.0, memory_gib=2.0, start_timeout_s=60.0
    ) as pool:
        generator = generate.Generator(
            programs=fake,
            prompts=prompts,
            decode=lambda tokens: fake.texts[tokens[0]],
            submit=functools.partial(pool.submit, "code"),
            rewards=Rewards(1.0, 0.0, 0.0, 3, 0, 1.0),
            seed=0,
        )
        draw = functools.partial(
            generate.generate, generator, None, None, base_temperatures=[1.0] * G
        )
        state = collect.StreamState()
        for step in range(5):
            batch, state, metrics = collect.collect(
                state,
                lambda ids, first, step=step: draw(
                    step=step, prompt_ids=ids, first_sample=first
                ),
                lambda cursor, count: np.arange(cursor, cursor + count) % len(problems),
                batch_prompts=4,
                round_prompts=4,
                group_size=G,
                dynamic_sampling=True,
                max_rounds=2,
            )
            texts = [fake.texts[tokens[0]] for tokens in batch.completion_tokens]
            expected = [float(text.startswith(RIGHT)) for text in texts]
            np.testing.assert_array_equal(batch.rewards, np.float32(expected))
            assert metrics["grading/crashed"] == 0
        counters = pool.counters
    assert counters["grading/code/timed_out"] >= 1
    graded = counters["grading/code/graded"] + counters["grading/code/cached"]
    assert graded + counters["grading/code/timed_out"] == len(fake.texts)


class Scripted(FakePrograms):
    """Completions whose single token is the number of their request."""

    def run(self, programs, params, requests, **_):
        self.requests = list(requests)
        for place in reversed(range(len(self.requests))):
            length = 1 + place % 3
            yield Completion(
                request=place,
                tokens=np.full(length, place, np.int32),
                record=TokenRecord.zeros((length,)),
                truncated=place % 4 == 0,
            )


def graded_at_once(pairs):
    """Right if the number is odd; a future that is done."""
    grades = [
        pool_lib.GradeResult(int(text) % 2, text, "graded", "") for text, _ in pairs
    ]
    future = concurrent.futures.Future()
    future.set_result(grades)
    return future


def scripted(monkeypatch, **options):
    """Two prompts, two completions each, and what was asked for."""
    fake = Scripted()
    monkeypatch.setattr(schedule, "run", fake.run)
    problems = tuple(Problem(str(i), "p", "", "code") for i in range(2))
    prompts = PromptSet(problems, tuple(np.ones(1, np.int32) for _ in problems), 0)
    generator = generate.Generator(
        programs=fake,
        prompts=prompts,
        decode=lambda tokens: str(tokens[0]),
        submit=graded_at_once,
        rewards=Rewards(3.0, -1.0, 0.0, 3, 0, 1.0),
        seed=0,
    )
    batch, counts = generate.generate(
        generator,
        None,
        None,
        base_temperatures=[0.7, 0.7],
        step=1,
        prompt_ids=np.array([1, 0]),
        first_sample=np.array([0, 2]),
        **options,
    )
    return batch, counts, fake.requests


def test_a_greedy_completion_is_a_baseline_and_no_row(monkeypatch):
    """Requests 0, 1, 2 are of the first prompt, and 2 is greedy; so are 3, 4, 5."""
    batch, counts, requests = scripted(monkeypatch, greedy_baseline=True)
    assert [r.base_temperature for r in requests] == [0.7, 0.7, 0.0] * 2
    assert [r.prompt_id for r in requests] == [1, 1, 1, 0, 0, 0]
    np.testing.assert_array_equal(batch.completion_tokens[:, 0], [0, 1, 3, 4])
    np.testing.assert_array_equal(batch.rewards, [-1, 3, 3, -1])
    np.testing.assert_array_equal(batch.baselines, [-1, -1, 3, 3])  # of 2 and of 5
    np.testing.assert_array_equal(batch.group_ids, [0, 0, 2, 2])
    np.testing.assert_array_equal(batch.sample_ids, [0, 1, 2, 3])
    # All that was drawn is paid for; rewards are of the rows alone.
    assert counts["ledger/sampled_completions"] == 6
    assert counts["ledger/sampled_tokens"] == 1 + 2 + 3 + 1 + 2 + 3
    assert counts["reward/correctness"] == -1 + 3 + 3 - 1
    assert counts["grading/graded"] == 6


def test_without_it_none_is_drawn(monkeypatch):
    batch, counts, requests = scripted(monkeypatch)
    assert [r.base_temperature for r in requests] == [0.7] * 4
    np.testing.assert_array_equal(batch.baselines, np.zeros(4))
    assert counts["ledger/sampled_completions"] == len(batch.rewards) == 4
