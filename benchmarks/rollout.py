"""Tokens per second of our engine and of its peers, on the same work in turn.

    python -m benchmarks.rollout --model tiny --work uniform
    python -m benchmarks.rollout --model tiny --work tail --engine hapo_jax tunix
    python -m benchmarks.rollout --model tiny --work uniform --cores 2
    python -m benchmarks.rollout --model tiny --work tail --requests 64,512,4096
    python -m benchmarks.rollout --model tiny --work uniform --compare temperature

Prints one JSON line per engine and one for the machine. Only tokens inside the planned
lengths count. README.md says how the peers are installed and what each field means.
"""

import argparse
import contextlib
import datetime
import json
import pathlib
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence

from benchmarks import turns, worker, workload
from hapo_jax import config as config_lib

OURS = "hapo_jax"
# Engine → (module of its worker, package that must be there).
PEERS = {
    "tunix": ("benchmarks.peers.tunix", "tunix"),
    "hf": ("benchmarks.peers.huggingface", "transformers"),
}
ENGINES = (OURS, *PEERS)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    args = parse(argv)
    with contextlib.ExitStack() as stack:
        contenders = start_engines(args, stack)
        probes = start_ceilings(args, stack)
        results = turns.take_turns([*contenders, *probes], repeats=args.repeats)
    ceiling = ceiling_line(probes, results, args)
    for contender in contenders:
        line = engine_line(contender, contenders, results, ceiling["best_gflop_s"])
        print(json.dumps({**line, "cores": args.cores}))
    if args.compare:
        print(json.dumps(comparison_line(contenders, results)))
    print(json.dumps(ceiling))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments, checked; `engine` and `requests` become lists."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=workload.models(), required=True)
    parser.add_argument("--work", choices=workload.works(), required=True)
    parser.add_argument(
        "--engine",
        nargs="+",
        choices=ENGINES,
        help="default: ours, and the peers that are installed",
    )
    parser.add_argument("--method", choices=("hapo", "dapo"), default="hapo")
    parser.add_argument(
        "--compare",
        choices=("temperature",),
        help="adaptive (hapo) against fixed (dapo), in turn in one process",
    )
    parser.add_argument("--requests", help="numbers of requests, as 64,512,4096")
    parser.add_argument("--slots", type=int, default=64, help="rows our engine decodes")
    parser.add_argument(
        "--rows-per-lane",
        type=int,
        help="rows that share a prompt in our engine; default: the group, or 1 where "
        "its completions differ in length, since rows would wait for the longest",
    )
    parser.add_argument(
        "--chunk-tokens", type=int, default=config_lib.default().rollout.chunk_tokens
    )
    parser.add_argument("--cores", type=int, choices=(1, 2), default=1)
    parser.add_argument(
        "--host-devices", type=int, help="CPU devices of our engine; default: cores"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--peer-python", default=str(turns.ROOT / ".venv-peers/bin/python")
    )
    parser.add_argument(
        "--compilation-cache", help="folder for our engine; default: compile everything"
    )
    args = parser.parse_args(argv)
    args.requests = [int(n) for n in args.requests.split(",")] if args.requests else []
    args.host_devices = args.host_devices or args.cores
    work = workload.work(args.work, vocab=workload.model(args.model).vocab)
    args.rows_per_lane = args.rows_per_lane or (1 if work.ragged else work.group_size)
    try:
        check(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def check(args: argparse.Namespace) -> None:
    """Settles which engines run.

    Raises:
      ValueError: arguments that exclude each other, or an engine that is not there.
    """
    if args.requests and args.compare:
        raise ValueError("--requests and --compare exclude each other; give one.")
    alone = bool(args.requests) or args.compare is not None
    if args.engine is None:
        peers = [] if alone else [p for p in PEERS if installed(args.peer_python, p)]
        args.engine = [OURS, *peers]
        skipped = [] if alone else sorted(set(PEERS) - set(peers))
        if skipped:
            print(f"not installed, left out: {', '.join(skipped)}", file=sys.stderr)
    if alone and args.engine != [OURS]:
        raise ValueError(
            f"--engine {' '.join(args.engine)}: --requests and --compare measure "
            f"{OURS} alone, since the peers have no queue and no adaptive temperature; "
            "leave --engine out."
        )
    for peer in args.engine:
        if peer in PEERS and not installed(args.peer_python, peer):
            raise ValueError(
                f"--engine {peer}: --peer-python={args.peer_python} does not import "
                f"{PEERS[peer][1]}; see benchmarks/README.md for how to install it."
            )
    if args.repeats < 1:
        raise ValueError(f"--repeats={args.repeats} must be at least 1.")
    vocab = workload.model(args.model).vocab
    for requests in args.requests:
        workload.work(args.work, vocab=vocab, requests=requests)


def installed(python: str, peer: str) -> bool:
    """Whether the interpreter is there and finds the peer's package."""
    return has_package(python, PEERS[peer][1])


def has_package(python: str, package: str) -> bool:
    """Whether the interpreter is there and finds the package."""
    if not pathlib.Path(python).exists():
        return False
    code = (
        f"import importlib.util as u, sys; sys.exit(u.find_spec({package!r}) is None)"
    )
    return subprocess.run([python, "-c", code], cwd="/").returncode == 0


def start_engines(args, stack: contextlib.ExitStack) -> list[turns.Contender]:
    """Warm workers: our engine first, one worker for each number of requests."""
    peer_env = turns.environment(args.cores)
    our_env = turns.environment(
        args.cores, host_devices=args.host_devices, cache=args.compilation_cache
    )
    methods = ("hapo", "dapo") if args.compare else (args.method,)
    contenders = []

    def start(name, python, module, env, requests, variants):
        job = job_of(args, requests, methods)
        process = stack.enter_context(
            turns.Worker(name, python, module, job, cores=args.cores, env=env)
        )
        for variant in variants:
            label = f"{name}/{variant}" if len(variants) > 1 else name
            contenders.append(turns.Contender(label, process, variant))

    for engine in args.engine:
        if engine == OURS:
            for n in args.requests or [None]:
                name = f"{OURS}/{n}" if n else OURS
                start(name, sys.executable, "benchmarks.engine", our_env, n, methods)
        else:
            start(engine, args.peer_python, PEERS[engine][0], peer_env, None, [""])
    return contenders


def job_of(args, requests: int | None, methods: tuple[str, ...]) -> worker.Job:
    """What a worker is told."""
    return worker.Job(
        args.model,
        args.work,
        requests,
        methods,
        slots=args.slots,
        rows_per_lane=args.rows_per_lane,
        chunk_tokens=args.chunk_tokens,
    )


def start_ceilings(args, stack: contextlib.ExitStack) -> list[turns.Contender]:
    """Workers that measure the machine, through jax and, where installed, torch."""
    pythons = {"jax": sys.executable}
    if has_package(args.peer_python, "torch"):
        pythons["torch"] = args.peer_python
    env = turns.environment(args.cores)
    probes = []
    for library, python in pythons.items():
        label = f"ceiling/{library}"
        job = job_of(args, None, (library,))
        process = stack.enter_context(
            turns.Worker(
                label, python, "benchmarks.ceilings", job, cores=args.cores, env=env
            )
        )
        probes.append(turns.Contender(label, process, library))
    return probes


def engine_line(
    contender: turns.Contender,
    contenders: Sequence[turns.Contender],
    results: dict[str, list[dict]],
    best_gflop_s: float,
) -> dict:
    """What is printed for one engine; README.md explains the fields."""
    job, runs = contender.worker.job, results[contender.label]
    shapes, work = job.load()
    wall, cpu = ([run[key] for run in runs] for key in ("wall_s", "cpu_s"))
    gflop_s = workload.needed_flops(shapes, work) / statistics.median(wall) / 1e9
    first_s = contender.worker.first_s[contender.variant]
    speeds = {c.label: tokens_per_second(c, results[c.label]) for c in contenders}
    return {
        "engine": contender.label,
        "method": contender.variant or None,
        "model": job.model,
        "work": job.work,
        "requests": len(work.lengths),
        "tokens": int(work.lengths.sum()),
        "tok_s": spread(speeds[contender.label]),
        "speed_over": {
            label: spread(a / b for a, b in zip(speeds[contender.label], others))
            for label, others in speeds.items()
            if label != contender.label
        },
        "wall_s": spread(wall),
        "cpu_s": spread(cpu),
        "cpu_over_wall": rounded(sum(cpu) / sum(wall)),
        "n": len(runs),
        "compile_s": rounded(first_s - statistics.median(wall)),
        "peak_rss_mib": round(max(run["peak_rss_mib"] for run in runs)),
        "gflop_s": rounded(gflop_s),
        "of_ceiling": rounded(gflop_s / best_gflop_s),
        "versions": contender.worker.versions,
    }


def comparison_line(
    contenders: Sequence[turns.Contender], results: dict[str, list[dict]]
) -> dict:
    """What the adaptive temperature costs: time over that of the fixed one."""
    hapo, dapo = (results[contender.label] for contender in contenders)
    ratios = [a["wall_s"] / b["wall_s"] for a, b in zip(hapo, dapo)]
    return {"compare": "temperature", "hapo_over_dapo": spread(ratios)}


def tokens_per_second(contender: turns.Contender, runs: Sequence[dict]) -> list[float]:
    """Planned tokens over wall time, run by run."""
    _, work = contender.worker.job.load()
    return [int(work.lengths.sum()) / run["wall_s"] for run in runs]


def ceiling_line(
    probes: Sequence[turns.Contender],
    results: dict[str, list[dict]],
    args: argparse.Namespace,
) -> dict:
    """The best that each library reached in these minutes, and on which machine."""
    best = {}
    for probe in probes:
        runs = results[probe.label]
        products = runs[0]["gflop_s"]
        best[probe.variant] = {
            "gflop_s": {
                name: rounded(max(run["gflop_s"][name] for run in runs))
                for name in products
            },
            "copy_gb_s": rounded(max(run["copy_gb_s"] for run in runs)),
        }
    return {
        "ceiling": best,
        "best_gflop_s": max(max(b["gflop_s"].values()) for b in best.values()),
        "cores": args.cores,
        "processor": processor(),
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "versions": {k: v for p in probes for k, v in p.worker.versions.items()},
    }


def processor() -> str:
    """The processor's name, as Linux knows it."""
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, least and greatest."""
    values = sorted(values)
    return {
        "median": rounded(statistics.median(values)),
        "min": rounded(values[0]),
        "max": rounded(values[-1]),
    }


def rounded(value: float) -> float:
    """Five significant digits, more than any timing deserves."""
    return float(f"{value:.5g}")


if __name__ == "__main__":
    main()
