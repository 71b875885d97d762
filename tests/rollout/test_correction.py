"""Guided error correction: what is put where, what is drawn, and by which chance."""

import numpy as np
import pytest

from hapo_jax.rollout import batch as batch_lib
from hapo_jax.rollout import correction as correction_lib
from hapo_jax.rollout.batch import TokenRecord
from hapo_jax.rollout.requests import Completion
from hapo_jax.rollout.sampler import Sampling
from hapo_jax.system.errors import Refused
from hapo_jax.tasks.problems import Problem

P, T, STOP, PAD = 4, 12, 9, 0
DOUBT, ANSWERS = np.array([70, 71]), (np.array([80]), np.array([81, 82]))
SOLUTIONS = (np.array([90, 91, 92]), np.arange(100, 100 + T + 1))  # the second too long


class Programs:
    max_completion_tokens = 3
    sampling = Sampling(stop_ids=(STOP,), pad_id=PAD)


def correction(**changes):
    found = correction_lib.Correction(
        programs=Programs(),
        doubt=DOUBT,
        answers=ANSWERS,
        solutions=SOLUTIONS,
        share=1.0,
        extend=0.5,
        below_prompt_tokens=P + 1,
    )
    return found._replace(**changes)


def completions(number=2):
    """Of prompts 1, 0, 1, …: two, three, … tokens, and a stop token behind each."""
    lengths = 3 + np.arange(number) % 3
    mask = np.arange(T) < lengths[:, None]
    tokens = np.where(mask, 10 * (1 + np.arange(number) % 5)[:, None] + np.arange(T), 0)
    tokens[np.arange(number), lengths - 1] = STOP
    ones = mask.astype(np.float32)
    return batch_lib.RolloutBatch.of_tokens(
        prompt_tokens=np.tile([0, 0, 5, 6], (number, 1)),
        prompt_lengths=np.full(number, 2, np.int32),
        completion_tokens=tokens.astype(np.int32),
        completion_mask=mask,
    )._replace(
        record=TokenRecord(**dict.fromkeys(TokenRecord._fields, ones)),
        prompt_ids=(1 - np.arange(number) % 2).astype(np.int64),
        sample_ids=np.arange(number, dtype=np.int32) // 2,
        truncated=np.ones(number, bool),
    )


def correct(batch, wrong, drawn=(), *, step=1, **changes):
    """Corrects, with these tokens drawn; also returns what was asked for."""
    asked = []

    def run(requests):
        asked.extend(requests)
        for place, tokens in reversed(list(enumerate(drawn))):
            record = TokenRecord.zeros((len(tokens),))
            record = record._replace(entropy=record.entropy + 0.5)
            yield Completion(
                request=place,
                tokens=np.array(tokens, np.int32),
                record=record,
                truncated=place == 1,
            )

    batch = batch._replace(record=TokenRecord(*(x.copy() for x in batch.record)))
    found = correction_lib.correct(
        correction(**changes),
        batch,
        np.array(wrong),
        run,
        num_prompts=2,
        base_temperature=0.6,
        seed=3,
        step=step,
    )
    return batch, found, asked


def tokens_of(batch, b):
    return list(batch.completion_tokens[b][batch.completion_mask[b]])


def test_a_completion_is_continued_behind_a_doubt():
    batch, found, asked = correct(completions(), [0, 1], [[7], [8, 8, 8]], extend=1.0)
    assert tokens_of(batch, 0) == [10, 11, 70, 71, 7]
    assert tokens_of(batch, 1) == [20, 21, 22, 70, 71, 8, 8, 8]
    np.testing.assert_array_equal(batch.given[0, :6], [0, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(batch.record.entropy[0, :6], [1, 1, 0, 0, 0.5, 0])
    np.testing.assert_array_equal(batch.truncated, [False, True])
    assert not batch.completion_tokens[~batch.completion_mask].any()
    assert list(asked[0].prompt_tokens) == [5, 6, 10, 11, 70, 71]
    assert list(asked[1].prompt_tokens) == [5, 6, 20, 21, 22, 70, 71]
    assert asked[0].base_temperature == 0.6 and asked[0].max_tokens == 3
    # None shares a prompt, or its random numbers, with another one.
    assert len({r.prompt_id for r in asked} | {0, 1}) == 4
    assert found.sampled_tokens == 4 and found.sampled_completions == 2
    assert found.kinds == {"extended": 2, "answered": 0, "replaced": 0}
    assert list(found.rows) == [0, 1]


def test_answers_and_solutions_take_their_places():
    number = 40
    batch, found, asked = correct(completions(number), range(number), extend=0.0)
    before = completions(number)
    kinds = {"answered": 0, "replaced": 0, "left": 0}
    for b in range(number):
        prompt, own = batch.prompt_ids[b], tokens_of(before, b)
        if tokens_of(batch, b) == own:
            assert prompt == 1  # whose solution is longer than a completion may be
            kinds["left"] += 1
            assert b not in found.rows and batch.truncated[b]
            continue
        assert b in found.rows and not batch.truncated[b]
        if tokens_of(batch, b) == [*own[:-1], *ANSWERS[prompt]]:
            kinds["answered"] += 1
            expected = np.isin(np.arange(T), len(own) - 1 + np.arange(prompt + 1))
        else:
            assert tokens_of(batch, b) == list(SOLUTIONS[prompt])
            kinds["replaced"] += 1
            expected = batch.completion_mask[b]
        np.testing.assert_array_equal(batch.given[b], expected)
    assert min(kinds.values()) > 3 and not asked
    assert found.kinds["answered"] == kinds["answered"]
    assert found.kinds["replaced"] == kinds["replaced"]
    assert found.sampled_tokens == 0


def test_the_rest_stays_as_it_is():
    for changes in (
        {"share": 0.0},
        {"below_prompt_tokens": 2},  # the prompts have two tokens
        {"extend": 1.0, "doubt": np.arange(T)},  # no room
    ):
        batch, found, asked = correct(completions(), [0, 1], **changes)
        assert not len(found.rows) and not asked and not batch.given.any()
    batch, found, _ = correct(completions(), [], extend=1.0)
    assert not len(found.rows)
    batch, found, _ = correct(completions(), [1], [[7]], extend=1.0)
    assert tokens_of(batch, 0) == [10, 11, STOP]


def test_chance_depends_on_the_completion_and_the_step_alone():
    """And so on nothing that another process works on."""
    _, whole, _ = correct(completions(20), range(20), share=0.5, extend=0.0)
    _, part, _ = correct(completions(20), range(10, 20), share=0.5, extend=0.0)
    assert set(part.rows) == {b for b in whole.rows if b >= 10}
    assert 2 < len(whole.rows) < 18
    _, later, _ = correct(completions(20), range(20), step=2, share=0.5, extend=0.0)
    assert set(later.rows) != set(whole.rows)


def test_a_problem_without_a_solution_is_refused():
    problems = [Problem(name, name, "7", "set") for name in ("a", "b")]
    given = dict(gold=str, encode=lambda text: [ord(text[0])], key=str)
    with pytest.raises(Refused, match="1 of 2 have none, problem 'b'"):
        correction_lib.texts(problems, {"a": "so"}, **given)
    answers, solutions = correction_lib.texts(problems, {"a": "so", "b": "t"}, **given)
    assert [list(x) for x in solutions] == [[ord("s")], [ord("t")]]
    assert [list(x) for x in answers] == [[ord("\n")]] * 2
