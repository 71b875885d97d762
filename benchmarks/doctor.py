"""What the run doctor costs a run: the demo's first steps with it and without it.

    python -m benchmarks.doctor                  # about ten minutes; goal: <= 1 %
    python -m benchmarks.doctor --pairs=0        # a minute: the second line alone

Runs with `--doctor=warn` and `--doctor=off` alternate, and draw and learn the same,
since they have one seed. A run's time is that of its steps and of what lies between
them, but for the first step, which compiles. Prints a JSON line: the median over the
pairs of the one time over the other, and the spread. A second line has what can be told
apart from a machine's noise: the seconds that a run spends in the doctor, at the start
and then as a share of its time.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

from benchmarks import report, turns
from hapo_jax import session, train
from hapo_jax.config import arguments
from hapo_jax.runs import records

MODES = ("warn", "off")
CONFIG = "configs/countdown.py"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=31)
    parser.add_argument("--every_steps", type=int, help="default: the config's")
    args = parser.parse_args()
    if args.pairs < 0 or args.steps < 2:
        parser.error("--pairs must be at least 0, and --steps 2: the first compiles.")

    seconds = {mode: [] for mode in MODES}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(args.pairs):
            for mode in MODES if i % 2 == 0 else reversed(MODES):
                workdir = pathlib.Path(folder) / f"{mode}_{i}"
                seconds[mode].append(run(workdir, mode, args))
        inside = within(pathlib.Path(folder) / "inside", args)
    about = {"steps": args.steps, "processor": report.processor()}
    if args.pairs:
        ratios = [a / b for a, b in zip(*(seconds[mode] for mode in MODES))]
        spread = report.spread(ratios)
        print(json.dumps({"warn_over_off": spread, "pairs": args.pairs, **about}))
    print(json.dumps(inside | about))


def run(workdir: pathlib.Path, mode: str, args: argparse.Namespace) -> float:
    """Seconds of a run's steps and of what lies between them, without the first."""
    flags = [f"--config.{key}={value}" for key, value in changes(args).items()]
    command = [sys.executable, "-m", "hapo_jax.train", f"--config={CONFIG}"]
    command += [f"--workdir={workdir}", f"--doctor={mode}", *flags]
    subprocess.run(command, cwd=turns.ROOT, check=True, stdout=subprocess.DEVNULL)
    return seconds_of(workdir)


def within(workdir: pathlib.Path, args: argparse.Namespace) -> dict[str, float]:
    """Seconds that a run in this process spends in the doctor."""
    spent, examine = [], session.Session.examine

    def timed(*given, **options):
        began = time.perf_counter()
        found = examine(*given, **options)
        spent.append(time.perf_counter() - began)
        return found

    file = str(turns.ROOT / CONFIG)
    config = arguments.load_file(file, file).get_config().unlock()
    config.update_from_flattened_dict(changes(args))
    session.Session.examine = timed
    try:
        train.train(config, str(workdir), doctor="warn")
    finally:
        session.Session.examine = examine
    at_start, first, *later = spent
    share = sum(later) / seconds_of(workdir)
    return {"start_s": report.rounded(at_start + first), "share": report.rounded(share)}


def changes(args: argparse.Namespace) -> dict[str, int | bool]:
    """Of the demo's config."""
    found = {"num_steps": args.steps, "eval.at_start": False, "eval.every_steps": 0}
    found["checkpoint.export_hf"] = False
    if args.every_steps:
        found["log.doctor_every_steps"] = args.every_steps
    return found


def seconds_of(workdir: pathlib.Path) -> float:
    """What a run's steps took, and what lies between them, without the first."""
    lines = [m for m in records.read_metrics(workdir) if m.get("step", 0) > 1]
    return sum(m["time/step"] + m["time/between"] for m in lines if "time/step" in m)


if __name__ == "__main__":
    main()
