"""What the run doctor costs a run: the demo's first steps with it and without it.

    python -m benchmarks.doctor                  # about ten minutes; goal: <= 1.01

Runs with `--doctor=warn` and `--doctor=off` alternate, and draw and learn the same,
since they have one seed. A run's time is that of its steps and of what lies between
them, but for the first step, which compiles. Prints a JSON line: the median over the
pairs of the one time over the other, and the spread.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

from benchmarks import report, turns
from hapo_jax.runs import records

MODES = ("warn", "off")


def main() -> None:
    """Measures and prints one line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=31)
    parser.add_argument("--every_steps", type=int, help="default: the config's")
    args = parser.parse_args()
    if args.pairs < 1 or args.steps < 2:
        parser.error("--pairs must be at least 1, and --steps 2: the first compiles.")

    seconds = {mode: [] for mode in MODES}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(args.pairs):
            for mode in MODES if i % 2 == 0 else reversed(MODES):
                workdir = pathlib.Path(folder) / f"{mode}_{i}"
                seconds[mode].append(run(workdir, mode, args))
    ratios = [a / b for a, b in zip(*(seconds[mode] for mode in MODES))]
    line = {
        "warn_over_off": report.spread(ratios),
        "off_s": report.spread(seconds["off"]),
        "steps": args.steps,
        "pairs": args.pairs,
        "processor": report.processor(),
    }
    print(json.dumps(line))


def run(workdir: pathlib.Path, mode: str, args: argparse.Namespace) -> float:
    """Seconds of a run's steps and of what lies between them, without the first."""
    flags = [f"--config.num_steps={args.steps}", "--config.eval.at_start=False"]
    flags += ["--config.eval.every_steps=0", "--config.checkpoint.export_hf=False"]
    if args.every_steps:
        flags.append(f"--config.log.doctor_every_steps={args.every_steps}")
    command = [sys.executable, "-m", "hapo_jax.train", "--config=configs/countdown.py"]
    command += [f"--workdir={workdir}", f"--doctor={mode}", *flags]
    subprocess.run(command, cwd=turns.ROOT, check=True, stdout=subprocess.DEVNULL)
    lines = [m for m in records.read_metrics(workdir) if m.get("step", 0) > 1]
    return sum(m["time/step"] + m["time/between"] for m in lines if "time/step" in m)


if __name__ == "__main__":
    main()
