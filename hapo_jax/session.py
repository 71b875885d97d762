"""A run while it goes on: its folder, checkpoints, signals, and the end of each step.

hapo-train and hapo-sft share it. `assembly.Run` is what they compute with, and nothing
here computes.
"""

import contextlib
import dataclasses
import functools
import logging
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import tqdm
from flax import nnx
from ml_collections import ConfigDict

from hapo_jax import cli, opening
from hapo_jax.assembly import Run
from hapo_jax.config import resolution
from hapo_jax.doctor import doctor as doctor_lib
from hapo_jax.evaluation import figures as figures_lib
from hapo_jax.learner import state as state_lib
from hapo_jax.learner.state import TrainState
from hapo_jax.runs import alarms, changes
from hapo_jax.runs import folder as folder_lib
from hapo_jax.runs import inputs as inputs_lib
from hapo_jax.runs import records as records_lib
from hapo_jax.runs.checkpoint import Checkpoints, Score, ranking
from hapo_jax.system import distributed, errors, lock
from hapo_jax.system.interrupt import Interrupt
from hapo_jax.system.watchdog import Watchdog

_log = logging.getLogger(__name__)

_PROMPTS_LOOKED_AT = 100  # by the run doctor

# A resumed run may set these anew: they do not change what its numbers mean. Settings
# of the learner are among them that say how its work is cut and counted.
MAY_CHANGE = (
    "num_steps",
    "mesh",
    "log",
    "checkpoint",
    "eval",
    "learner.packing",
    "learner.share_prompts",
    "learner.row_tokens",
    "learner.micro_rows",
    "learner.chunk_tokens",
    "learner.remat",
    "learner.peak_tflops",
)


def check_home(
    workdir: str, resolved: resolution.Resolved, may_change: Collection[str]
) -> folder_lib.Home:
    """Compares a config with that of the folder's run, and says what it may do.

    Args:
      workdir, resolved, may_change: see `folder.Home`.

    Raises:
      Refused: the folder's run cannot go on with this config.
    """
    folder = pathlib.Path(workdir)
    distributed.check_shared(folder)
    home = folder_lib.Home(
        workdir=workdir,
        resolved=resolved,
        may_change=inputs_lib.may_change(folder, may_change),
    )
    folder_lib.check_config(home)
    cli.warn(resolved.config)
    return home


class Launch(NamedTuple):
    """What a program has read and checked before it compiles or writes anything.

    Attributes:
      run: what it will compute with.
      home: where.
      inputs: what it has read, as checksums.
      title: of the program.
      facts: what it says before it begins.
      leaks: evaluation problems that are trained on as well; None if unknown.
      duplicates: share of the training problems that repeat another; None if unknown.
    """

    run: Run
    home: folder_lib.Home
    inputs: inputs_lib.Inputs
    title: str
    facts: opening.Facts
    leaks: int | None = None
    duplicates: float | None = None


@dataclasses.dataclass(frozen=True)
class Session:
    """What is open while a run goes on; `start` makes one.

    Attributes:
      run: what is computed with.
      workdir: the folder.
      first: the step that it goes on behind; 0 for a new run.
      checkpoints: of the training state.
      files: for all else that is written.
      alarms: that the metrics raise; None but in process 0 of a run that learns.
      doctor: looks at a run of hapo-train; None in other processes and programs.
      doctor_mode: one of `doctor.MODES`.
      stop: knows of signals.
      watch: wants to hear that the run gets on.
    """

    run: Run
    workdir: str
    first: int
    checkpoints: Checkpoints
    files: folder_lib.RunFolder
    alarms: alarms.Alarms | None
    doctor: doctor_lib.Doctor | None
    doctor_mode: str
    stop: Interrupt
    watch: Watchdog

    @property
    def config(self) -> ConfigDict:
        """Of the run."""
        return self.run.config

    def steps(self, name: str) -> tqdm.tqdm:
        """The steps that are left, with a progress bar."""
        return tqdm.trange(
            self.first + 1,
            self.config.num_steps + 1,
            initial=self.first,
            total=self.config.num_steps,
            desc=name,
            dynamic_ncols=True,
            disable=not distributed.is_first(),
        )

    def urgent(self, step: int) -> contextlib.AbstractContextManager:
        """Around a step's work: a signal ends the first at once, since it compiles, and
        all before it is saved."""
        if step == self.first + 1:
            return self.stop.at_once("in its first step")
        return contextlib.nullcontext()

    def is_evaluated(self, step: int, *, ends: bool = False) -> bool:
        """Whether the policy after this step is; it is where the run `ends`."""
        options = self.config.eval
        if step == 0:  # which a supervised run never evaluates
            return "at_start" in options and options.at_start
        every = options.every_steps
        ends = ends or step == self.config.num_steps
        return ends or bool(every and step % every == 0)

    def owes_evaluation(self, metric: str, *, ends: bool = False) -> bool:
        """Whether `first` is to be evaluated still: it was saved before that was over.

        Args:
          metric: that an evaluation leaves.
          ends: whether the run has come to its end with it.
        """
        known = distributed.of_first(self.files.has(self.first, metric))
        return self.is_evaluated(self.first, ends=ends) and not known

    def raised(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """The alarms that a step's metrics raise, as metrics."""
        return self.alarms.see(step, metrics) if self.alarms else {}

    def examine(
        self,
        state: TrainState,
        step: int,
        metrics: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        """Has the run doctor look, where it is time to; all processes must call it.

        It warns of what it finds, and notes that in the metrics.

        Args:
          state, step: that were reached.
          metrics: of the step; None before the first.

        Returns:
          What ends the run: new findings if the doctor is strict, or nothing.
        """
        if self.doctor_mode == "off":
            return {}
        if self.doctor and metrics:
            self.doctor.see(metrics | {"step": step})
        # A resumed run has looked at the step that it goes on behind.
        if step % self.config.log.doctor_every_steps or (step and not metrics):
            return {}
        policy, told, gap = self.run.policy, {}, None
        if policy.sample_mesh is policy.mesh:  # else the copies are on other devices
            copy = self.run.to_sampler(state.params)
            gap = float(doctor_lib.weights_gap(copy, state.params))
        if self.doctor:
            with side_job("the run doctor"):
                told = self.doctor.look(step, gap)
        if told:
            self.files.log(step, told)
        if self.doctor_mode != "strict" or not distributed.of_first(bool(told)):
            return {}
        return told or {"": 1.0}  # which process 0 alone can name

    def is_last(self, step: int, asked: str | None) -> bool:
        """Whether a step ends the run; `asked` is what `stop.agree` has said."""
        return step == self.config.num_steps or asked is not None

    def end_step(
        self,
        step: int,
        state: TrainState,
        *,
        asked: str | None,
        evaluate: Callable[[TrainState, int], None],
        extra: Any = None,
        ends: bool = False,
    ) -> bool:
        """Saves and evaluates where it is time to.

        Args:
          step, state: that were reached.
          asked: the signal that ends the run, or None.
          evaluate: (state, step) -> nothing, once that is saved.
          extra: see `Checkpoints.save`.
          ends: whether the run ends before `num_steps`, and with this step.

        Returns:
          Whether the run ends here.
        """
        evaluated = self.is_evaluated(step, ends=ends)
        last = ends or self.is_last(step, asked)
        self.watch.beat()
        if last or evaluated or step % self.config.checkpoint.every_steps == 0:
            check_finite(state, step)
            self.files.settle()  # what is on disk of a step that is saved, stays
            save = self.checkpoints.save
            if last:
                save = functools.partial(
                    self.checkpoints.save_surely, give_up=self.stop.asked
                )
            save(step, state_lib.to_saved(state), extra=extra)
        if evaluated and not asked:  # or else when the run goes on
            evaluate(state, step)
        return last

    def say_stopped(self, asked: str, step: int) -> None:
        """Tells which step was saved where, and how to go on."""
        if distributed.is_first():
            print(
                f"{asked}: saved step {step} in {self.workdir}. Run the same command "
                "again to go on.",
                flush=True,
            )


class Position(NamedTuple):
    """Where a run goes on.

    Attributes:
      state: of training.
      extra: what else its checkpoint holds; None for a new run.
    """

    state: TrainState
    extra: Any


@contextlib.contextmanager
def start(
    launch: Launch,
    load: Callable[[], nnx.State],
    *,
    stop: Interrupt,
    watch: Watchdog,
    protocol: Mapping[str, Any] | None = None,
    looks_every: int = 1,
    doctor: str = "off",
) -> Iterator[tuple[Session, Position]]:
    """Opens a run's folder and reads where it goes on; first to write there.

    Args:
      launch: what was read and checked.
      load: the parameters that a new run begins with.
      stop, watch: of the session; in force from here on.
      protocol: of the evaluations that the best checkpoints are kept by; None where
        only the newest are kept.
      looks_every: steps between two looks of the alarms.
      doctor: one of `doctor.MODES`, for a run that has problems to train on.
    """
    run, home, config = launch.run, launch.home, launch.run.config
    folder, first_process = pathlib.Path(home.workdir), distributed.is_first()
    with contextlib.ExitStack() as stack:
        if first_process:
            stack.enter_context(lock.hold(folder))
        best = {}
        if protocol is not None:
            keep_best = config.checkpoint.keep_best
            best = dict(keep_best=keep_best, best_metric=figures_lib.BEST)
        checkpoints = stack.enter_context(
            Checkpoints(
                str(folder / "checkpoints"),
                keep_latest=config.checkpoint.keep_latest,
                **best,
            )
        )
        if best.get("keep_best"):
            _tell_other_protocols(checkpoints.scores(), protocol)
        stack.enter_context(stop.caught(last=checkpoints.wait))
        stack.enter_context(watch)
        begins = opening.start(
            home.workdir,
            checkpoints.steps(),
            config.num_steps,
            config.get("max_sampled_tokens", 0),
        )
        opening.show(f"{launch.title}: {begins}", launch.facts)
        with stop.at_once("starting"):
            restored = checkpoints.restore_latest(state_lib.to_saved(run.abstract))
            if restored is None:
                position = Position(state=run.first_state(load()), extra=None)
            else:
                state = state_lib.from_saved(restored.state, run.abstract.frozen)
                position = Position(state=state, extra=restored.extra)
        files = stack.enter_context(
            folder_lib.RunFolder(
                home,
                resume_step=restored and restored.step,
                writes=first_process,
                devices=cli.devices(),
                inputs=inputs_lib.digest(launch.inputs),
                give_up=stop.asked,
            )
        )
        watched = looks = None
        if first_process:
            inputs_lib.note(folder, launch.inputs, resumed=restored is not None)
            before = records_lib.read_metrics(folder)
            if config.learner.get("passes", 1):  # or it is not there to learn
                watched = alarms.Alarms(
                    alarms.facts(config, run.policy), before, every_steps=looks_every
                )
            if doctor != "off":
                looks = doctor_lib.Doctor(
                    config,
                    home.workdir,
                    before,
                    tokenizer=run.policy.tokenizer,
                    prompt_tokens=run.prompts.tokens[:_PROMPTS_LOOKED_AT],
                    leaks=launch.leaks,
                    duplicates=launch.duplicates,
                )
        session = Session(
            run=run,
            workdir=home.workdir,
            first=restored.step if restored else 0,
            checkpoints=checkpoints,
            files=files,
            alarms=watched,
            doctor=looks,
            doctor_mode=doctor,
            stop=stop,
            watch=watch,
        )
        yield session, position


def _tell_other_protocols(scores: Mapping[int, Score], now: Mapping[str, Any]) -> None:
    """Names the checkpoints that were best under another protocol than that of now."""
    best = {ranking(scores, step, among=scores)[0] for step in scores}
    for step in sorted(best):
        metric, value, before = scores[step]
        if before == now:
            continue
        under = "a protocol that was not noted"
        if before is not None:
            told = "; ".join(map(str, changes.between(before, now)))
            under = f"another protocol ({told})"
        _log.info(
            "Step %d has %s %.4f under %s. Its checkpoint is kept, and new scores do "
            "not compete with it.",
            step,
            metric,
            value,
            under,
        )


@contextlib.contextmanager
def side_job(name: str) -> Iterator[None]:
    """Around work that a run can do without, once what it has learnt is saved.

    What goes wrong is reported with its traceback, and the run goes on. Not so among
    several processes, of which the others would wait for this one's part for ever.
    """
    try:
        yield
    except errors.RunFailed:
        raise  # which is not about this work alone
    except Exception:
        if jax.process_count() > 1:
            raise
        log = logging.getLogger("hapo_jax")
        log.exception("%s failed; the run goes on without it.", name.capitalize())


def stop_if_diverged(state: TrainState, step: int, max_skipped: int) -> None:
    """Ends a run whose gradients have not been finite for several updates.

    Raises:
      Diverged: names the step.
    """
    skipped = int(state.skipped)
    if skipped >= max_skipped:
        raise errors.Diverged(
            f"step {step}: the gradients of {skipped} updates in a row were not finite "
            f"(learner.max_skipped={max_skipped}). {diverged_remedy()}"
        )


def diverged_remedy() -> str:
    """What to do about a policy that has diverged."""
    return (
        "To go on from a checkpoint with a lower rate, set learner.learning_rate in "
        "the run's config.json and, alike, on the command line; rollouts/ shows what "
        "the last steps sampled."
    )


def check_finite(state: TrainState, step: int) -> None:
    """Nothing that is broken is saved.

    Raises:
      Diverged: names the step and what is not finite.
    """
    if wrong := state_lib.not_finite(state):
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise errors.Diverged(
            f"step {step}: not finite: {', '.join(wrong[:5])}{more}. "
            f"{diverged_remedy()}"
        )
