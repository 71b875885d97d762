"""The main job, to be read after `plain.py`: one command trains a policy with HAPO.

    hapo-train --config=configs/countdown.py --workdir=runs/demo

A step is collect → update → log → evaluate → save. The method (HAPO, DAPO, GRPO, …) is
a choice of functions made once, from the config, in `algo/method.py`.
"""

import contextlib
import dataclasses
import functools
import logging
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import tqdm
from absl import flags
from ml_collections import ConfigDict

from hapo_jax import assembly, cli, opening, run_programs
from hapo_jax.algo import method as method_lib
from hapo_jax.algo import settings
from hapo_jax.config import check, eval_sets
from hapo_jax.evaluation import report
from hapo_jax.evaluation import sampling as eval_sampling
from hapo_jax.evaluation import scores as eval_scores
from hapo_jax.learner import flops, perf
from hapo_jax.learner import learn as learn_lib
from hapo_jax.learner import state as state_lib
from hapo_jax.learner.state import TrainState
from hapo_jax.model import huggingface
from hapo_jax.model import policy as policy_lib
from hapo_jax.planning import dry_run
from hapo_jax.rollout import collect as collect_lib
from hapo_jax.rollout import generate as generate_lib
from hapo_jax.rollout import prompts as prompts_lib
from hapo_jax.runs import alarms
from hapo_jax.runs import evaluations as eval_folder
from hapo_jax.runs import folder as run_folder
from hapo_jax.runs import inputs as run_inputs
from hapo_jax.runs import records as run_records
from hapo_jax.runs import tokens as records
from hapo_jax.runs.checkpoint import Checkpoints, Score, ranking
from hapo_jax.system import (
    compile_ahead,
    distributed,
    errors,
    interrupt,
    lock,
    watchdog,
)
from hapo_jax.system.errors import Refused
from hapo_jax.tasks import data_checks

_log = logging.getLogger("hapo_jax.train")  # __name__ is __main__ with python -m

# A resumed run may set these anew: they do not change what its numbers mean.
MAY_CHANGE = (
    "num_steps",
    "mesh",
    "log",
    "checkpoint",
    "eval",
    "grading",
    *cli.CUTS,
    "rollout.chunk_tokens",
    "rollout.slots",
    "rollout.memory_fraction",
)


def train(config: ConfigDict, workdir: str) -> None:
    """Trains `model.path` on the config's task; resumes if `workdir` has a checkpoint.

    Raises:
      Refused: config, model or data cannot be used; nothing has been compiled yet.
      FloatingPointError: gradients were not finite too many times in a row.
    """
    # Check: everything that can be refused is refused here.
    began = time.perf_counter()
    folder = pathlib.Path(workdir)
    resolved = check.check(config, num_devices=jax.device_count())
    distributed.check_shared(folder)
    may_change = run_inputs.may_change(folder, MAY_CHANGE)
    run_folder.check_config(folder, resolved, may_change=may_change)
    cli.warn(resolved.config)
    given, config = config, resolved.config
    method = method_lib.make(settings.of(config.algo.to_dict()))
    check.check_advantages(config, method)
    policy = assembly.describe(config, policy_lib.make_mesh(config))
    opening.warn_of_prompts(config, policy)
    prompts = assembly.make_prompts(
        config, policy, config.task.train, exclude_ids=config.data.exclude_ids
    )
    held_out = eval_sampling.read_sets(
        config, policy, eval_sets.parse(config.eval.sets, config)
    )
    reference_params = policy.load_reference() if method.needs_reference else None
    inputs = run_inputs.of_run(config, policy, prompts, held_out, reference_params)
    run_inputs.check(folder, inputs)

    # Build.
    r, options = config.rollout, config.learner
    optimizer = assembly.make_optimizer(config)
    abstract = state_lib.abstract(policy, optimizer, method)
    learner = assembly.make_learner(
        options,
        policy,
        method,
        optimizer,
        longest=r.max_prompt_tokens + r.max_completion_tokens,
        minibatch_rows=options.minibatch_prompts * r.group_size,
        recompute_old_logprobs=options.recompute_old_logprobs,
        base_temperature=r.base_temperature,
    )
    to_sampler = policy.to_sampler()
    kept = assembly.kept_bytes(policy, method, optimizer)
    peak_flops = options.peak_tflops * 1e12 * jax.device_count() or flops.peak(
        policy.dtype, jax.device_count()
    )
    take = functools.partial(prompts_lib.take, len(prompts), config.seed)

    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(policy.mesh))
        pool = stack.enter_context(assembly.make_pool(config, [s for s, _ in held_out]))
        generator = assembly.make_generator(
            config,
            policy,
            prompts,
            pool,
            assembly.make_sampling(
                config,
                method,
                stop_ids=policy.tokenizer.stop_ids,
                pad_id=policy.tokenizer.pad_id,
            ),
            most_rows=r.round_prompts * r.group_size,
            group_size=r.group_size,
            beside=kept,
        )
        evaluators = eval_sampling.make_evaluators(
            config, policy, pool, held_out, beside=kept
        )
        found = data_checks.report(
            prompts.problems, [p for _, found in held_out for p in found.problems]
        )

        samples_first = [(generator.programs, abstract.method_state)]
        if config.eval.at_start:
            samples_first.insert(0, (evaluators[0].generator.programs, None))
        ahead = stack.enter_context(compile_ahead.Ahead())
        ahead.compile(
            run_programs.first_needed(
                config,
                policy,
                learner,
                samples_first,
                abstract,
                with_reference=method.needs_reference,
            )
        )

        # Restore. Up to here the folder is as it was, or empty.
        if distributed.is_first():
            stack.enter_context(lock.hold(folder))
        checkpoints = stack.enter_context(
            Checkpoints(
                str(folder / "checkpoints"),
                keep_latest=config.checkpoint.keep_latest,
                keep_best=config.checkpoint.keep_best,
                best_metric=eval_scores.BEST,
            )
        )
        if config.checkpoint.keep_best:
            _tell_other_protocols(checkpoints.scores(), evaluators[0].protocol)
        stop = stack.enter_context(interrupt.Interrupt())
        stop.last = checkpoints.wait
        watch = stack.enter_context(watchdog.Watchdog(config.log.watchdog_s))
        generator = dataclasses.replace(
            generator, should_stop=lambda: stop.requested is not None, beat=watch.beat
        )
        evaluators = [e.with_beat(watch.beat) for e in evaluators]
        start = opening.start(workdir, checkpoints.steps(), config.num_steps)
        facts = opening.of_run(resolved, given, policy, prompts, held_out)
        facts["data"] += opening.leaks(found)
        facts["devices"] += opening.cut(learner)
        facts["devices"] += f", {generator.programs.num_slots} slots"
        opening.show(f"hapo-train: {start}", facts)
        with stop.at_once("starting"):
            restored = checkpoints.restore_latest(state_lib.to_saved(abstract))
            if restored is None:
                first, stream = 0, collect_lib.StreamState()
                state = state_lib.place(policy.load(), optimizer, method, abstract)
            else:
                first = restored.step
                state = state_lib.from_saved(restored.state, abstract.frozen)
                stream = collect_lib.StreamState.from_plain(restored.extra)
        run = stack.enter_context(
            run_folder.RunFolder(
                workdir,
                resolved,
                resume_step=restored and first,
                may_change=may_change,
                writes=distributed.is_first(),
                devices=cli.devices(),
                inputs=run_inputs.digest(inputs),
                give_up=lambda: stop.requested is not None,
            )
        )
        watched = None
        if distributed.is_first():
            run_inputs.note(folder, inputs, resumed=restored is not None)
            before = run_records.read_metrics(folder)
            watched = alarms.Alarms(alarms.facts(config, policy), before)
        evaluate = functools.partial(
            _evaluate, evaluators, to_sampler, run, checkpoints, stop
        )
        # Of a step that was saved, and stopped before its evaluation was over.
        known = distributed.of_first(run.has(first, eval_scores.PROTOCOL))
        if _is_evaluated(config, first) and not known:
            evaluate(state, first)

        collect = functools.partial(
            collect_lib.collect,
            take=take,
            batch_prompts=r.batch_prompts,
            round_prompts=r.round_prompts,
            group_size=r.group_size,
            dynamic_sampling=r.dynamic_sampling,
            max_rounds=r.max_rounds,
        )
        steps = tqdm.trange(
            first + 1,
            config.num_steps + 1,
            initial=first,
            total=config.num_steps,
            desc=config.method,
            dynamic_ncols=True,
            disable=not distributed.is_first(),
        )
        programs, asked_to_stop = 0, None
        for step in steps:
            started = time.perf_counter()
            draw = functools.partial(
                _generate,
                generator,
                to_sampler(state.params),
                state.method_state,
                [r.base_temperature] * r.group_size,
                step,
            )
            with contextlib.ExitStack() as urgent:
                if step == first + 1:  # it compiles, and all before it is saved
                    urgent.enter_context(stop.at_once("in its first step"))
                try:
                    with _finite_policy(checkpoints, state, step - 1):
                        batch, stream, metrics = collect(stream, draw)
                except generate_lib.Abandoned:
                    # Nothing of this step has happened: there is the one before.
                    step, asked_to_stop = step - 1, stop.agree()
                    save = checkpoints.save_surely
                    save(
                        step,
                        state_lib.to_saved(state),
                        extra=stream.to_plain(),
                        give_up=lambda: True,
                    )
                    break
                del draw  # and with it the sampler's copy of the parameters
                collected = time.perf_counter()
                state, learnt, learning = learn_lib.learn(
                    learner,
                    state,
                    batch,
                    passes=options.passes,
                    reference_params=reference_params,
                )
            metrics |= learning
            updated = time.perf_counter()
            metrics["time/update"] = updated - collected
            if step == first + 1:
                metrics["time/to_first_update"] = updated - began
            metrics |= perf.rates(
                policy.config,
                learnt,
                metrics["time/update"],
                peak_flops=peak_flops,
            )
            # Shapes do not depend on lengths: whatever the first step needed is all.
            metrics |= perf.cuts(learner)
            metrics["perf/slots"] = generator.programs.num_slots
            metrics["perf/programs"] = learner.num_programs()
            programs = programs or learner.num_programs()
            assert learner.num_programs() == programs, "the learner compiled anew"
            metrics["time/step"] = time.perf_counter() - started
            stream, totals = stream.pay(metrics)
            metrics |= totals
            metrics |= pool.state

            if watched:
                metrics |= watched.see(step, metrics)
            run.log(step, metrics)
            _show(steps, metrics)
            cli.stop_if_diverged(state, step, options.max_skipped)
            if step == config.num_steps or step % config.log.record_every_steps == 0:
                with cli.side_job(f"the record of step {step}"):
                    records.save(
                        run,
                        step,
                        batch,
                        learnt.rows,
                        *learn_lib.look_back(learner, state, learnt),
                        generator=generator,
                        pieces=policy.tokenizer.pieces,
                        num_rows=config.log.record_groups * r.group_size,
                    )
            asked_to_stop = stop.agree()
            evaluated = _is_evaluated(config, step)
            last = step == config.num_steps or asked_to_stop is not None
            watch.beat()
            if last or evaluated or step % config.checkpoint.every_steps == 0:
                cli.check_finite(state, step)
                run.settle()  # what is on disk of a step that is saved, stays
                save = checkpoints.save
                if last:
                    save = functools.partial(
                        checkpoints.save_surely,
                        give_up=lambda: stop.requested is not None,
                    )
                save(step, state_lib.to_saved(state), extra=stream.to_plain())
            if evaluated and not asked_to_stop:  # or else when the run goes on
                evaluate(state, step)
            if last:
                break

    if asked_to_stop:
        if distributed.is_first():
            cli.say_stopped(asked_to_stop, step, workdir)
        return
    if distributed.is_first():
        with cli.side_job("the summary"):
            _summarise(folder, config)
        if told := watched.summary():
            print(told)
    if config.checkpoint.export_hf:
        huggingface.save_params(
            folder / "hf",
            state.params,
            policy.config,
            dtype=policy.dtype,
            tokenizer=policy.tokenizer,
            source=config.model.path,
        )
        if distributed.is_first():
            print(f"model:  {folder / 'hf'}")


def _generate(
    generator, params, method_state, base_temperatures, step, prompt_ids, first_sample
):
    """One round of a step, for `collect`."""
    return generate_lib.generate(
        generator,
        params,
        method_state,
        base_temperatures=base_temperatures,
        step=step,
        prompt_ids=prompt_ids,
        first_sample=first_sample,
    )


def _is_evaluated(config: ConfigDict, step: int) -> bool:
    """Whether the policy after this step is evaluated."""
    if step == 0:
        return config.eval.at_start
    every = config.eval.every_steps
    return step == config.num_steps or bool(every and step % every == 0)


@contextlib.contextmanager
def _finite_policy(checkpoints: Checkpoints, state: TrainState, updated: int):
    """Around sampling: says what of a policy is broken that cannot be drawn from.

    `updated` is the step after which the policy is as it is.
    """
    try:
        yield
    except errors.Diverged as error:
        wrong = state_lib.not_finite(state)
        what = f"not finite: {', '.join(wrong[:5])}"
        if not wrong:
            what = f"parameters are too large: up to {state_lib.largest(state):.2g}"
        saved = checkpoints.steps()
        good, bad = ([s for s in saved if (s < updated) == k] for k in (True, False))
        folders = " and ".join(f"checkpoints/{step}" for step in bad)
        away = f"; move {folders} away to go on from them" if bad else ""
        raise errors.Diverged(
            f"after step {updated}: {error}; {what}. Checkpoints of the steps {good} "
            f"are of policies before that{away}. {cli.diverged_remedy()}"
        ) from error


def _evaluate(
    evaluators, to_sampler, run, checkpoints, stop, state: TrainState, step: int
) -> None:
    """Evaluates, keeps the results under `step`, and scores its checkpoint."""
    sound = _finite_policy(checkpoints, state, step)
    with cli.side_job(f"the evaluation of step {step}"), sound:
        with stop.at_once(f"evaluating step {step}"):
            results, figures = eval_sampling.evaluate(
                evaluators,
                to_sampler(state.params),
                found=run.eval_records(step),
                keep=functools.partial(run.keep_eval, step),
            )
        run.save_eval(step, results)
        run.log(step, figures)
        if step:
            checkpoints.score(step, figures, evaluators[0].protocol)


def _tell_other_protocols(scores: Mapping[int, Score], now: Mapping[str, Any]) -> None:
    """Names the checkpoints that were best under another protocol than that of now."""
    best = {ranking(scores, step, among=scores)[0] for step in scores}
    for step in sorted(best):
        metric, value, before = scores[step]
        if before == now:
            continue
        under = "a protocol that was not noted"
        if before is not None:
            changes = "; ".join(eval_folder.differences(before, now))
            under = f"another protocol (then and now: {changes})"
        _log.info(
            "Step %d has %s %.4f under %s. Its checkpoint is kept, and new scores do "
            "not compete with it.",
            step,
            metric,
            value,
            under,
        )


def _show(bar: tqdm.tqdm, metrics: dict[str, float]) -> None:
    """The numbers behind the progress bar."""
    names = {
        "reward": "rollout/reward",
        "entropy": "entropy/mean",
        "length": "length/mean",
        "s/step": "time/step",
    }
    shown = {k: f"{metrics[v]:.2f}" for k, v in names.items() if v in metrics}
    bar.set_postfix(shown)


def _summarise(folder: pathlib.Path, config: ConfigDict) -> None:
    """Prints each set's table before and after, and draws the curves."""
    metrics = {m["step"]: m for m in run_records.read_metrics(folder)}
    sets = eval_sets.parse(config.eval.sets, config)
    for name in [s.name for s in sets]:
        figures = metrics
        if len(sets) > 1:
            print(name)
            figures = {k: eval_scores.of_set(m, name) for k, m in metrics.items()}
        evaluated = [step for step, f in figures.items() if "eval/length" in f]
        if not evaluated:
            continue
        alike = report.of_last_protocol(figures, evaluated)
        rows = {
            f"after {step} steps" if step else "before": figures[step]
            for step in (alike[0], alike[-1])
        }
        print(report.table(rows))
        if left_out := len(evaluated) - len(alike):
            print(f"{left_out} evaluations under another protocol are left out.")
    print(f"curves: {report.plot_curves(folder)}")


def run() -> None:
    """The program `hapo-train`."""
    only_try = flags.DEFINE_bool(
        "dry_run", False, "Run the largest work once, print time and memory, and end."
    )

    def start(config: ConfigDict, workdir: str | None) -> None:
        if only_try.value:
            if jax.process_count() > 1:
                raise Refused(
                    "--dry_run runs in one process; leave --num_processes out."
                )
            dry_run.dry_run(config)
        elif workdir is None:
            raise Refused("--workdir is missing; give the run's folder.")
        else:
            train(config, workdir)

    cli.run(start, required=("config",), several_processes=True)


if __name__ == "__main__":
    run()
