"""The program `hapo-sweep`: runs every variant of an experiment file's sweep.

    hapo-sweep --config=configs/countdown.py --workdir=runs/sweep --jobs=2
    hapo-sweep --config=configs/countdown.py --workdir=runs/sweep --dry_run
    hapo-sweep --config=configs/countdown.py --workdir=runs/sweep --launcher=slurm \\
        --options=gpus_per_node=1,slurm_partition=gpu

The same command goes on with what is left: finished runs are not run again, failed
ones are tried again, and variants that the file has gained since are added.
"""

import contextlib
import dataclasses
import logging
import pathlib
import shlex
import signal
import subprocess
from collections.abc import Callable, Sequence

import jax
from absl import app, flags
from ml_collections import ConfigDict

from hapo_jax import assembly, cli, train
from hapo_jax.config import check
from hapo_jax.runs import batches
from hapo_jax.runs import folder as folder_lib
from hapo_jax.sweeps import board, launchers, local, search, sweep_folder, variants
from hapo_jax.sweeps.sweep_folder import Sweep
from hapo_jax.sweeps.variants import Experiment, Variant
from hapo_jax.system import folders, interrupt, lock
from hapo_jax.system.errors import Refused, RunFailed

_log = logging.getLogger("hapo_jax")


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line says beside --config and --workdir.

    Attributes:
      jobs: runs at a time; 0: see `local.places`.
      only: patterns of variants.
      dry_run: whether nothing is started.
      launcher: one of `launchers.NAMES`.
      options: of the launcher.
      bucket: that xpk's and skypilot's runs write to.
      metric: that the table shows and a search maximises.
      search: "optuna" or None.
      trials: of the search, in all.
    """

    jobs: int = 0
    only: str = ""
    dry_run: bool = False
    launcher: str = "local"
    options: str = ""
    bucket: str = ""
    metric: str = "eval/avg@8"
    search: str | None = None
    trials: int = 20


def sweep(
    found: Sweep,
    *,
    jobs: int,
    metric: str,
    more: Callable[[list[local.Job]], Variant | None] = lambda jobs: None,
) -> list[local.Job]:
    """Runs what is not finished on this machine and shows how it goes.

    Args:
      found: the sweep, whose folder's lock is held.
      jobs, more: see `local.places` and `local.run`.
      metric: that is shown.
    """
    where = local.places(jobs)
    with _signals():
        running = local.run(found, found.variants, where, more)
        with (
            contextlib.closing(running),
            board.shown(found, metric, len(where)) as show,
        ):
            for states in running:
                show(states)
    return states


def check_all(
    experiment: Experiment, chosen: Sequence[Variant], folder: pathlib.Path
) -> None:
    """Refuses what cannot work, before anything starts.

    It is what a run checks but for its data and weights, for every variant.

    Raises:
      Refused: names the variants and why.
    """
    wrong = []
    for variant in chosen:
        try:
            check_one(experiment.config(variant.changes), folder / variant.name)
        except Refused as error:
            wrong.append(f"{variant.name}: {error}")
    if wrong:
        count = f"{len(wrong)} of {len(chosen)} variants cannot work"
        raise Refused("\n".join([f"{count}, and none was started.", *wrong]))


def check_one(config: ConfigDict, folder: pathlib.Path) -> None:
    """Refuses a run that cannot work; reads the model's config.json, no weights."""
    check.check_alone(config)
    devices = max(config.mesh.cpu_devices, 1)
    resolved = check.check(config, num_devices=devices)
    method = assembly.make_method(resolved.config)
    check.check_method(resolved.config, method)
    check.check_model_path(resolved.config.model.path)
    if resolved.config.log.record_groups == "all":
        rows = assembly.work_of(resolved.config).batch_rows
        batches.largest(resolved.config, completions=rows, phases=method.phases)
    home = folder_lib.Home(
        workdir=str(folder), resolved=resolved, may_change=train.MAY_CHANGE
    )
    folder_lib.check_config(home)


@contextlib.contextmanager
def _signals():
    """SIGTERM stops the sweep as Ctrl-C does: its runs save, and it ends."""

    def stop(number, frame):
        del frame
        raise interrupt.Stopped(signal.Signals(number).name)

    before = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pairs(text: str) -> dict[str, str]:
    """KEY=VALUE,… as a dict."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    for key, equals, _ in pairs:
        if not equals:
            raise Refused(f"--options: {key!r} must be KEY=VALUE.")
    return {key: value for key, _, value in pairs}


def main(options: Options, rest: Sequence[str]) -> None:
    """The program."""
    if rest:
        raise app.UsageError(f"unexpected arguments: {' '.join(rest)}")
    spec, overrides, workdir = cli.given()
    folders.check("workdir", workdir, writes=True)
    if options.search:
        with lock.hold(workdir):
            _search(options, spec, overrides, pathlib.Path(workdir))
        return
    experiment, every = variants.read(spec, overrides)
    asked = Sweep(folder=pathlib.Path(workdir), experiment=experiment, variants=every)
    chosen = sweep_folder.chosen(every, options.only)
    check_all(experiment, chosen, asked.folder)
    left = [
        v for v in chosen if not sweep_folder.progress(asked.run_folder(v)).finished
    ]
    told = f"{len(chosen)} variants, {len(chosen) - len(left)} of them finished"
    if options.dry_run:
        print(f"# {asked.folder}: {told}; of the others")
        for line in _calls(options, asked, left):
            print(line)
        return
    with lock.hold(asked.folder):
        sweep_folder.write(asked)
        _log.info("hapo-sweep: %s: %s", asked.folder, told)
        if options.launcher != "local":
            _hand_over(options, asked, left)
            return
        jobs = sweep(
            asked._replace(variants=chosen), jobs=options.jobs, metric=options.metric
        )
    failed = [job for job in jobs if job.state == local.FAILED]
    if failed:
        print(board.failures(failed, asked))
        raise RunFailed(
            f"{len(failed)} of {len(jobs)} runs failed. The same command tries them "
            "again."
        )
    print(f"compare: hapo-compare {asked.folder}")


def _search(
    options: Options,
    spec: str,
    overrides: Sequence[tuple[str, str]],
    folder: pathlib.Path,
) -> None:
    """Runs trials until there are as many as asked for."""
    metric = options.metric
    found = search.make(
        spec, overrides, folder, trials=options.trials, metric=metric, check=check_all
    )
    started = found.sweep._replace(variants=found.unfinished())
    jobs = sweep(started, jobs=options.jobs, metric=metric, more=found.more)
    found.tell(jobs)
    print(found.result())


def _calls(options: Options, asked: Sweep, left: Sequence[Variant]) -> list[str]:
    """What would be started, as lines for the shell."""
    if options.launcher in ("xpk", "skypilot"):
        given, bucket = _pairs(options.options), options.bucket
        made = launchers.scripts(options.launcher, asked, left, given, bucket)
        return [shlex.join(call) for call in made]
    return launchers.commands(asked, left)


def _hand_over(options: Options, asked: Sweep, left: Sequence[Variant]) -> None:
    """Gives the runs to the launcher, and ends."""
    name, given = options.launcher, _pairs(options.options)
    if name == "commands":
        print("\n".join(launchers.commands(asked, left)))
        return
    if not left:
        print("nothing is left to run.")
        return
    if name == "slurm":
        jobs = launchers.slurm(asked, left, given, at_a_time=options.jobs)
        print(f"queued {len(jobs)} runs as Slurm jobs {jobs[0].job_id} …")
        return
    for call in launchers.scripts(name, asked, left, given, options.bucket):
        done = subprocess.run(call, check=False)
        if done.returncode:
            raise RunFailed(f"status {done.returncode}: {' '.join(call)}")


def run() -> None:
    """The program `hapo-sweep`."""
    # The runs have the accelerators; this program has nothing to compute.
    jax.config.update("jax_platforms", "cpu")
    holders = dict(
        jobs=flags.DEFINE_integer(
            "jobs", 0, "Runs at a time; 0: one per GPU, without GPUs 1.", lower_bound=0
        ),
        only=flags.DEFINE_string(
            "only", "", "Variants or groups, joined by commas; * and ? stand for parts."
        ),
        dry_run=flags.DEFINE_bool(
            "dry_run", False, "Check all, print the commands, run none."
        ),
        launcher=flags.DEFINE_enum(
            "launcher", "local", launchers.NAMES, "Where runs go."
        ),
        options=flags.DEFINE_string(
            "options", "", "KEY=VALUE,… of submitit or of launch/'s script."
        ),
        bucket=flags.DEFINE_string(
            "bucket", "", "With xpk and skypilot: gs://BUCKET/PATH for the runs."
        ),
        metric=flags.DEFINE_string(
            "metric", "eval/avg@8", "What the table shows and a search maximises."
        ),
        search=flags.DEFINE_enum(
            "search", None, ["optuna"], "Search the file's ranges(), no sweep."
        ),
        trials=flags.DEFINE_integer(
            "trials", 20, "Of the search, in all.", lower_bound=1
        ),
    )
    flags.mark_flags_as_required(["config", "workdir"])
    cli.start(
        lambda rest: main(Options(**{k: v.value for k, v in holders.items()}), rest)
    )


if __name__ == "__main__":
    run()
