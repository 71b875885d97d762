"""Training problems from certain to uncertain, as the first policy answers them: SENT.

    P(C) = Σ P(o)  over the completions o of a problem with one final answer C
    semantic entropy = -Σ P̂(C) log P̂(C),   P̂ = P / Σ P

arXiv 2512.04359: M completions per problem, problems sorted by their semantic entropy,
in N stages. How many, and whether P(o) is of the whole completion or per token, it does
not say; nor how long a stage lasts. Here each is gone through once, in an order drawn
anew for every pass over the problems, and behind the last comes the first again.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hapo_jax import assembly
from hapo_jax.assembly import Run
from hapo_jax.evaluation import sampling
from hapo_jax.evaluation.sampling import Evaluator
from hapo_jax.grading.pool import GradingPool
from hapo_jax.rollout.sampler import Sampling, Truncation

# What of a record the order follows from, and what it has cost.
KEPT = ("id", "votes", "logprobs", "lengths")


def evaluator(
    run: Run, pool: GradingPool, *, beat: Callable[[], None] = lambda: None
) -> Evaluator:
    """What draws and grades M completions of each training problem.

    Args:
      run, pool: what it works with.
      beat: called whenever it has got on.
    """
    r, tokenizer = run.config.rollout, run.policy.tokenizer
    temperatures = (r.base_temperature,) * run.config.data.curriculum.samples
    draws = assembly.Draws(
        sampling=Sampling(
            stop_ids=tokenizer.stop_ids,
            pad_id=tokenizer.pad_id,
            truncation=Truncation(top_k=r.top_k, top_p=r.top_p, min_p=r.min_p),
        ),
        group_size=len(temperatures),
        most_rows=max(r.round_prompts * r.group_size, len(temperatures)),
    )
    return Evaluator(
        name="order",
        generator=assembly.make_generator(
            run, assembly.make_programs(run, draws), run.prompts, pool, beat=beat
        ),
        num_problems=len(run.prompts),
        temperatures=temperatures,
        k=len(temperatures),
        compare=sampling.compare(pool, run.config.task.name),
        protocol={},
    )


def semantic_entropy(votes: Sequence[int | None], logprobs: Sequence[float]) -> float:
    """The entropy of a problem's answers, in nats.

    Args:
      votes: [M] equal for equal answers; None where there is none, and no two such
        completions are taken to say the same.
      logprobs: [M] log P(o), nats.
    """
    shares = np.exp(np.asarray(logprobs, np.float64) - np.max(logprobs))
    classes: dict[Any, float] = defaultdict(float)
    for i, (vote, share) in enumerate(zip(votes, shares, strict=True)):
        classes[("none", i) if vote is None else vote] += share
    p = np.array(list(classes.values())) / shares.sum()
    return float(-(p * np.log(p)).sum())


def stages(
    records: Iterable[Mapping[str, Any]], number: int, *, per_token: bool
) -> list[np.ndarray]:
    """The problems in stages, the most certain ones in the first.

    Args:
      records: one per problem, in their order, as `sampling.records` has them.
      number: of stages, N; at most as many as there are problems.
      per_token: log P(o) is the mean over a completion's tokens, and not their sum.

    Returns:
      N arrays of places of problems, int64, of sizes that differ by at most one; equal
      entropies in the order of the data.
    """
    entropies = []
    for record in records:
        logprobs = np.asarray(record["logprobs"])
        if per_token:
            logprobs = logprobs / np.maximum(record["lengths"], 1)
        entropies.append(semantic_entropy(record["votes"], logprobs))
    return np.array_split(np.argsort(entropies, kind="stable"), number)
