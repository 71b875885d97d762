"""The main job, to be read after `plain.py`: one command trains a policy with HAPO.

    hapo-train --config=configs/countdown.py --workdir=runs/demo

A step is collect → update → log → evaluate → save. The method (HAPO, DAPO, GRPO, …) is
a choice of functions made once, from the config, in `algo/method.py`.
"""

import contextlib
import functools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
import tqdm
from absl import flags
from flax import nnx
from ml_collections import ConfigDict

from hapo_jax import assembly, cli, opening, run_programs, tasks
from hapo_jax import session as session_lib
from hapo_jax.assembly import Run
from hapo_jax.config import check, eval_sets
from hapo_jax.config.eval_sets import EvalSet
from hapo_jax.doctor import doctor as doctor_lib
from hapo_jax.evaluation import curriculum, report
from hapo_jax.evaluation import figures as figures_lib
from hapo_jax.evaluation import sampling as sampling_lib
from hapo_jax.evaluation.sampling import Evaluator
from hapo_jax.grading.pool import GradingPool
from hapo_jax.learner import flops, perf
from hapo_jax.learner import learn as learn_lib
from hapo_jax.learner import state as state_lib
from hapo_jax.learner.learn import Learnt
from hapo_jax.learner.state import TrainState
from hapo_jax.model import huggingface
from hapo_jax.planning import dry_run
from hapo_jax.rollout import collect as collect_lib
from hapo_jax.rollout import demonstrations
from hapo_jax.rollout import generate as generate_lib
from hapo_jax.rollout import labels as labels_lib
from hapo_jax.rollout import prompts as prompts_lib
from hapo_jax.rollout import second as second_lib
from hapo_jax.rollout.batch import RolloutBatch
from hapo_jax.rollout.collect import StreamState
from hapo_jax.rollout.generate import Generator
from hapo_jax.rollout.ledger import Ledger
from hapo_jax.rollout.prompts import PromptSet
from hapo_jax.runs import batches
from hapo_jax.runs import inputs as inputs_lib
from hapo_jax.runs import records as records_lib
from hapo_jax.runs import tokens as tokens_lib
from hapo_jax.session import Launch, Session
from hapo_jax.system import compile_ahead, compile_time, distributed, errors
from hapo_jax.system.errors import Refused
from hapo_jax.system.interrupt import Interrupt
from hapo_jax.system.watchdog import Watchdog
from hapo_jax.tasks import data_checks

# A resumed run may set these anew: they do not change what its numbers mean.
MAY_CHANGE = (
    "max_sampled_tokens",
    *session_lib.MAY_CHANGE,
    "grading",
    "rollout.chunk_tokens",
    "rollout.slots",
    "rollout.memory_fraction",
)


def train(config: ConfigDict, workdir: str, *, doctor: str = "warn") -> None:
    """Trains `model.path` on the config's task; resumes if `workdir` has a checkpoint.

    Args:
      config: with all that files and flags set.
      workdir: of the run.
      doctor: one of `doctor.MODES`: what the run doctor does with a finding.

    Raises:
      Refused: config, model or data cannot be used; nothing has been compiled yet.
      FloatingPointError: gradients were not finite too many times in a row.
      Unhealthy: the doctor is strict, and has found something.
    """
    began = time.perf_counter()
    launch, held_out, reference_params = _check(config, workdir)
    run, config = launch.run, launch.run.config
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(run.policy.mesh))
        compiling = stack.enter_context(compile_time.CompileTime())
        stop, watch = Interrupt(), Watchdog(config.log.watchdog_s)
        parts = _build(run, held_out, stop, watch, stack)

        # Up to here the folder is as it was, or empty.
        session, start = stack.enter_context(
            session_lib.start(
                _with_cuts(launch, parts),
                run.policy.load,
                stop=stop,
                watch=watch,
                protocol=parts.evaluators[0].protocol,
                doctor=doctor,
            )
        )
        state, stream = start.state, StreamState()
        if start.extra is not None:
            stream = StreamState.from_plain(start.extra)
        take, stream = _order(session, parts, state, stream)
        evaluate = functools.partial(_evaluate, session, parts.evaluators)
        ends = stream.has_sampled(config.max_sampled_tokens)
        if session.owes_evaluation(figures_lib.PROTOCOL, ends=ends):
            evaluate(state, session.first)

        if told := session.examine(state, session.first):
            doctor_lib.end(told)
        asked, num_programs, ended = None, 0, None
        steps = session.steps(config.method)
        for step in () if ends else steps:
            started = time.perf_counter()
            with session.urgent(step):
                try:
                    batch, stream, metrics = _collect(
                        session, parts.generator, state, stream, step, take
                    )
                except generate_lib.Abandoned:
                    # Nothing of this step has happened: there is the one before.
                    step, asked = step - 1, stop.agree()
                    session.checkpoints.save_surely(
                        step,
                        state_lib.to_saved(state),
                        extra=stream.to_plain(),
                        give_up=lambda: True,
                    )
                    break
                collected = time.perf_counter()
                sampled = metrics["ledger/sampled_tokens"]
                ends = stream.has_sampled(config.max_sampled_tokens, sampled)
                recorded = _is_recorded(config, step, ends=ends)
                state, learnt, learning = learn_lib.learn(
                    run.learner,
                    state,
                    batch,
                    passes=run.work.passes,
                    reference_params=reference_params,
                    watch=recorded and config.log.record_groups == "all",
                )
            updated = time.perf_counter()

            metrics |= learning | {"time/update": updated - collected}
            if step == session.first + 1:
                metrics["time/to_first_update"] = updated - began
            metrics |= _speed(run, parts, learnt, updated - collected)
            # Shapes do not depend on lengths: whatever the first step needed is all.
            num_programs = num_programs or metrics["perf/programs"]
            assert metrics["perf/programs"] == num_programs, "the learner compiled anew"
            if ended is not None:
                metrics["time/between"] = started - ended
            ended = time.perf_counter()
            metrics |= {"time/step": ended - started, "time/compile": compiling.take()}
            stream, totals = stream.pay(metrics)
            metrics |= totals
            metrics |= parts.pool.state
            session.files.log(step, metrics | session.raised(step, metrics))
            _show(steps, metrics)
            session_lib.stop_if_diverged(state, step, config.learner.max_skipped)
            if recorded:
                _record(session, state, learnt, step)

            told = session.examine(state, step, metrics)
            asked = "The run doctor" if told else stop.agree()
            extra = stream.to_plain()
            if session.end_step(
                step, state, asked=asked, evaluate=evaluate, extra=extra, ends=ends
            ):
                break
    if asked:
        session.say_stopped(asked, step)
    else:
        _finish(session, state)
    if told:
        doctor_lib.end(told)


def _check(
    config: ConfigDict, workdir: str
) -> tuple[Launch, list[tuple[EvalSet, PromptSet]], nnx.State | None]:
    """Everything that can be refused is refused here.

    Returns:
      What the run is launched with, the evaluation's sets, and the reference policy's
      parameters if the method reads them.
    """
    resolved = check.check(config, num_devices=jax.device_count())
    home = session_lib.check_home(workdir, resolved, MAY_CHANGE)
    given, config = config, resolved.config
    run = assembly.assemble(config)
    held_out = sampling_lib.read_sets(run, eval_sets.parse(config.eval.sets, config))
    reference_params = run.load_reference()
    inputs = inputs_lib.of_run(
        config,
        run.policy,
        run.prompts,
        held_out,
        reference_params,
        run.demonstrations,
    )
    inputs_lib.check(pathlib.Path(workdir), inputs)
    found = data_checks.report(
        run.prompts.problems, [p for _, found in held_out for p in found.problems]
    )
    facts = opening.of_run(run, resolved, given, held_out)
    facts["data"] += opening.leaks(found)
    launch = Launch(
        run=run,
        home=home,
        inputs=inputs,
        title="hapo-train",
        facts=facts,
        leaks=found["data/overlap"],
        duplicates=found["data/duplicates"] / found["data/train_problems"],
    )
    return launch, held_out, reference_params


class _Parts(NamedTuple):
    """What draws and grades, in training and in evaluations.

    Attributes:
      pool: the processes that grade.
      generator: of what is trained on.
      evaluators: one per set.
      peak_flops: FLOP/s of all devices together.
    """

    pool: GradingPool
    generator: Generator
    evaluators: list[Evaluator]
    peak_flops: float


def _build(
    run: Run,
    held_out: Sequence[tuple[EvalSet, PromptSet]],
    stop: Interrupt,
    watch: Watchdog,
    stack: contextlib.ExitStack,
) -> _Parts:
    """Starts the graders, and compiling; `stack` ends both."""
    config = run.config
    peak_flops = config.learner.peak_tflops * 1e12 * jax.device_count() or flops.peak(
        run.policy.dtype, jax.device_count()
    )
    pool = stack.enter_context(assembly.make_pool(config, [s for s, _ in held_out]))
    generator = assembly.make_generator(
        run,
        assembly.make_programs(run, run.draws),
        run.prompts,
        pool,
        correction=run.correction,
        should_stop=stop.asked,
        beat=watch.beat,
    )
    evaluators = sampling_lib.make_evaluators(run, pool, held_out, beat=watch.beat)
    samples_first = [(generator.programs, run.abstract.method_state)]
    if config.eval.at_start:
        samples_first.insert(0, (evaluators[0].generator.programs, None))
    ahead = stack.enter_context(compile_ahead.Ahead())
    ahead.compile(run_programs.first_needed(run, samples_first))
    return _Parts(
        pool=pool, generator=generator, evaluators=evaluators, peak_flops=peak_flops
    )


def _with_cuts(launch: Launch, parts: _Parts) -> Launch:
    """With what the devices do at a time among the facts."""
    slots = f", {parts.generator.programs.num_slots} slots"
    devices = launch.facts["devices"] + opening.cut(launch.run.learner) + slots
    return launch._replace(facts=launch.facts | {"devices": devices})


def _order(
    session: Session, parts: _Parts, state: TrainState, stream: StreamState
) -> tuple[Callable[[int, int], np.ndarray], StreamState]:
    """The order of the training problems: (cursor, count) -> their places.

    One that follows from the first policy's answers is found before the first step,
    and what was drawn for it is the stream's first expense.

    Raises:
      Refused: the answers are gone, and so is the policy that gave them.
    """
    run, seed, options = session.run, session.config.seed, session.config.data
    if options.order == "shuffled":
        return functools.partial(prompts_lib.take, len(run.prompts), seed), stream
    found = {record["id"]: record for record in session.files.order_records()}
    whole = distributed.of_first(all(p.id in found for p in run.prompts.problems))
    if session.first and not whole:
        raise Refused(
            f"{session.workdir}/{records_lib.ORDER} does not hold every training "
            "problem, and the policy that it was made by is gone; put it back, or "
            "begin anew in another workdir."
        )
    evaluator = curriculum.evaluator(run, parts.pool, beat=session.watch.beat)
    with session.stop.at_once("ordering the problems"):
        records = sampling_lib.complete(
            evaluator,
            run.to_sampler(state.params),
            found,
            lambda record: session.files.keep_order(
                {name: record[name] for name in curriculum.KEPT}
            ),
        )
    if not session.first:
        lengths = [n for record in records for n in record["lengths"]]
        spent = Ledger(sampled_tokens=sum(lengths), sampled_completions=len(lengths))
        stream = stream._replace(spent=spent)
    stages = curriculum.stages(
        records, options.curriculum.stages, per_token=options.curriculum.per_token
    )
    return functools.partial(prompts_lib.take_staged, stages, seed), stream


def _collect(
    session: Session,
    generator: Generator,
    state: TrainState,
    stream: StreamState,
    step: int,
    take: Callable[[int, int], np.ndarray],
):
    """The batch of a step, the stream behind it, and metrics; see `collect`.

    The sampler's copy of the parameters lives no longer than this.
    """
    run = session.run
    r = run.config.rollout
    draw = functools.partial(
        generate_lib.generate,
        generator,
        run.to_sampler(state.params),
        state.method_state,
        base_temperatures=[r.base_temperature] * r.group_size,
        step=step,
        greedy_baseline=r.greedy_baseline,
    )
    with _finite_policy(session, state, step - 1):
        batch, stream, metrics = collect_lib.collect(
            stream,
            lambda ids, first: draw(prompt_ids=ids, first_sample=first),
            take,
            batch_prompts=r.batch_prompts,
            round_prompts=r.round_prompts,
            group_size=r.group_size,
            dynamic_sampling=r.dynamic_sampling,
            max_rounds=r.max_rounds,
        )
        batch, metrics = put_beside(
            run, batch, metrics, draw, step=step, entropy=stream.entropy
        )
        if run.method.reads_forks:
            name = run.config.task.name
            of_task = labels_lib.of_task(name, tasks.get(name))
            pieces = run.policy.tokenizer.pieces
            batch = labels_lib.mark(batch, run.prompts, pieces, of_task)
        return batch, stream, metrics


def put_beside(
    run: Run,
    batch: RolloutBatch,
    metrics: dict[str, float],
    draw: Callable[..., tuple[RolloutBatch, dict[str, float]]],
    *,
    step: int,
    entropy: float,
) -> tuple[RolloutBatch, dict[str, float]]:
    """The batch and metrics of a step, with what is imitated beside the rollout.

    Args:
      run: the run.
      batch, metrics: of `collect`.
      draw: `generate`, but for what a second rollout draws otherwise.
      step: of the run, from 1.
      entropy: of the last step, see `StreamState`.
    """
    r, work = run.config.rollout, run.work
    num_minibatches = work.batch_rows // work.minibatch_rows
    if run.demonstrations is not None:
        batch = demonstrations.put_beside(
            batch,
            run.demonstrations.rows,
            step=step,
            seed=run.config.seed,
            number=work.shown_rows,
            num_minibatches=num_minibatches,
            free=work.beside_rows,
        )
    elif work.beside_rows:
        batch, metrics = second_lib.extend(
            second_lib.Second(**r.second.to_dict()),
            batch,
            metrics,
            lambda temperature, ids, first: draw(
                prompt_ids=ids,
                first_sample=first,
                base_temperatures=[temperature] * r.group_size,
                greedy_baseline=False,
            ),
            entropy=entropy,
            group_size=r.group_size,
            num_minibatches=num_minibatches,
            free=work.beside_rows,
            # Behind all that the step may have given to a prompt.
            first_sample=r.max_rounds * r.round_prompts * r.group_size,
        )
    return batch, metrics


def _speed(run: Run, parts: _Parts, learnt: Learnt, seconds: float) -> dict[str, float]:
    """How fast a step learnt, and in what pieces."""
    found = perf.rates(run.policy.config, learnt, seconds, peak_flops=parts.peak_flops)
    return {
        **found,
        **perf.cuts(run.learner),
        "perf/slots": parts.generator.programs.num_slots,
        "perf/programs": run.learner.num_programs(),
    }


def _is_recorded(config: ConfigDict, step: int, *, ends: bool) -> bool:
    """Whether it is kept what happened to the tokens of a step; the last one is."""
    last = ends or step == config.num_steps
    return last or step % config.log.record_every_steps == 0


def _record(session: Session, state: TrainState, learnt: Learnt, step: int) -> None:
    """Keeps what happened to each token of some groups, or of all."""
    run, config = session.run, session.config
    whole = learnt.watched is not None
    num_rows = len(learnt.batch.rewards)
    if not whole:
        num_rows = config.log.record_groups * config.rollout.group_size
    with session_lib.side_job(f"the record of step {step}"):
        if whole:
            recorded = batches.of_step(
                step,
                learnt,
                minibatch_rows=run.learner.minibatch_rows,
                phases=run.learner.phases,
                num_prompts=len(run.prompts),
            )
            session.files.save_batch(step, batches.to_bytes(recorded))
        tokens_lib.save(
            session.files,
            step,
            learnt,
            *learn_lib.look_back(run.learner, state, learnt),
            prompts=run.prompts,
            tokenizer=run.policy.tokenizer,
            num_rows=num_rows,
        )


@contextlib.contextmanager
def _finite_policy(session: Session, state: TrainState, updated: int):
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
        saved = session.checkpoints.steps()
        good, bad = ([s for s in saved if (s < updated) == k] for k in (True, False))
        folders = " and ".join(f"checkpoints/{step}" for step in bad)
        away = f"; move {folders} away to go on from them" if bad else ""
        raise errors.Diverged(
            f"after step {updated}: {error}; {what}. Checkpoints of the steps {good} "
            f"are of policies before that{away}. {session_lib.diverged_remedy()}"
        ) from error


def _evaluate(
    session: Session, evaluators: Sequence[Evaluator], state: TrainState, step: int
) -> None:
    """Evaluates, keeps the results under `step`, and scores its checkpoint."""
    files, sound = session.files, _finite_policy(session, state, step)
    with session_lib.side_job(f"the evaluation of step {step}"), sound:
        with session.stop.at_once(f"evaluating step {step}"):
            results, figures = sampling_lib.evaluate(
                evaluators,
                session.run.to_sampler(state.params),
                found=files.eval_records(step),
                keep=functools.partial(files.keep_eval, step),
            )
        files.save_eval(step, results)
        files.log(step, figures)
        if step:
            session.checkpoints.score(step, figures, evaluators[0].protocol)


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


def _finish(session: Session, state: TrainState) -> None:
    """What a run that has come to its end says and leaves."""
    folder, policy = pathlib.Path(session.workdir), session.run.policy
    if distributed.is_first():
        with session_lib.side_job("the summary"):
            _summarise(folder, session.config)
        if session.alarms and (told := session.alarms.summary()):
            print(told)
    if session.config.checkpoint.export_hf:
        huggingface.save_params(
            folder / "hf",
            state.params,
            policy.config,
            dtype=policy.dtype,
            tokenizer=policy.tokenizer,
            source=policy.source,
        )
        if distributed.is_first():
            print(f"model:  {folder / 'hf'}")


def _summarise(folder: pathlib.Path, config: ConfigDict) -> None:
    """Prints each set's table before and after, and draws the curves."""
    metrics = {m["step"]: m for m in records_lib.read_metrics(folder)}
    sets = eval_sets.parse(config.eval.sets, config)
    for name in [s.name for s in sets]:
        figures = metrics
        if len(sets) > 1:
            print(name)
            figures = {k: figures_lib.of_set(m, name) for k, m in metrics.items()}
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

    doctor = flags.DEFINE_enum(
        "doctor",
        "warn",
        doctor_lib.MODES,
        "What the run doctor does with silent failures: strict ends the run.",
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
            train(config, workdir, doctor=doctor.value)

    cli.run(start, required=("config",), several_processes=True)


if __name__ == "__main__":
    run()
