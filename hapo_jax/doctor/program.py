"""The program `hapo-doctor`: silent failures of a run, in words.

    hapo-doctor runs/demo

Works on a finished run and on one that goes on. Status 0: nothing found; 1: something.
"""

import pathlib
import sys
from collections.abc import Sequence

from hapo_jax import cli
from hapo_jax.config import upgrade
from hapo_jax.doctor import checks
from hapo_jax.doctor import doctor as doctor_lib
from hapo_jax.doctor.evidence import Evidence, Finding
from hapo_jax.model import tokenizer as tokenizer_lib
from hapo_jax.runs import records as records_lib
from hapo_jax.system.errors import Refused


def read(workdir: str | pathlib.Path) -> Evidence:
    """What a run's folder says.

    Raises:
      Refused: it holds no run of hapo-train, or no step of it.
    """
    config = upgrade.from_saved(records_lib.read_config(workdir))
    steps = [m for m in records_lib.read_metrics(workdir) if "grad/skipped" in m]
    if not steps:
        raise Refused(f"{workdir} has no step yet; look again after the first.")
    recorded = records_lib.rollout_steps(workdir)
    last = recorded[-1] if recorded else None
    return Evidence(
        config,
        steps,
        records=records_lib.read_rollouts(workdir, last) if recorded else (),
        record_step=last,
        tokenizer=_tokenizer(config.model.path),
    )


def _tokenizer(path: str) -> tokenizer_lib.Tokenizer | None:
    """Of the model that the run began with, if its files are here."""
    try:
        return tokenizer_lib.load(path) if pathlib.Path(path).is_dir() else None
    except Refused:
        return None


def examine(workdir: str | pathlib.Path) -> list[Finding]:
    """The findings about a run, for scripts and notebooks."""
    return checks.examine(read(workdir))


def main(paths: Sequence[str]) -> int:
    """The program; returns its status."""
    if not paths:
        raise Refused("give folders of runs: hapo-doctor runs/demo")
    status = 0
    for path in paths:
        evidence = read(path)
        found = checks.examine(evidence)
        first, last = (int(evidence.steps[i]["step"]) for i in (0, -1))
        number = len(found) or "no"
        print(f"{path}, steps {first} to {last}: {number} findings")
        if found:
            status = 1
            print("\n" + doctor_lib.words(found) + "\n")
        if earlier := doctor_lib.told(evidence.steps):
            told = ", ".join(f"{name} at step {step}" for step, name in earlier)
            print(f"told while it ran: {told}")
        if missing := checks.not_made(evidence):
            print(f"not checked, for want of records: {', '.join(missing)}")
    return status


def run() -> None:
    """The program `hapo-doctor`."""
    cli.start(lambda paths: sys.exit(main(paths)))


if __name__ == "__main__":
    run()
