"""Evaluation of a checkpoint: avg@k, pass@j, maj@k, greedy, each with its interval.

    hapo-eval --checkpoint=runs/b
    hapo-eval --config=configs/dapo_math.py --checkpoint=/models/Qwen2.5-Math-7B \\
        --sets=aime24,amc23,math500 --data=DATA --preset=hapo --out=evals/base
    hapo-eval --compare evals/base runs/b/eval/hapo_step_300

The same command goes on where it was stopped. `sampling.py` draws and grades,
`figures.py` knows the figures, `eval_sets.py` the sets, `evaluations.py` the files.
"""

import contextlib
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import app, flags
from ml_collections import ConfigDict

from hapo_jax import assembly, cli, opening
from hapo_jax.config import check, eval_sets, presets, upgrade
from hapo_jax.config.eval_sets import EvalSet
from hapo_jax.evaluation import compare, report
from hapo_jax.evaluation import figures as figures_lib
from hapo_jax.evaluation import sampling as sampling_lib
from hapo_jax.evaluation.sampling import Evaluator
from hapo_jax.model import policy as policy_lib
from hapo_jax.runs import alarms, evaluations, fingerprint
from hapo_jax.runs import inputs as inputs_lib
from hapo_jax.runs import records as records_lib
from hapo_jax.runs.checkpoint import Checkpoints
from hapo_jax.system import distributed, folders, lock
from hapo_jax.system.errors import Refused

_log = logging.getLogger("hapo_jax.evaluate")  # __name__ is __main__ with python -m

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "A run's folder or a Hugging Face folder; default model.path."
)
_STEP = flags.DEFINE_string(
    "step", "latest", "Of a run's folder: a step, 'latest' or 'best'."
)
_SETS = flags.DEFINE_string(
    "sets", "", "Sets, as in math500,aime24; default eval.sets. See eval_sets.py."
)
_DATA = flags.DEFINE_string(
    "data", "", "Folder of the sets' files; default: the Hugging Face hub."
)
_PRESET = flags.DEFINE_string(
    "preset",
    None,
    f"Protocol: {' or '.join(presets.EVAL_PRESETS)}; --k and --config.eval.KEY "
    "outdo it.",
)
_K = flags.DEFINE_integer("k", None, "Completions per problem; default eval.k.")
_OUT = flags.DEFINE_string(
    "out", None, "Folder of the results; default: one in the run's eval/."
)
_COMPARE = flags.DEFINE_bool(
    "compare", False, "Compare two folders of results: --compare A B."
)


def evaluate_checkpoint(
    config: ConfigDict,
    source: str | pathlib.Path,
    *,
    step: str = "latest",
    sets: Sequence[EvalSet],
    out: str | pathlib.Path | None = None,
    label: str = "config",
) -> pathlib.Path:
    """Evaluates one checkpoint on some sets, prints a table, keeps the records.

    Args:
      config: of the experiment: model, lengths and `eval`.
      source: a run's folder, or a Hugging Face folder.
      step: of a run: a step, "latest" or "best".
      sets: from `eval_sets.parse`.
      out: folder of the results; None for `eval/<label>_step_<step>` of the run.
      label: see `out`.

    Returns:
      The folder of the results.

    Raises:
      Refused: the checkpoint, the config or a set cannot be used, or the folder
        holds an evaluation with other settings.
    """
    source = pathlib.Path(source)
    is_run = _check_source(source)
    if not is_run and not out:
        raise Refused(
            f"--checkpoint={source} is no run's folder, which would keep the results; "
            "name a folder for them with --out."
        )
    if not is_run and step != "latest":
        raise Refused(
            f"--step={step} is of a run, and --checkpoint={source} is a Hugging Face "
            "folder; leave --step out, or give the run's folder."
        )
    with config.unlocked():
        if not is_run:
            config.model.path = str(source)
        elif not config.model.path:
            config.model.path = records_lib.read_config(source)["model"]["path"]
    config = check.check(config, num_devices=jax.device_count()).config
    run = assembly.Run(config=config, policy=assembly.describe(config))
    policy = run.policy
    inputs = inputs_lib.of_policy(policy, weights=not is_run)
    if is_run:
        inputs_lib.check_policy(source, config, inputs)
    with_problems = sampling_lib.read_sets(run, sets)
    inputs_lib.add_sets(inputs, with_problems)
    inputs_lib.agree(inputs)
    if is_run:
        train_params, number = _restore(source, policy, step)
    else:
        train_params, number = policy.load(), 0
    folder = pathlib.Path(out or source / "eval" / f"{label}_step_{number}")
    what = f"{source}, step {number}" if is_run else str(source)
    facts = opening.of_evaluation(run, with_problems)
    opening.show(f"hapo-eval: {what}, into {folder}", facts)
    identity = fingerprint.of_weights(train_params)
    params = run.to_sampler(train_params)
    del train_params  # the sampler has a copy
    rows: dict[str, Mapping[str, float]] = {}
    with contextlib.ExitStack() as stack:
        if distributed.is_first():
            stack.enter_context(lock.hold(folder))
        stack.enter_context(jax.set_mesh(policy.mesh))
        pool = stack.enter_context(assembly.make_pool(config, sets))
        evaluators = sampling_lib.make_evaluators(run, pool, with_problems)
        for eval_set, evaluator in zip(sets, evaluators):
            settings = {
                "checkpoint": identity,
                **evaluator.protocol,
                **inputs_lib.of_evaluation(inputs, eval_set),
            }
            rows |= _evaluate_set(eval_set, evaluator, params, folder, settings)
            if distributed.is_first():
                _warn(config, policy, eval_set, folder)
    if not distributed.is_first():
        return folder
    print(what)
    print(report.table(rows, rates=report.ALL_RATES, change=False))
    print(f"wrote {folder / evaluations.RESULTS}")
    return folder


def _evaluate_set(
    eval_set: EvalSet,
    evaluator: Evaluator,
    params,
    folder: pathlib.Path,
    settings: Mapping[str, Any],
) -> dict[str, dict[str, float]]:
    """Draws what is missing, writes all; name → figures, for the table."""
    ids = [p.id for p in evaluator.prompts.problems[: evaluator.num_problems]]
    writes = distributed.is_first()
    found = evaluations.resume(folder, eval_set.name, settings, ids) if writes else {}
    if found:
        print(f"{eval_set.name}: {len(found)} of {len(ids)} problems are there already")
    # Files are the first process's; the others need not see them.
    if not writes:
        sampling_lib.complete(evaluator, params, {}, lambda record: None)
        return {}
    path = evaluations.records_path(folder, eval_set.name)
    with records_lib.Appender(path) as writer:
        records = sampling_lib.complete(evaluator, params, found, writer.add)
    leaked = eval_sets.overlapping_ids(eval_set)
    clean = [record for record in records if record["id"] not in leaked]
    limits = {"max_tokens": settings.get("max_completion_tokens"), "every_pass": True}
    figures: dict[str, Any] = {
        "problems": len(records),
        **figures_lib.summary(records, **limits),
    }
    rows = {f"{eval_set.name} ({len(records)})": figures}
    if clean and len(clean) < len(records):
        training = eval_set.flags.name.removesuffix("_flags.json")
        part = {
            "problems": len(clean),
            **figures_lib.summary(clean, **limits),
        }
        rows[f"{eval_set.name} not in {training} ({len(clean)})"] = part
        figures = figures | {f"not_in_{training}": part}
    evaluations.finish(folder, eval_set.name, records, figures)
    if figures["eval/ungraded"]:
        print(
            f"{eval_set.name}: {figures['eval/ungraded']:.0f} completions ran the "
            "verifier out of time, broke it or were killed from outside, and count as "
            "wrong"
        )
    return rows


def _warn(config, policy, eval_set: EvalSet, folder: pathlib.Path) -> None:
    """Says what of a set's figures points at a fault rather than at a weak policy."""
    own = eval_set.task == config.task.name
    facts = alarms.facts(
        config,
        policy,
        section="task.test" if own else "",
        anew="with another --out",
    )
    records = records_lib.read_lines(evaluations.records_path(folder, eval_set.name))
    answers = [answer for record in records for answer in record["answers"]]
    figures = evaluations.read_results(folder)[eval_set.name]
    for words in alarms.of_figures(
        figures, facts, unreadable=answers.count(None) / len(answers)
    ):
        _log.warning("%s: %s", eval_set.name, words)


def _check_source(source: pathlib.Path) -> bool:
    """Whether it is a run's folder rather than one of Hugging Face.

    Raises:
      Refused: it is neither.
    """
    if (source / "checkpoints").is_dir():
        return True
    if not (source / "config.json").is_file():
        raise Refused(
            f"--checkpoint={source} must be a run's folder (with checkpoints/) or a "
            "Hugging Face folder (with config.json and *.safetensors)."
        )
    if not list(source.glob("*.safetensors")):
        raise Refused(
            f"--checkpoint={source} holds no *.safetensors and no checkpoints/; a run "
            "that has not saved yet cannot be evaluated."
        )
    return False


def _restore(source: pathlib.Path, policy: policy_lib.Policy, step: str):
    """Parameters of a run's checkpoint, and its step."""
    abstract = {"params": policy.abstract_train_params()}
    with Checkpoints(
        str(source / "checkpoints"),
        keep_latest=1,
        best_metric=figures_lib.BEST,
        read_only=True,
    ) as checkpoints:
        if step == "latest":
            restored = checkpoints.restore_latest(abstract, partial=True)
        else:
            number = _step(checkpoints, step)
            restored = checkpoints.restore(number, abstract, partial=True)
    if restored is None:
        raise Refused(f"--checkpoint={source}: checkpoints/ is empty.")
    return restored.state["params"], restored.step


def _step(checkpoints: Checkpoints, step: str) -> int:
    """The step that --step names."""
    if step.isdecimal():
        return int(step)
    if step != "best":
        raise Refused(f"--step={step} must be a step, 'latest' or 'best'.")
    best, scores = checkpoints.best_step(), checkpoints.scores()
    if best is None:
        raise Refused(
            "--step=best: the run has saved no step that it evaluated; use "
            "--step=latest, or one of its steps."
        )
    others = [s for s in scores if not scores[s].comparable(scores[best])]
    if others and distributed.is_first():
        print(
            f"best: step {best}, by the protocol that the run has evaluated with last; "
            f"steps {', '.join(map(str, others))} have scores of another."
        )
    return best


def _config(source: str | None) -> ConfigDict:
    """The config of --config, or that of the run that is evaluated."""
    config = cli.config()
    if config is not None:
        return config
    if source is None:
        raise Refused("give --config, or the folder of a run as --checkpoint.")
    if not _check_source(pathlib.Path(source)):
        raise Refused(
            f"--checkpoint={source} is no run's folder, which would hold a config; "
            "give --config too."
        )
    return upgrade.from_saved(records_lib.read_config(source))


def _start(arguments: list[str]) -> None:
    """The program, with its positional arguments."""
    if _COMPARE.value:
        if len(arguments) != 2:
            raise app.UsageError("--compare takes two folders of results: A B.")
        print(compare.compare(*arguments))
        return
    if flags.FLAGS.workdir is not None:
        raise app.UsageError("--workdir is of training; results go to --out.")
    if arguments:
        raise app.UsageError(f"unexpected arguments: {' '.join(arguments)}")
    folders.check("checkpoint", _CHECKPOINT.value, writes=False)
    folders.check("out", _OUT.value, writes=True)
    config = _config(_CHECKPOINT.value)
    # The more particular outdoes the more general.
    if _PRESET.value is not None:
        presets.apply_preset(config, _PRESET.value)
    cli.override(config)
    if _K.value is not None:
        config.eval.k = _K.value
    check.check_alone(config)
    cli.set_up_jax(config)
    sets = eval_sets.parse(_SETS.value or config.eval.sets, config, data=_DATA.value)
    with cli.processes():
        evaluate_checkpoint(
            config,
            _CHECKPOINT.value or config.model.path,
            step=_STEP.value,
            sets=sets,
            out=_OUT.value,
            label=_PRESET.value or "config",
        )


def run() -> None:
    """The program `hapo-eval`."""
    cli.start(_start)


if __name__ == "__main__":
    run()
