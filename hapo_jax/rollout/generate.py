"""Prompts in, graded completions out: sampling, decoding to text, verifier, rewards.

Completions are graded as they finish, while others still decode. With several
processes each completes and grades its share of the prompts, with its own devices and
its own pool; then every process has all of them.
"""

import concurrent.futures
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np

from hapo_jax.grading import pool as pool_lib
from hapo_jax.rollout import batch as batch_lib
from hapo_jax.rollout import correction as correction_lib
from hapo_jax.rollout import schedule
from hapo_jax.rollout.batch import RolloutBatch
from hapo_jax.rollout.programs import Programs
from hapo_jax.rollout.prompts import PromptSet
from hapo_jax.rollout.requests import Completion, Request
from hapo_jax.rollout.rewards import Rewards
from hapo_jax.system import distributed

# (completion, gold answer) pairs -> their grades, some time later
SubmitFn = Callable[
    [list[tuple[str, str]]], concurrent.futures.Future[list[pool_lib.GradeResult]]
]
# Completions per message to the verifier: fewer would spend the time on messages.
_GRADED_TOGETHER = 32
_LOOK_S = 0.5  # how often who waits for grades looks whether to stop
# Fields of a batch that only who sampled a completion knows, beside its tokens.
_PER_COMPLETION = ("scores", "rewards", "baselines", "truncated")


@dataclasses.dataclass(frozen=True)
class Generator:
    """Everything that stays the same from one call of `generate` to the next.

    Attributes:
      programs: that sample, on devices of this process.
      prompts: where prompt ids point to.
      decode: token ids → text.
      submit: hands completions to the verifier.
      rewards: from score to reward.
      seed: of the run.
      correction: of wrong completions; None to leave them as they are.
      should_stop: asked while completions are drawn and graded.
      beat: called whenever sampling has got on, see `watchdog.py`.
    """

    programs: Programs
    prompts: PromptSet
    decode: Callable[[np.ndarray], str]
    submit: SubmitFn
    rewards: Rewards
    seed: int
    correction: correction_lib.Correction | None = None
    should_stop: Callable[[], bool] = lambda: False
    beat: Callable[[], None] = lambda: None


class Abandoned(Exception):
    """`should_stop` said so, on one process at least; all of them raise it."""


def generate(
    generator: Generator,
    params,
    method_state,
    *,
    base_temperatures: Sequence[float],
    step: int,
    prompt_ids: np.ndarray,
    first_sample: np.ndarray,
    greedy_baseline: bool = False,
) -> tuple[RolloutBatch, dict[str, float]]:
    """Draws and grades G completions for each of N prompts.

    Args:
      generator: see above.
      params: the policy's, in the sampler's sharding.
      method_state: of the last step, for the temperature.
      base_temperatures: [G], of a prompt's completions; 0 is greedy.
      step: part of the random keys.
      prompt_ids: [N] int64.
      first_sample: [N] int, id of each prompt's first completion in this step.
      greedy_baseline: draw a greedy completion of each prompt as well, for the
        baselines; it is no row of the batch.

    Returns:
      RolloutBatch of N·G rows, the same on every process; and, to be summed over calls,
      seconds spent (`time/sample`, `time/grade`: what grading took after the last
      token; of the slowest process), the verifier's counts, the parts of the rows'
      rewards (`reward/…`), and all that was drawn (`ledger/…`).

    Raises:
      Abandoned: what was drawn is lost; parameters and stream are as they were.
    """
    G = len(base_temperatures)
    mine = distributed.share(len(prompt_ids))
    with distributed.on(generator.programs.mesh):
        found = _generate_share(
            generator,
            params,
            jax.device_get(method_state),
            base_temperatures=base_temperatures,
            step=step,
            prompt_ids=prompt_ids[mine],
            first_sample=first_sample[mine],
            greedy_baseline=greedy_baseline,
        )
    _agree_to_go_on(found is not None)
    return _join(*found, _empty_batch(generator, prompt_ids, first_sample, G))


def _agree_to_go_on(goes_on: bool) -> None:
    """None stays behind in `_join` when another has stopped."""
    answers = distributed.gather({"goes_on": np.int32(goes_on)})
    if not all(answer["goes_on"] for answer in answers):
        raise Abandoned


def _generate_share(
    generator: Generator,
    params,
    method_state,
    *,
    base_temperatures: Sequence[float],
    step: int,
    prompt_ids: np.ndarray,
    first_sample: np.ndarray,
    greedy_baseline: bool,
) -> tuple[RolloutBatch, dict[str, float]] | None:
    """`generate` on this process's prompts alone; None if it was told to stop."""
    # A greedy completion is the last of its group until all are graded.
    base_temperatures = [*base_temperatures, *[0.0] * greedy_baseline]
    g, G = generator, len(base_temperatures)
    started = time.perf_counter()
    batch = _empty_batch(g, prompt_ids, first_sample, G)
    longest = g.programs.max_completion_tokens
    requests = (
        Request(
            prompt_id=int(prompt_ids[b // G]),
            prompt_tokens=g.prompts.tokens[prompt_ids[b // G]],
            sample_id=int(batch.sample_ids[b]),
            max_tokens=longest - (g.correction.room if g.correction else 0),
            base_temperature=base_temperatures[b % G],
        )
        for b in range(len(prompt_ids) * G)
    )

    def run(programs: Programs, requests: Iterable[Request]) -> Iterator[Completion]:
        return schedule.run(
            programs,
            params,
            requests,
            seed=g.seed,
            step=step,
            method_state=method_state,
            should_stop=lambda: g.beat() or g.should_stop(),
        )

    grades = _Grades(g, batch)
    for completion in run(g.programs, requests):
        _write(batch, completion)
        grades.add(completion.request)
    if g.should_stop():
        return None
    sampling_s = time.perf_counter() - started
    if not grades.finish():
        return None
    spent = {
        "ledger/sampled_tokens": int(batch.completion_mask.sum()),
        "ledger/sampled_completions": len(batch.scores),
    }
    kept = np.arange(len(batch.scores)) % G < G - greedy_baseline
    if g.correction is not None:
        spent["correction/first_accuracy"] = float(batch.scores[kept].sum())
        began = time.perf_counter()
        corrected = correction_lib.correct(
            g.correction,
            batch,
            np.flatnonzero(kept & (batch.scores < 1)),
            functools.partial(run, g.correction.programs),
            num_prompts=len(g.prompts),
            base_temperature=base_temperatures[0],
            seed=g.seed,
            step=step,
        )
        if g.should_stop():
            return None
        sampling_s += time.perf_counter() - began
        for b in corrected.rows:
            grades.add(b)
        if not grades.finish():
            return None
        spent["ledger/sampled_tokens"] += corrected.sampled_tokens
        spent["ledger/sampled_completions"] += corrected.sampled_completions
        spent |= {f"correction/{kind}": n for kind, n in corrected.kinds.items()}
    parts = g.rewards.parts(
        batch.scores,
        answered=grades.answered,
        truncated=batch.truncated,
        lengths=batch.lengths,
    )
    batch = batch._replace(rewards=sum(parts.values()))
    if greedy_baseline:
        baselines = np.repeat(batch.rewards[~kept], G - 1)
        batch = batch_lib.number_groups(batch_lib.rows(batch, kept), G - 1)
        batch = batch._replace(baselines=baselines)
    return batch, spent | {
        **{f"reward/{name}": float(part[kept].sum()) for name, part in parts.items()},
        "rollout/unreadable": float((~grades.answered & kept).sum()),
        "time/sample": sampling_s,
        "time/grade": time.perf_counter() - started - sampling_s,
        **pool_lib.count(grades.results),
    }


class _Grades:
    """Completions of a batch on their way to the verifier, and what it said of them.

    Attributes:
      answered: [B] bool, it found an answer.
      results: of all gradings.
    """

    def __init__(self, generator: Generator, batch: RolloutBatch):
        self._generator, self._batch = generator, batch
        self._waiting: list[int] = []
        self._submitted: list[tuple[list[int], concurrent.futures.Future]] = []
        self.answered = np.zeros(len(batch.scores), bool)
        self.results: list[pool_lib.GradeResult] = []

    def add(self, b: int) -> None:
        """Hands in a completion, perhaps not before some more."""
        self._waiting.append(b)
        if len(self._waiting) == _GRADED_TOGETHER:
            self._submit()

    def finish(self) -> bool:
        """Waits for all grades, and writes the scores; False if told to stop."""
        if self._waiting:
            self._submit()
        for rows, future in self._submitted:
            while not concurrent.futures.wait([future], timeout=_LOOK_S).done:
                if self._generator.should_stop():
                    return False
            grades = future.result()
            self._batch.scores[rows] = [grade.score for grade in grades]
            self.answered[rows] = [grade.extracted is not None for grade in grades]
            self.results += grades
        self._submitted.clear()
        return True

    def _submit(self) -> None:
        g, batch = self._generator, self._batch
        pairs = []
        for b in self._waiting:
            text = g.decode(batch.completion_tokens[b][batch.completion_mask[b]])
            pairs.append((text, g.prompts.problems[batch.prompt_ids[b]].answer))
        self._submitted.append((self._waiting, g.submit(pairs)))
        self._waiting = []


def _join(
    own: RolloutBatch, counts: dict[str, float], batch: RolloutBatch
) -> tuple[RolloutBatch, dict[str, float]]:
    """Fills `batch`, the rows of all processes, with what each of them knows.

    What travels is 21 bytes per sampled token, without padding.
    """
    if len(own.scores) == len(batch.scores):
        return own, counts
    names = sorted(counts)
    mask = own.completion_mask
    everyone = distributed.gather(
        {name: x[mask] for name, x in _per_token(own).items()}
        | {name: getattr(own, name) for name in _PER_COMPLETION}
        | {
            "lengths": mask.sum(axis=1),
            "counts": np.array([counts[name] for name in names], np.float64),
        }
    )
    fields = {
        name: np.concatenate([part[name] for part in everyone]) for name in everyone[0]
    }
    T = batch.completion_mask.shape[1]
    batch.completion_mask[:] = np.arange(T) < fields["lengths"][:, None]
    for name, x in _per_token(batch).items():
        x[batch.completion_mask] = fields[name]
    batch = batch._replace(**{name: fields[name] for name in _PER_COMPLETION})
    table = fields["counts"].reshape(len(everyone), len(names))
    return batch, {
        name: type(counts[name])(
            column.max() if name.startswith("time/") else column.sum()
        )
        for name, column in zip(names, table.T)
    }


def _per_token(batch: RolloutBatch) -> dict[str, np.ndarray]:
    """The [B, T] arrays that only who sampled a completion knows."""
    own = {"completion_tokens": batch.completion_tokens, "given": batch.given}
    return own | batch.record._asdict()


def _empty_batch(
    generator: Generator, prompt_ids: np.ndarray, first_sample: np.ndarray, G: int
) -> RolloutBatch:
    """The rows of N·G completions before the first token."""
    programs = generator.programs
    prompt_tokens, lengths = generator.prompts.rows(
        prompt_ids, programs.max_prompt_tokens, programs.sampling.pad_id
    )
    samples = np.repeat(first_sample, G) + np.tile(np.arange(G), len(prompt_ids))
    return RolloutBatch.empty(
        prompt_tokens=np.repeat(prompt_tokens, G, axis=0),
        prompt_lengths=np.repeat(lengths, G),
        completion_tokens=programs.max_completion_tokens,
        pad_id=programs.sampling.pad_id,
        group_size=G,
    )._replace(prompt_ids=np.repeat(prompt_ids, G), sample_ids=samples.astype(np.int32))


def _write(batch: RolloutBatch, completion: Completion) -> None:
    """Puts a completion into its row."""
    b, n = completion.request, len(completion.tokens)
    batch.completion_tokens[b, :n] = completion.tokens
    batch.completion_mask[b, :n] = True
    for rows, values in zip(batch.record, completion.record):
        rows[b, :n] = values
    batch.truncated[b] = completion.truncated


def texts(generator: Generator, batch: RolloutBatch) -> Iterator[str]:
    """The completions of a batch as text."""
    for tokens, mask in zip(batch.completion_tokens, batch.completion_mask):
        yield generator.decode(tokens[mask])
