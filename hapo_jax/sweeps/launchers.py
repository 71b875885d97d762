"""Hands a sweep's runs to other machines, which then run them without the sweep.

`commands` prints them; `slurm` queues an array through submitit; `xpk` and `skypilot`
call the job scripts in `launch/`. All but the first are asked again with the same
command: runs that are finished are left out, so it retries what failed and goes on
with what was cut off.
"""

import pathlib
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from hapo_jax.config import arguments
from hapo_jax.sweeps.local import program
from hapo_jax.sweeps.sweep_folder import Sweep
from hapo_jax.sweeps.variants import Variant
from hapo_jax.system.errors import Refused

NAMES = ("local", "slurm", "xpk", "skypilot", "commands")
_SCRIPTS = {"xpk": "launch/gke_xpk.sh", "skypilot": "launch/skypilot.sh"}
_SLURM_NAME = "hapo"


def commands(sweep: Sweep, variants: Sequence[Variant]) -> list[str]:
    """A line for the shell for every run."""
    return [shlex.join(["hapo-train", *sweep.command(v)]) for v in variants]


def scripts(
    name: str,
    sweep: Sweep,
    variants: Sequence[Variant],
    options: Mapping[str, str],
    workdir: str,
) -> list[list[str]]:
    """The calls of `launch/`'s script for xpk or skypilot.

    Args:
      name: of the launcher.
      sweep: which.
      variants: those to run.
      options: of the script, such as {"job": "gpu"}; it refuses what it does not know.
      workdir: of the sweep as the machines see it, such as gs://BUCKET/PATH.

    Raises:
      Refused: this is no checkout, or the script is not told where to write.
    """
    script = pathlib.Path(_SCRIPTS[name])
    if not script.exists():
        raise Refused(
            f"--launcher={name} needs {script}: start hapo-sweep in a checkout of the "
            "project."
        )
    if "://" not in workdir:
        raise Refused(
            f"--launcher={name}: --bucket must say where those machines write, as "
            "gs://BUCKET/PATH."
        )
    made = []
    for variant in variants:
        config, *sets = sweep.experiment.flags(variant.changes)
        own = [f"--{key}={value}" for key, value in options.items()]
        call = ["bash", str(script), f"--name={job_name(variant.name)}", *own, config]
        call.append(f"--workdir={workdir.rstrip('/')}/{variant.name}")
        made.append([*call, "--", *sets] if sets else call)
    return made


def job_name(name: str) -> str:
    """A variant's name as clusters take it: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", f"hapo-{name.lower()}").strip("-")[:40].strip("-")


def slurm(
    sweep: Sweep,
    variants: Sequence[Variant],
    options: Mapping[str, str],
    *,
    at_a_time: int,
    cluster: str = "slurm",
) -> list[Any]:
    """Queues the runs as one array; returns submitit's jobs.

    Args:
      sweep, variants: what is run.
      options: of submitit's `update_parameters`, such as {"gpus_per_node": "1"}.
      at_a_time: runs; 0: as many as the cluster gives.
      cluster: of submitit; "local" runs them here.

    Raises:
      Refused: submitit is not installed, or does not know an option.
    """
    try:
        import submitit
    except ImportError:
        raise Refused(
            "--launcher=slurm needs submitit: pip install 'hapo_jax[slurm]'."
        ) from None
    executor = submitit.AutoExecutor(str(sweep.folder / "slurm"), cluster=cluster)
    parameters = {key: arguments.literal(value) for key, value in options.items()}
    parameters = {"name": _SLURM_NAME, "timeout_min": 24 * 60} | parameters
    if at_a_time and cluster == "slurm":
        parameters["slurm_array_parallelism"] = at_a_time
    try:
        executor.update_parameters(**parameters)
    except (NameError, AssertionError, TypeError) as error:
        raise Refused(f"--options: submitit refuses them: {error}") from None
    lines = [program(sweep, variant) for variant in variants]
    logs = [str(sweep.log(v)) for v in variants]
    return executor.map_array(run_one, lines, logs)


def run_one(command: Sequence[str], log: str) -> int:
    """On the cluster: a run, whose output goes to its log; its status.

    Raises:
      RuntimeError: the run has failed, so that the cluster knows.
    """
    with open(log, "ab") as file:
        done = subprocess.run(command, stdout=file, stderr=file, check=False)
    if done.returncode:
        raise RuntimeError(f"status {done.returncode}; see {log}")
    return done.returncode
