"""Guided error correction: wrong completions are corrected before they are trained on.

A wrong completion is, with probability `extend`, continued: a sentence that something
is wrong is put behind it, and the policy draws on. Otherwise, half and half, the right
answer is put behind it in a box, or the reference solution takes its place. Then it is
graded again. arXiv 2507.21848 (EDGE-GRPO) and its code.

Tokens that were put there were drawn from no distribution: `RolloutBatch.given` marks
them, and the learner takes them as of the old policy, with a ratio of 1 to it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from hapo_jax.rollout.batch import RolloutBatch
from hapo_jax.rollout.programs import Programs
from hapo_jax.rollout.requests import Completion, Request
from hapo_jax.system.errors import Refused
from hapo_jax.tasks.problems import Problem

DOUBT = " Wait! Something is wrong here."
ANSWER = (
    "\nWait! Something is wrong here. After verification, the correct answer is "
    "\\boxed{%s}."
)
KINDS = ("extended", "answered", "replaced")


class Correction(NamedTuple):
    """What stays the same in a run.

    Attributes:
      programs: that continue a prompt with its completion.
      doubt: [n] int32, what is put behind a completion that is continued.
      answers, solutions: one int32 array per prompt, of what else is put there.
      share: of the wrong completions, to be corrected.
      extend: probability that one of them is continued.
      below_prompt_tokens: only for shorter prompts.
    """

    programs: Programs
    doubt: np.ndarray
    answers: tuple[np.ndarray, ...]
    solutions: tuple[np.ndarray, ...]
    share: float
    extend: float
    below_prompt_tokens: int

    @property
    def room(self) -> int:
        """Tokens that are left free behind a first completion."""
        return len(self.doubt) + self.programs.max_completion_tokens


class Corrected(NamedTuple):
    """A batch with its corrections.

    Attributes:
      rows: [n], those that were corrected and are to be graded again.
      sampled_tokens, sampled_completions: drawn for them.
      kinds: how many of each of `KINDS`.
    """

    rows: np.ndarray
    sampled_tokens: int
    sampled_completions: int
    kinds: dict[str, int]


def texts(
    problems: Sequence[Problem],
    solutions: dict[str, str],
    gold: Callable[[str], str],
    encode: Callable[[str], list[int]],
    key: Callable[[object], str],
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Answers and solutions of problems as tokens.

    Args:
      problems: of the run.
      solutions: reference solution by `key` of the prompt.
      gold: a problem's answer → the text of it.
      encode: text → token ids.
      key: prompt → text that tells it from others.

    Raises:
      Refused: a problem has no reference solution.
    """
    missing = [p for p in problems if key(p.prompt) not in solutions]
    if missing:
        raise Refused(
            f"rollout.correction needs a reference solution of every problem, and "
            f"{len(missing)} of {len(problems)} have none, problem {missing[0].id!r} "
            "among them; name the field by rollout.correction.columns, leave those "
            "problems out, or set rollout.correction.share=0."
        )
    return tuple(
        tuple(np.asarray(encode(text), np.int32) for text in column)
        for column in (
            [ANSWER % gold(p.answer) for p in problems],
            [solutions[key(p.prompt)] for p in problems],
        )
    )


def correct(
    correction: Correction,
    batch: RolloutBatch,
    wrong: np.ndarray,
    run: Callable[[list[Request]], Iterable[Completion]],
    *,
    num_prompts: int,
    base_temperature: float,
    seed: int,
    step: int,
) -> Corrected:
    """Corrects wrong completions of a batch, which is changed.

    Args:
      correction: see there.
      batch: its tokens, masks and records are written.
      wrong: indices of completions that are wrong.
      run: draws what is requested, in any order.
      num_prompts: of the data set.
      base_temperature: of what is drawn.
      seed, step: part of the random numbers, with a completion's prompt and number.
    """
    kinds = dict.fromkeys(KINDS, 0)
    rows, continued, requests = [], [], []
    for b in wrong:
        prompt, sample = int(batch.prompt_ids[b]), int(batch.sample_ids[b])
        chance = np.random.default_rng([seed, step, prompt, sample]).random(3)
        n = int(batch.prompt_lengths[b])
        if chance[0] >= correction.share or n >= correction.below_prompt_tokens:
            continue
        own = batch.completion_tokens[b][batch.completion_mask[b]]
        if len(own) and own[-1] in correction.programs.sampling.stop_ids:
            own = own[:-1]
        if chance[1] < correction.extend:
            kind, given = "extended", correction.doubt
        elif chance[2] < 0.5:
            kind, given = "answered", correction.answers[prompt]
        else:
            kind, own, given = "replaced", own[:0], correction.solutions[prompt]
        if len(own) + len(given) > batch.completion_mask.shape[1]:
            continue  # it would not be whole
        _put(batch, b, len(own), given, correction.programs.sampling.pad_id)
        kinds[kind] += 1
        rows.append(b)
        if kind == "extended":
            continued.append(b)
            context = np.concatenate([batch.prompt_tokens[b, -n:], own, given])
            requests.append(
                Request(
                    # Neighbours with one prompt would share what was read of it.
                    prompt_id=prompt + num_prompts * (1 + sample),
                    prompt_tokens=context,
                    sample_id=sample,
                    max_tokens=correction.programs.max_completion_tokens,
                    base_temperature=base_temperature,
                )
            )
    sampled = 0
    for completion in run(requests):
        _continue(batch, continued[completion.request], completion)
        sampled += len(completion.tokens)
    return Corrected(
        rows=np.array(rows, np.int64),
        sampled_tokens=sampled,
        sampled_completions=len(requests),
        kinds=kinds,
    )


def _put(
    batch: RolloutBatch, b: int, kept: int, given: np.ndarray, pad_id: int
) -> None:
    """Leaves the first `kept` tokens of a completion, and puts others behind them."""
    end = kept + len(given)
    batch.completion_tokens[b, kept:] = pad_id
    batch.completion_tokens[b, kept:end] = given
    batch.completion_mask[b] = np.arange(batch.completion_mask.shape[1]) < end
    batch.given[b, kept:end] = True
    for numbers in batch.record:
        numbers[b, kept:] = 0
    batch.truncated[b] = False


def _continue(batch: RolloutBatch, b: int, completion: Completion) -> None:
    """Puts what was drawn behind a completion."""
    start = int(batch.completion_mask[b].sum())
    span = slice(start, start + len(completion.tokens))
    batch.completion_tokens[b, span] = completion.tokens
    batch.completion_mask[b, span] = True
    for numbers, values in zip(batch.record, completion.record):
        numbers[b, span] = values
    batch.truncated[b] = completion.truncated
