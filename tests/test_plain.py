"""The fast path gives the numbers of `hapo_jax/plain.py`, and that is one page.

Two whole steps of the Countdown demo's policy, both ways: the package with its slots,
packed rows, shared prompts and chunked head, assembled as a run assembles it; and the
page. The second step samples with the statistics of the first; each makes six updates,
far enough that ratios are clipped on both sides and advantages redistributed.
"""

import ast
import concurrent.futures
import functools
import pathlib
from typing import NamedTuple

import jax
import numpy as np
import optax
import pytest

from configs import countdown as countdown_config
from hapo_jax import assembly, plain
from hapo_jax.config import resolution
from hapo_jax.grading import pool as pool_lib
from hapo_jax.learner import learn as learn_lib
from hapo_jax.learner import optimizer as optimizer_lib
from hapo_jax.model import sharding
from hapo_jax.rollout import generate as generate_lib
from hapo_jax.rollout import sampler
from hapo_jax.tasks import countdown

PAGE = pathlib.Path(plain.__file__)
NUM_STEPS, NUM_PROMPTS, GROUP, MAX_TOKENS = 2, 6, 8, 24
MINIBATCH_PROMPTS, PASSES = 2, 2
SEED = 1
# In float32 the entropy of a nearly certain token is rounding, 1e-7 nats, and its
# logarithm magnifies that. The floor lies above it.
FLOOR = 1e-3
# Plain descent: a change of the parameters is a gradient times this.
RATE = 0.1


class Seen(NamedTuple):
    """What one step did; of both ways the same names, NumPy."""

    state: tuple  # (params, statistics)
    sampled: dict
    scored: dict
    terms: dict  # of all tokens, under the policy after the step's updates
    loss: float


def config():
    """The demo's config, small, and with every update large."""
    c = countdown_config.get_config()
    with c.unlocked():
        c.seed = SEED
        c.rollout.batch_prompts = NUM_PROMPTS
        c.rollout.group_size = GROUP
        c.rollout.max_completion_tokens = MAX_TOKENS
        c.rollout.chunk_tokens = 5
        c.rollout.slots = 16  # for 48 completions: rows are refilled
        c.learner.minibatch_prompts = MINIBATCH_PROMPTS
        c.learner.passes = PASSES
        c.algo.entropy.floor = FLOOR
    return resolution.resolve(c).config


def descent():
    """An optimizer for both ways."""
    chain = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(RATE))
    return optimizer_lib.Optimizer(chain.init, chain.update, lambda state: RATE)


class Inline:
    """Grades at once, in this process."""

    def submit(self, task, pairs):
        assert task == "countdown"
        future = concurrent.futures.Future()
        grades = [countdown.grade(*pair) for pair in pairs]
        future.set_result([pool_lib.GradeResult(*g, "graded", "") for g in grades])
        return future


@functools.cache
def assembled():
    """Config, policy and prompts, on one device."""
    c = config()
    mesh = sharding.make_mesh(data=1, devices=jax.devices()[:1])
    policy = assembly.describe(c, mesh)
    return c, policy, assembly.make_prompts(c, policy, c.task.train)


def prompt_ids(step):
    return np.arange(NUM_PROMPTS) + 10 * step


@functools.cache
def fast() -> list[Seen]:
    """The package's two steps."""
    c, policy, prompts = assembled()
    run = assembly.Run(
        config=c,
        policy=policy,
        method=assembly.make_method(c),
        optimizer=descent(),
        prompts=prompts,
    )
    temperatures = [c.rollout.base_temperature] * GROUP
    found = []
    with jax.set_mesh(policy.mesh):
        draws = run.draws._replace(most_rows=NUM_PROMPTS * GROUP)
        programs = assembly.make_programs(run, draws)
        generator = assembly.make_generator(run, programs, prompts, Inline())
        learner, state = run.learner, run.first_state(policy.load())
        for step in range(1, NUM_STEPS + 1):
            batch, _ = generate_lib.generate(
                generator,
                run.to_sampler(state.params),
                state.method_state,
                base_temperatures=temperatures,
                step=step,
                prompt_ids=prompt_ids(step),
                first_sample=np.zeros(NUM_PROMPTS, int),
            )
            state, learnt, metrics = learn_lib.learn(
                learner, state, batch, passes=PASSES
            )
            terms, *_ = learn_lib.look_back(learner, state, learnt)
            seen = Seen(
                jax.device_get((state.params, state.method_state["entropy"])),
                dict(
                    tokens=batch.completion_tokens,
                    mask=batch.completion_mask,
                    entropy=batch.record.entropy,
                    temperature=batch.record.temperature,
                    behavior_logprobs=batch.record.behavior_logprobs,
                    rewards=batch.rewards,
                ),
                dict(
                    old_logprobs=learnt.rows.old_logprobs,
                    old_entropy=learnt.rows.old_entropy,
                    score=learnt.prepared.constants["score"],
                    advantages=learnt.prepared.constants["advantages"],
                ),
                dict(
                    loss=terms.loss,
                    ratio=terms.ratio,
                    low=terms.clip_low,
                    high=terms.clip_high,
                    advantages=terms.advantages,
                    clipped_low=terms.clipped_low,
                    clipped_high=terms.clipped_high,
                ),
                metrics["loss/policy"],
            )
            found.append(seen)
    return found


@functools.cache
def slow() -> list[Seen]:
    """The page's two steps, from the same weights and prompts."""
    c, policy, prompts = assembled()
    words, optimizer = policy.tokenizer, descent()
    setup = plain.Setup(
        graphdef=policy.graphdef,
        optimizer=optimizer,
        stop_ids=words.stop_ids,
        pad_id=words.pad_id,
        max_tokens=MAX_TOKENS,
        group_size=GROUP,
        minibatch_rows=MINIBATCH_PROMPTS * GROUP,
        passes=PASSES,
    )
    settings = plain.Settings(floor=FLOOR)
    params = jax.device_put(jax.device_get(policy.load()), jax.devices()[0])
    state, found = (params, optimizer.init(params), plain.Stats()), []
    for step in range(1, NUM_STEPS + 1):
        ids = np.repeat(prompt_ids(step), GROUP)
        tokens, lengths = prompts.rows(ids, c.rollout.max_prompt_tokens, words.pad_id)
        keys = plain.row_keys(SEED, step, ids, np.arange(len(ids)) % GROUP)

        def grade(tokens, mask):
            texts = [words.decode(row[kept]) for row, kept in zip(tokens, mask)]
            answers = [prompts.problems[i].answer for i in ids]
            scores = [countdown.grade(*pair).score for pair in zip(texts, answers)]
            return np.array(scores, np.float32)

        state, samples, rewards, batch, updates = plain.hapo_step(
            setup, state, tokens, lengths, keys, grade, settings
        )
        _, old_entropy = plain.score_tokens(
            setup, params, tokens, lengths, samples.tokens, settings
        )
        params, _, stats = state
        _, terms = plain.loss(params, setup, batch, settings)
        # Mini-batches weigh with their tokens, as in the run's metric.
        counts = batch.mask.reshape(-1, setup.minibatch_rows * MAX_TOKENS).sum(1)
        losses = np.array([mean for mean, _ in updates])
        seen = Seen(
            (params, stats),
            samples._asdict() | dict(rewards=rewards),
            dict(
                old_logprobs=batch.old_logprobs,
                old_entropy=old_entropy,
                score=batch.score,
                advantages=batch.advantages,
            ),
            terms,
            np.average(losses, weights=np.tile(counts, PASSES)),
        )
        found.append(jax.device_get(seen))
    return found


STEPS = pytest.mark.parametrize("step", range(NUM_STEPS))


def assert_close(found, expected, mask=slice(None)):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        found_value, value = np.asarray(found[name])[mask], np.asarray(value)[mask]
        np.testing.assert_allclose(
            found_value, value, rtol=1e-5, atol=2e-5, err_msg=name
        )


@STEPS
def test_the_same_completions_and_records(step):
    """Token for token; records to 2e-5, since one of the passes reads a cache."""
    found, expected = fast()[step].sampled, slow()[step].sampled
    for name in ("tokens", "mask", "rewards"):
        np.testing.assert_array_equal(found[name], expected[name])
    assert_close(found, expected)
    temperature = expected["temperature"][expected["mask"]]
    if step == 0:
        assert (temperature == 1).all()  # no statistics yet
    else:
        assert temperature.min() < 0.9 and temperature.max() > 1.005


@STEPS
def test_the_same_scores_advantages_and_statistics(step):
    """To 2e-5: two float32 passes, of which one is packed."""
    found, expected = fast()[step], slow()[step]
    mask = expected.sampled["mask"]
    assert_close(found.scored, expected.scored, mask)
    stats = dict(zip(plain.Stats._fields, found.state[1]))
    assert_close(stats, expected.state[1]._asdict(), ...)
    assert expected.scored["score"][mask].min() == pytest.approx(-1, abs=1e-6)
    np.testing.assert_allclose(expected.scored["score"][mask].max(), 1, rtol=1e-6)


@STEPS
def test_the_same_loss_of_every_token_after_the_updates(step):
    """Ratios after six updates, their ranges, who is redistributed and who is clipped,
    to 2e-5."""
    found, expected = fast()[step], slow()[step]
    mask = expected.sampled["mask"]
    assert_close(found.terms, expected.terms, mask)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)
    terms, score = expected.terms, expected.scored["score"]
    for name in ("clipped_low", "clipped_high"):
        assert (terms[name] & mask).sum() >= 3, name
    changed = mask & (terms["advantages"] != expected.scored["advantages"])
    assert (changed & (score > 0)).sum() >= 3 and (changed & (score < 0)).sum() >= 3


@STEPS
def test_the_same_gradients(step):
    """Plain descent, so a step's change of the parameters is the sum of six gradients:
    equal to 3e-4 of its largest number, and of its length, in every tensor. (float32
    holds a parameter near 1 to 1e-7, and some change by as little as 1e-3.)"""
    start = jax.device_get(assembled()[1].load()) if step == 0 else slow()[0].state[0]
    own = start if step == 0 else fast()[0].state[0]

    def compare(found, expected, before_found, before):
        change = expected - before
        error = (found - before_found) - change
        assert np.abs(error).max() <= 3e-4 * np.abs(change).max()
        assert np.linalg.norm(error) <= 3e-4 * np.linalg.norm(change)

    jax.tree.map(compare, fast()[step].state[0], slow()[step].state[0], own, start)


def test_the_same_random_keys():
    ids, samples = np.array([0, 7, 7, 2**20]), np.array([3, 0, 1, 5])
    found = plain.row_keys(5, 11, ids, samples)
    expected = sampler.row_keys(5, 11, ids, samples)
    np.testing.assert_array_equal(
        jax.random.key_data(found), jax.random.key_data(expected)
    )


def test_it_is_one_page_and_leans_on_nothing_that_it_explains():
    text = PAGE.read_text()
    assert len(text.splitlines()) <= 350
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
    own = {name for name in imported if name.startswith("hapo_jax")}
    assert own and all(name.split(".")[1] in ("model", "tasks") for name in own), own
    for number in (3, 5, 6, 8, 9, 10, 11, 12, 13):
        assert f"Eq. ({number})" in text.split('"""', 2)[2], number


@pytest.mark.slow
def test_the_program_prints_what_the_components_did(capsys):
    plain.main(num_steps=2, num_prompts=8, max_tokens=18)
    steps, *tables = capsys.readouterr().out.strip().split("\n\n")
    header, first, second = steps.splitlines()
    assert header.split()[:3] == ["step", "reward", "entropy"]
    assert "1.00 … 1.00" in first and "1.00 … 1.00" not in second
    assert len(tables) == 2
    for kind, table in zip(("right", "wrong"), tables):
        title, header, *rows = table.splitlines()
        assert kind in title and header.split()[:2] == ["token", "H"]
        assert rows and {len(row) for row in rows} == {len(header)}
        for row in rows:
            _, entropy, score, _, before, after, ratio, low, _, high, *_ = row.split()
            assert float(entropy) >= 0 and -1 <= float(score) <= 1 and float(ratio) > 0
            assert float(low) <= 0.8 and float(high) >= 1.28
            assert (float(before) > 0) == (kind == "right")
            assert float(after) * float(before) >= 0
