"""Searches settings with Optuna: each trial is a run like any other.

The experiment file says what may change, in a function `ranges()`:

    from hapo_jax.sweeps import choice, log_uniform

    def ranges():
        return {"learner.learning_rate": log_uniform(1e-5, 1e-3),
                "algo.quantile": choice(0.7, 0.8, 0.9)}

Optuna's journal lies in the sweep's folder, so a search that was stopped or killed goes
on: a trial that was running then is run to its end first.
"""

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hapo_jax.config import arguments
from hapo_jax.sweeps import local, sweep_folder, variants
from hapo_jax.sweeps.local import Job
from hapo_jax.sweeps.ranges import Range
from hapo_jax.sweeps.sweep_folder import Sweep
from hapo_jax.sweeps.variants import Experiment, Variant
from hapo_jax.system.errors import Refused

JOURNAL = "optuna.journal"
_STUDY = "hapo"


class Search:
    """A study and the runs of its trials; `more` is what `local.run` asks.

    Attributes:
      sweep: whose variants are the trials so far.
      study: Optuna's.
    """

    def __init__(
        self,
        experiment: Experiment,
        ranges: Mapping[str, Range],
        folder: pathlib.Path,
        *,
        trials: int,
        metric: str,
        check: Callable[[Experiment, Sequence[Variant], pathlib.Path], None],
    ):
        self._experiment, self._ranges, self._folder = experiment, ranges, folder
        self._trials, self._metric, self._check = trials, metric, check
        self.study = _study(folder, seed=0)
        self._told = {t.number for t in self.study.trials if t.state.is_finished()}

    @property
    def sweep(self) -> Sweep:
        """All trials so far, as a sweep."""
        made = [self._variant(t.number, t.params) for t in self.study.trials]
        return Sweep(folder=self._folder, experiment=self._experiment, variants=made)

    def _variant(self, number: int, params: Mapping[str, Any]) -> Variant:
        name = f"trial_{number:04d}"
        return Variant(name=name, group=name, changes=dict(params))

    def unfinished(self) -> list[Variant]:
        """Trials that an earlier start has begun."""
        return [
            self._variant(t.number, t.params)
            for t in self.study.trials
            if not t.state.is_finished()
        ]

    def more(self, jobs: Sequence[Job]) -> Variant | None:
        """Tells the study of what has ended; the next trial, if one is left."""
        self.tell(jobs)
        if len(self.study.trials) >= self._trials:
            return None
        distributions = {key: r.distribution() for key, r in self._ranges.items()}
        trial = self.study.ask(distributions)
        made = self._variant(trial.number, trial.params)
        self._check(self._experiment, [made], self._folder)
        sweep_folder.write(self.sweep)
        return made

    def tell(self, jobs: Sequence[Job]) -> None:
        """Tells the study how trials have ended."""
        import optuna

        for job in jobs:
            number = int(job.variant.name.rpartition("_")[2])
            if number in self._told or job.state not in (local.FINISHED, local.FAILED):
                continue
            self._told.add(number)
            at = self._folder / job.variant.name
            value = sweep_folder.progress(at).metrics.get(self._metric, math.nan)
            if job.state == local.FINISHED and math.isfinite(value):
                self.study.tell(number, value)
            else:
                self.study.tell(number, state=optuna.trial.TrialState.FAIL)

    def result(self) -> str:
        """The best trials, in words."""
        done = [t for t in self.study.trials if t.value is not None]
        lines = [f"{len(done)} of {len(self.study.trials)} trials gave {self._metric}"]
        for t in sorted(done, key=lambda t: -t.value)[:5]:
            told = ", ".join(f"{key}={value!r}" for key, value in t.params.items())
            lines.append(f"  trial_{t.number:04d}  {t.value:.4g}  {told}")
        return "\n".join(lines)


def make(
    spec: str,
    overrides: Sequence[tuple[str, str]],
    folder: pathlib.Path,
    *,
    trials: int,
    metric: str,
    check: Callable[[Experiment, Sequence[Variant], pathlib.Path], None],
) -> Search:
    """A search in the ranges of an experiment file; goes on with the folder's.

    Raises:
      Refused: Optuna is not installed, or the file has no `ranges()`.
    """
    try:
        import optuna
    except ImportError:
        raise Refused(
            "--search=optuna needs Optuna: pip install 'hapo_jax[search]'."
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    experiment, name = variants.split(spec, overrides)
    if name:
        raise Refused(f"--config={spec}: give --search or sweep={name}, and not both.")
    module = arguments.load_file(experiment.file, spec)
    if not hasattr(module, "ranges"):
        raise Refused(
            f"--config={spec}: {experiment.file} has no function ranges(); see "
            "docs/sweeps.md."
        )
    found = module.ranges()
    for key, value in found.items():
        if not isinstance(value, Range):
            raise Refused(
                f"--config={spec}: ranges() gives {value!r} for {key}; give a range, "
                "such as uniform(0, 1), log_uniform(1e-5, 1e-3), integers(1, 8) or "
                "choice('a', 'b')."
            )
    folder.mkdir(parents=True, exist_ok=True)
    return Search(experiment, found, folder, trials=trials, metric=metric, check=check)


def _study(folder: pathlib.Path, seed: int) -> Any:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    return optuna.create_study(
        storage=storage,
        study_name=_STUDY,
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=seed),
    )
