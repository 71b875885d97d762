"""Evaluation: avg@k, pass@k and greedy accuracy with intervals over problems.

    hapo-eval --config=configs/gsm8k.py --checkpoint=runs/b --k=8

`evaluate` is the function that training calls too. Completions depend on the seed, the
problem and the sample alone, so two policies are compared on equal draws.
"""

import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm
from absl import flags
from ml_collections import ConfigDict

from hapo_jax import builders, check, cli, report, run_records
from hapo_jax import policy as policy_lib
from hapo_jax.algo import entropy as entropy_lib
from hapo_jax.algo import temperature as temperature_lib
from hapo_jax.learner.checkpoint import Checkpoints
from hapo_jax.rollout import batch as batch_lib
from hapo_jax.rollout.batch import RolloutBatch
from hapo_jax.rollout.generate import Generator, generate, texts
from hapo_jax.rollout.grading import GradingPool
from hapo_jax.rollout.sampler import Truncation

# Random keys hold the training step; no step is this one.
_EVAL_STEP = 2**32 - 1


class Evaluator(NamedTuple):
    """Attributes:
    generator: over the test split, at constant temperature.
    num_problems: the first so many of the split.
    temperatures: of a problem's completions: k times the config's, and 0 (greedy).
    k: completions that count for avg@k and pass@k.
    """

    generator: Generator
    num_problems: int
    temperatures: tuple[float, ...]
    k: int


def make_evaluator(
    config: ConfigDict, policy: policy_lib.Policy, pool: GradingPool
) -> Evaluator:
    """Tokenises the test split and sets up an engine at constant temperature."""
    options = config.eval
    prompts = builders.make_prompts(config, policy, config.task.test)
    num_problems = min(options.num_problems or len(prompts), len(prompts))
    temperatures = (options.temperature,) * options.k + (0.0,) * options.greedy

    def constant(entropy, stats, base_temperature):
        return temperature_lib.adaptive(
            entropy,
            stats,
            base_temperature=base_temperature,
            strength=0.0,
            min_factor=1.0,
            max_factor=1.0,
            floor=1e-8,
        )

    generator = builders.make_generator(
        config,
        policy,
        prompts,
        pool,
        most_rows=min(
            num_problems * len(temperatures),
            config.rollout.round_prompts * config.rollout.group_size,
        ),
        group_size=len(temperatures),
        truncation=Truncation(top_p=options.top_p),
        temperature_fn=constant,
    )
    return Evaluator(generator, num_problems, temperatures, options.k)


def evaluate(
    evaluator: Evaluator, params
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Samples and grades the test problems.

    Args:
      evaluator: from `make_evaluator`.
      params: the policy's, in the sampler's layout.

    Returns:
      One record per problem (id, source, scores, lengths, completions, …), and a
      summary with the keys `eval/avg@k`, `eval/pass@k`, `eval/greedy`, each also with
      `_low` and `_high` (95 % interval over problems), and `eval/length` (tokens),
      `eval/entropy` (nats), `eval/truncated`.
    """
    g, records = evaluator.generator, []
    # Some problems at a time: for the bar, and so that little is lost on the host.
    size = max(1, g.engine.num_slots // len(evaluator.temperatures)) * 4
    starts = range(0, evaluator.num_problems, size)
    for start in tqdm.tqdm(starts, desc="eval", leave=False, dynamic_ncols=True):
        ids = np.arange(start, min(start + size, evaluator.num_problems))
        batch, _ = generate(
            g,
            params,
            entropy_lib.initial_stats(),
            base_temperatures=evaluator.temperatures,
            step=_EVAL_STEP,
            prompt_ids=ids,
            first_sample=np.zeros(len(ids), np.int64),
        )
        width = len(evaluator.temperatures)
        for i in range(len(ids)):
            rows = batch_lib.rows(batch, slice(i * width, (i + 1) * width))
            records.append(_record(evaluator, rows))
    return records, _summary(records, evaluator.k)


def _record(evaluator: Evaluator, rows: RolloutBatch) -> dict[str, Any]:
    """One problem's results, as they stand in eval/."""
    g, k = evaluator.generator, evaluator.k
    problem = g.prompts.problems[rows.prompt_ids[0]]
    completions = list(texts(g, rows))
    entropy = [float(e[m].mean()) for e, m in zip(rows.entropy, rows.completion_mask)]
    record = {
        "id": problem.id,
        "source": problem.source,
        "scores": rows.scores[:k].tolist(),
        "lengths": rows.lengths[:k].tolist(),
        "truncated": rows.truncated[:k].tolist(),
        "entropy": entropy[:k],
        "completions": completions[:k],
    }
    if len(completions) > k:
        record["greedy_score"] = float(rows.scores[k])
        record["greedy_completion"] = completions[k]
    return record


def _summary(records: list[dict[str, Any]], k: int) -> dict[str, float]:
    scores = np.array([r["scores"] for r in records])
    right = (scores >= 1).sum(1)
    per_problem = {
        f"eval/avg@{k}": scores.mean(1),
        f"eval/pass@{k}": np.array([report.pass_at_k(k, int(c), k) for c in right]),
    }
    if "greedy_score" in records[0]:
        per_problem["eval/greedy"] = np.array([r["greedy_score"] for r in records])
    summary = {}
    for name, values in per_problem.items():
        low, high = report.bootstrap_interval(values, seed=0)
        summary |= {name: values.mean(), f"{name}_low": low, f"{name}_high": high}
    lengths = np.array([r["lengths"] for r in records], np.float64)
    entropy = np.array([r["entropy"] for r in records])
    summary["eval/length"] = lengths.mean()
    summary["eval/entropy"] = (entropy * lengths).sum() / lengths.sum()
    summary["eval/truncated"] = np.mean([r["truncated"] for r in records])
    return {name: float(value) for name, value in summary.items()}


_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "A run's folder or a Hugging Face folder; default model.path."
)
_STEP = flags.DEFINE_string(
    "step", "latest", "Of a run's folder: a step, 'latest' or 'best'."
)
_K = flags.DEFINE_integer("k", None, "Completions per problem; default eval.k.")


def evaluate_checkpoint(config: ConfigDict, workdir: str | None) -> None:
    """The program: evaluates one checkpoint, prints a table, keeps the records.

    Args:
      config: of the experiment; its task.test is the test set.
      workdir: where eval/ is written; default: the checkpoint's run folder.

    Raises:
      ValueError: the checkpoint or the config cannot be used.
    """
    source = pathlib.Path(_CHECKPOINT.value or config.model.path)
    is_run = (source / "checkpoints").is_dir()
    with config.unlocked():
        if _K.value is not None:
            config.eval.k = _K.value
        if not is_run:
            config.model.path = str(source)
        elif not config.model.path:
            config.model.path = run_records.read_config(source)["model"]["path"]
    check.check(config, num_devices=jax.device_count())
    policy = policy_lib.describe(config, policy_lib.make_mesh(config))
    with jax.set_mesh(policy.mesh), builders.make_pool(config) as pool:
        evaluator = make_evaluator(config, policy, pool)
        params, step = policy.load(), 0
        if is_run:
            params, step = _restore(source, policy)
        records, summary = evaluate(evaluator, policy.to_sampler()(params))
    print(report.table({f"{source.name} (step {step})": summary}))
    folder = pathlib.Path(workdir) if workdir else source
    if workdir or is_run:
        path = folder / "eval" / f"{config.task.name}_step_{step}.jsonl"
        run_records.write_lines(path, records)
        print(f"wrote {path}")


def _restore(source: pathlib.Path, policy: policy_lib.Policy):
    """Parameters of a run's checkpoint, and its step."""
    abstract = {"params": policy.abstract_train_params()}
    k = run_records.read_config(source)["eval"]["k"]  # of the run, whatever --k says
    with Checkpoints(
        str(source / "checkpoints"),
        keep_latest=1,
        best_metric=f"eval/avg@{k}",
        read_only=True,
    ) as checkpoints:
        if _STEP.value == "latest":
            restored = checkpoints.restore_latest(abstract, partial=True)
        else:
            step = _step(checkpoints)
            restored = checkpoints.restore(step, abstract, partial=True)
    if restored is None:
        raise ValueError(f"{source}/checkpoints is empty; nothing to evaluate.")
    return restored.state["params"], restored.step


def _step(checkpoints: Checkpoints) -> int:
    """The step that --step names."""
    if _STEP.value.isdecimal():
        return int(_STEP.value)
    if _STEP.value != "best":
        raise ValueError(f"--step={_STEP.value} must be a step, 'latest' or 'best'.")
    best = checkpoints.best_step()
    if best is None:
        raise ValueError(
            "--step=best: the run has saved no step that it evaluated; use "
            "--step=latest, or one of its steps."
        )
    return best


def run() -> None:
    """The program `hapo-eval`."""
    cli.run(evaluate_checkpoint, required=("config",))


if __name__ == "__main__":
    run()
