"""Samples and grades test problems: what training and `hapo-eval` share.

A completion depends on the seed, the problem's place in its set and the sample alone,
not on what decodes beside it. So two policies are compared on equal draws, and a part
of a set gives the same records as the whole.
"""

import collections
import concurrent.futures
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm
from ml_collections import ConfigDict

from hapo_jax import assembly, tasks
from hapo_jax.assembly import Run
from hapo_jax.config.eval_sets import EvalSet
from hapo_jax.evaluation import figures as figures_lib
from hapo_jax.evaluation import votes as votes_lib
from hapo_jax.grading.pool import UNGRADED, GradeResult, GradingPool
from hapo_jax.rollout import schedule
from hapo_jax.rollout.generate import Generator
from hapo_jax.rollout.prompts import PromptSet, checksums
from hapo_jax.rollout.requests import Completion, Request
from hapo_jax.rollout.sampler import Sampling, Truncation
from hapo_jax.system import distributed

# Random keys hold the training step; no step is this one.
_EVAL_STEP = 2**32 - 1
# How often a round of several processes fills their slots.
_ROUND_FILLS_SLOTS = 8

Grades = concurrent.futures.Future[list[GradeResult]]


class Evaluator(NamedTuple):
    """Attributes:
    name: of the set.
    generator: over its problems, at constant temperature.
    num_problems: the first so many of them.
    temperatures: of a problem's completions: k times the config's, and 0 (greedy).
    k: completions that count for all but the greedy figure.
    compare: (first answer, second answer, gold answer) triples → whether they are
      equal, some time later; None where answers are compared as text.
    protocol: plain JSON, what the set's figures depend on besides the policy.
    """

    name: str
    generator: Generator
    num_problems: int
    temperatures: tuple[float, ...]
    k: int
    compare: Callable[[list[tuple[str, str, str]]], Grades] | None
    protocol: Mapping[str, Any]

    @property
    def prompts(self) -> PromptSet:
        """The problems and their tokens, those behind `num_problems` too."""
        return self.generator.prompts

    @property
    def protocol_number(self) -> int:
        """A checksum of the protocol, for records and metrics."""
        return zlib.crc32(json.dumps(self.protocol, sort_keys=True).encode())


def read_sets(run: Run, sets: Sequence[EvalSet]) -> list[tuple[EvalSet, PromptSet]]:
    """The sets with their problems.

    Raises:
      Refused: a set's file cannot be used.
    """

    def read(s: EvalSet) -> PromptSet:
        options = ConfigDict(s.options)
        return assembly.make_prompts(run.config, run.policy, options, task=s.task)

    return [(s, read(s)) for s in sets]


def make_evaluators(
    run: Run,
    pool: GradingPool,
    sets: Sequence[tuple[EvalSet, PromptSet]],
    *,
    beat: Callable[[], None] = lambda: None,
) -> list[Evaluator]:
    """Evaluators that share programs, and thus its compilation.

    Args:
      run, pool: what they work with.
      sets: from `read_sets`.
      beat: called whenever one has got on.
    """
    options, r, tokenizer = run.config.eval, run.config.rollout, run.policy.tokenizer
    temperatures = (options.temperature,) * options.k + (0.0,) * options.greedy
    sizes = [min(options.num_problems or len(p), len(p)) for _, p in sets]
    draws = assembly.Draws(
        sampling=Sampling(
            stop_ids=tokenizer.stop_ids,
            pad_id=tokenizer.pad_id,
            truncation=Truncation(top_p=options.top_p),
        ),
        group_size=len(temperatures),
        most_rows=min(max(sizes) * len(temperatures), r.round_prompts * r.group_size),
    )
    programs = assembly.make_programs(run, draws)
    return [
        Evaluator(
            name=eval_set.name,
            generator=assembly.make_generator(
                run, programs, prompts, pool, task=eval_set.task, beat=beat
            ),
            num_problems=num_problems,
            temperatures=temperatures,
            k=options.k,
            compare=compare(pool, eval_set.task),
            protocol=_protocol(run, eval_set, prompts, num_problems),
        )
        for (eval_set, prompts), num_problems in zip(sets, sizes)
    ]


def _protocol(
    run: Run, eval_set: EvalSet, prompts: PromptSet, num_problems: int
) -> dict[str, Any]:
    """See `Evaluator.protocol`."""
    config = run.config
    problems = prompts.problems[:num_problems]
    text = repr([(p.id, p.prompt, p.answer) for p in problems])
    tokens = checksums(tokens=prompts.tokens[:num_problems])
    return {
        "problems": f"{len(problems)}, crc {zlib.crc32(text.encode()):08x}",
        "prompts": tokens["crc tokens"],
        "task": eval_set.task,
        "seed": config.seed,
        "k": config.eval.k,
        "temperature": config.eval.temperature,
        "top_p": config.eval.top_p,
        "greedy": bool(config.eval.greedy),
        "max_prompt_tokens": config.rollout.max_prompt_tokens,
        "max_completion_tokens": config.rollout.max_completion_tokens,
        "overlong_prompts": config.rollout.overlong_prompts,
        "chat_template": config.task.chat_template,
        # Without one, as evaluations of older versions are noted.
        **({"system_prompt": told} if (told := config.task.system_prompt) else {}),
        "stop_tokens": list(config.model.stop_tokens),
        "dtype": run.policy.dtype.name,
        "grading_timeout_s": config.grading.timeout_s,
    }


def evaluate(
    evaluators: Sequence[Evaluator],
    params,
    *,
    found: Iterable[dict[str, Any]],
    keep: Callable[[dict[str, Any]], None],
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The records of all problems, set by set in their order, and the sets' figures.

    Those of the first set are named as in `figures.summary`, `eval/avg@k`, with the
    protocol's number; of several sets each also has its own, `eval/<set>/avg@k`.

    Args:
      evaluators: from `make_evaluators`.
      params: the policy's, in the sampler's layout.
      found: records that evaluations of this policy have left, of any protocol.
      keep: see `complete`.
    """
    left = collections.defaultdict(dict)
    for record in found:
        left[record["set"], record.get("protocol")][record["id"]] = record
    kept: list[dict[str, Any]] = []
    figures: dict[str, float] = {}
    for evaluator in evaluators:
        own = left[evaluator.name, evaluator.protocol_number]
        ordered = complete(evaluator, params, own, keep)
        kept += ordered
        longest = evaluator.generator.programs.max_completion_tokens
        summary = figures_lib.summary(ordered, max_tokens=longest)
        summary[figures_lib.PROTOCOL] = evaluator.protocol_number
        figures = figures or summary
        if len(evaluators) > 1:
            figures |= figures_lib.named(summary, evaluator.name)
    return kept, figures


def complete(
    evaluator: Evaluator,
    params,
    found: dict[str, dict[str, Any]],
    keep: Callable[[dict[str, Any]], None],
) -> list[dict[str, Any]]:
    """The records of all problems in their order: those found, and the rest, drawn now.

    Args:
      evaluator, params: see `records`.
      found: by problem id; of process 0, the others' are not looked at.
      keep: called with each record as it is drawn, so that a kill costs little.
    """
    if jax.process_count() > 1:
        message = np.frombuffer(json.dumps(found).encode(), np.uint8)
        first = distributed.gather({"found": message})[0]
        found = json.loads(first["found"].tobytes())
    ids = [p.id for p in evaluator.prompts.problems[: evaluator.num_problems]]
    missing = [i for i, name in enumerate(ids) if name not in found]
    for i, record in records(evaluator, params, missing):
        keep(record)
        found[ids[i]] = record
    return [found[name] for name in ids]


def records(
    evaluator: Evaluator, params, numbers: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Samples and grades problems; yields each as soon as it is done.

    Several processes share the problems, and all yield all of them, in rounds.

    Args:
      evaluator: from `make_evaluators`.
      params: the policy's, in the sampler's layout.
      numbers: the problems' places in the set, distinct.

    Yields:
      (place, record). A line of a file in eval/ holds a record: `set`, `id`, `source`;
      `protocol`, equal where scores can be compared;
      of the k completions `scores`, `answers` (as the verifier read them, or None),
      `votes` (equal for equal answers), `lengths` (tokens), `truncated`, `entropy`
      (nats per token), `logprobs` (nats, at the temperature) and `completions`;
      `majority_score`; `ungraded`, how many ran the verifier out of time or broke it;
      and, with a greedy completion, `greedy_score` and `greedy_completion`.
    """
    bar = tqdm.tqdm(
        total=len(numbers),
        desc=f"eval {evaluator.name}",
        leave=False,
        dynamic_ncols=True,
        disable=not distributed.is_first(),
    )
    with bar:
        for found in _of_all_processes(evaluator, params, numbers):
            bar.update()
            yield found


def _of_all_processes(evaluator: Evaluator, params, numbers: Sequence[int]):
    """See `records`."""
    processes = jax.process_count()
    if processes == 1:
        yield from _draw(evaluator, params, numbers)
        return
    # What a round has found is safe from a kill; the slots idle while it ends.
    programs, width = evaluator.generator.programs, len(evaluator.temperatures)
    size = processes * max(1, _ROUND_FILLS_SLOTS * programs.num_slots // width)
    for first in range(0, len(numbers), size):
        some = numbers[first : first + size]
        with distributed.on(programs.mesh):
            own = list(_draw(evaluator, params, some[distributed.share(len(some))]))
        message = np.frombuffer(json.dumps(own).encode(), np.uint8)
        for part in distributed.gather({"records": message}):
            yield from map(tuple, json.loads(part["records"].tobytes()))


def _draw(
    evaluator: Evaluator, params, numbers: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """`records` with this process's devices alone."""
    g, width = evaluator.generator, len(evaluator.temperatures)
    if not numbers:
        return
    requests = (
        Request(
            prompt_id=i,
            prompt_tokens=g.prompts.tokens[i],
            sample_id=sample,
            max_tokens=g.programs.max_completion_tokens,
            base_temperature=temperature,
        )
        for i in numbers
        for sample, temperature in enumerate(evaluator.temperatures)
    )
    completions = schedule.run(
        g.programs,
        params,
        requests,
        seed=g.seed,
        step=_EVAL_STEP,
        method_state=None,
        should_stop=lambda: bool(g.beat()),
    )
    drawn: dict[int, dict[int, Completion]] = collections.defaultdict(dict)
    open_problems: list[_Problem] = []
    for completion in completions:
        place, sample = divmod(completion.request, width)
        drawn[place][sample] = completion
        if len(drawn[place]) < width:
            continue
        rows = [completion for _, completion in sorted(drawn.pop(place).items())]
        open_problems.append(_Problem(evaluator, numbers[place], rows))
        for problem in [p for p in open_problems if p.settled()]:
            open_problems.remove(problem)
            yield problem.number, problem.record()
    for problem in open_problems:
        problem.settled(wait=True)
        yield problem.number, problem.record()


class _Problem:
    """A problem whose completions are drawn and wait: first for grades, then votes."""

    def __init__(self, evaluator: Evaluator, number: int, rows: list[Completion]):
        self._evaluator, self.number, self._rows = evaluator, number, rows
        g = evaluator.generator
        self._problem = g.prompts.problems[number]
        self._texts = [g.decode(row.tokens) for row in rows]
        answer = self._problem.answer
        self._grades: Grades = g.submit([(text, answer) for text in self._texts])
        self._pairs: list[votes_lib.Pair] = []
        self._equal: Grades | None = None

    def settled(self, *, wait: bool = False) -> bool:
        """Whether all is known; asks for what can be asked now."""
        if not wait and not self._grades.done():
            return False
        if self._evaluator.compare is None:
            return True
        if self._equal is None:
            self._pairs = votes_lib.pairs(*self._answers_and_scores())
            self._equal = self._evaluator.compare(
                [(*pair, self._problem.answer) for pair in self._pairs]
            )
        if wait:
            self._equal.result()
        return self._equal.done()

    def record(self) -> dict[str, Any]:
        """See `records`; once settled."""
        k, grades = self._evaluator.k, self._grades.result()
        answers, scores = self._answers_and_scores()
        equal = None
        if self._equal is not None:
            results = self._equal.result()
            equal = {p for p, r in zip(self._pairs, results, strict=True) if r.score}
        votes = votes_lib.classes(answers, scores, equal)
        rows = self._rows[:k]
        record = {
            "set": self._evaluator.name,
            "id": self._problem.id,
            "source": self._problem.source,
            "protocol": self._evaluator.protocol_number,
            "scores": scores,
            "answers": answers,
            "votes": votes,
            "majority_score": votes_lib.majority_score(votes, scores),
            "lengths": [len(row.tokens) for row in rows],
            "truncated": [bool(row.truncated) for row in rows],
            "entropy": [float(np.mean(row.record.entropy)) for row in rows],
            "logprobs": [float(np.sum(row.record.base_logprobs)) for row in rows],
            "ungraded": sum(g.outcome in UNGRADED for g in grades),
            "completions": self._texts[:k],
        }
        if len(grades) > k:
            record["greedy_score"] = grades[k].score
            record["greedy_completion"] = self._texts[k]
        return record

    def _answers_and_scores(self) -> tuple[list[str | None], list[float]]:
        grades = self._grades.result()[: self._evaluator.k]
        return [g.extracted for g in grades], [g.score for g in grades]


def compare(pool: GradingPool, task: str):
    """See `Evaluator.compare`."""
    if task not in tasks.EQUALITIES:
        return None
    name = tasks.EQUALITIES[task]
    item = tasks.get(name).item
    return lambda triples: pool.submit(name, [item(*triple) for triple in triples])
