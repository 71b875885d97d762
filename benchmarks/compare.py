"""What `rollout.py` and `train.py` share: arguments, workers, and taking turns.

A program says which engines exist and what each is told to do; this file starts them
on the same cores, with the same weights, and prints a JSON line for each and one for
the machine. What the lines say is in `report.py`.
"""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks import report, turns, worker, workload

OURS = "hapo_jax"


class Peer(NamedTuple):
    """Someone else's engine: the module of its worker, and the package it needs."""

    module: str
    package: str


class Plan(NamedTuple):
    """A worker to start: its label, its module and what it is told.

    Without `variants` there is one, unnamed; with several each has a line of its own.
    The module is taken from the checkout `root`.
    """

    label: str
    module: str
    job: worker.Job
    variants: tuple[str, ...] = ("",)
    root: pathlib.Path = turns.ROOT

    @property
    def ours(self) -> bool:
        """Whether it is an engine of this project."""
        return self.module.startswith("benchmarks.ours")


def argument_parser(doc: str, engines: Sequence[str]) -> argparse.ArgumentParser:
    """A parser with the arguments of both programs."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=workload.models(), required=True)
    parser.add_argument(
        "--engine",
        nargs="+",
        choices=engines,
        help="default: ours, and the peers that are installed",
    )
    parser.add_argument(
        "--before",
        type=pathlib.Path,
        metavar="CHECKOUT",
        help="another checkout of this project, whose engine takes turns with this one",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, choices=(1, 2), default=1)
    parser.add_argument(
        "--first-core", type=int, help="default: the last --cores there are"
    )
    parser.add_argument(
        "--host-devices", type=int, help="CPU devices of our engine; default: cores"
    )
    parser.add_argument(
        "--peer-python", default=str(turns.ROOT / ".venv-peers/bin/python")
    )
    parser.add_argument(
        "--compilation-cache", help="folder for our engine; default: compile everything"
    )
    return parser


def settle_engines(
    args: argparse.Namespace, peers: dict[str, Peer], *, alone: str | None
) -> None:
    """Fills `args.engine`, and refuses engines that are not there.

    Args:
      args: of `argument_parser`.
      peers: those that can do this work.
      alone: why our engine must run alone, or None.

    Raises:
      ValueError: an engine cannot run, or a number is out of range.
    """
    if args.rounds < 1:
        raise ValueError(f"--rounds={args.rounds} must be at least 1.")
    if args.before and not (args.before / "benchmarks/ours").is_dir():
        raise ValueError(
            f"--before={args.before} must be a checkout of this project, with "
            "benchmarks/ours; git worktree add FOLDER COMMIT makes one."
        )
    args.host_devices = args.host_devices or args.cores
    if args.engine is None:
        found = [p for p in peers if has_package(args.peer_python, peers[p].package)]
        args.engine = [OURS] if alone else [OURS, *found]
        missing = [] if alone else [peer for peer in peers if peer not in found]
        if missing:
            print(f"not installed, left out: {', '.join(missing)}", file=sys.stderr)
    if alone and args.engine != [OURS]:
        raise ValueError(
            f"--engine {' '.join(args.engine)}: {alone}; leave --engine out."
        )
    for engine in args.engine:
        if engine == OURS:
            continue
        if engine not in peers:
            raise ValueError(
                f"--engine {engine} cannot do --work={args.work}; "
                f"choose from {', '.join([OURS, *peers])}."
            )
        if not has_package(args.peer_python, peers[engine].package):
            raise ValueError(
                f"--engine {engine}: --peer-python={args.peer_python} does not import "
                f"{peers[engine].package}; see benchmarks/README.md for how to "
                "install it."
            )


def has_package(python: str, package: str) -> bool:
    """Whether the interpreter is there and finds the package."""
    if not pathlib.Path(python).exists():
        return False
    code = (
        f"import importlib.util as u, sys; sys.exit(u.find_spec({package!r}) is None)"
    )
    return subprocess.run([python, "-c", code], cwd="/").returncode == 0


def compare(plans: Sequence[Plan], args: argparse.Namespace) -> None:
    """Runs what is planned in turn, and prints a line for each and for the machine."""
    if args.before:
        root = args.before.resolve()
        ours = [plan for plan in plans if plan.ours]
        before = [p._replace(label=f"{p.label}@before", root=root) for p in ours]
        plans = [*plans, *before]
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(weights(args.model))
        contenders = [
            contender
            for plan in plans
            for contender in start(plan, folder, args, stack)
        ]
        report.check_same_work(contenders)
        probes = start_ceilings(args, stack)
        results = turns.take_turns([*contenders, *probes], rounds=args.rounds)
    ceiling = report.ceiling_line(probes, results, args.cores)
    for contender in contenders:
        line = report.engine_line(
            contender, contenders, results, ceiling["best_gflop_s"]
        )
        print(json.dumps({**line, "cores": args.cores}))
    if args.compare:
        print(json.dumps(report.comparison_line(args.compare, contenders, results)))
    print(json.dumps(ceiling))


@contextlib.contextmanager
def weights(model: str) -> Iterator[str]:
    """A folder, while it lasts, with a model's random weights as Hugging Face keeps it.

    Another process writes it, so that this one never holds them.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder) / model)
        command = [sys.executable, "-m", "benchmarks.checkpoint", model, path]
        subprocess.run(command, cwd=turns.ROOT, env=turns.environment(1), check=True)
        yield path


def start(
    plan: Plan, folder: str, args: argparse.Namespace, stack: contextlib.ExitStack
) -> list[turns.Contender]:
    """A warm worker, and its variants."""
    env = (
        turns.environment(
            args.cores, host_devices=args.host_devices, cache=args.compilation_cache
        )
        if plan.ours
        else turns.environment(args.cores)
    )
    process = stack.enter_context(
        turns.Worker(
            plan.label,
            sys.executable if plan.ours else args.peer_python,
            plan.module,
            dataclasses.replace(plan.job, checkpoint=folder),
            cores=args.cores,
            first_core=args.first_core,
            env=env,
            root=plan.root,
        )
    )
    several = len(plan.variants) > 1
    return [
        turns.Contender(f"{plan.label}/{v}" if several else plan.label, process, v)
        for v in plan.variants
    ]


def start_ceilings(args, stack: contextlib.ExitStack) -> list[turns.Contender]:
    """Workers that measure the machine, through jax and, where installed, torch."""
    pythons = {"jax": sys.executable}
    if has_package(args.peer_python, "torch"):
        pythons["torch"] = args.peer_python
    env = turns.environment(args.cores)
    probes = []
    for library, python in pythons.items():
        label = f"ceiling/{library}"
        job = worker.Job("ceiling", args.model, work="", methods=(library,))
        process = stack.enter_context(
            turns.Worker(
                label,
                python,
                "benchmarks.ceilings",
                job,
                cores=args.cores,
                first_core=args.first_core,
                env=env,
            )
        )
        probes.append(turns.Contender(label, process, library))
    return probes
