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
from collections.abc import Sequence

from benchmarks import compare, worker, workload
from hapo_jax.config import defaults

PEERS = {
    "tunix": compare.Peer("benchmarks.peers.tunix", "tunix"),
    "hf": compare.Peer("benchmarks.peers.huggingface", "transformers"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    args = parse(argv)
    compare.compare(plans(args), args)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments, checked; `engine` and `requests` become lists."""
    parser = compare.argument_parser(__doc__, (compare.OURS, *PEERS))
    parser.add_argument("--work", choices=workload.works(), required=True)
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
        "--chunk-tokens", type=int, default=defaults.default().rollout.chunk_tokens
    )
    args = parser.parse_args(argv)
    args.requests = [int(n) for n in args.requests.split(",")] if args.requests else []
    vocab = workload.model(args.model).vocab
    work = workload.work(args.work, vocab=vocab)
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
    alone = (
        f"--requests and --compare measure {compare.OURS} alone, since the peers have "
        "no queue and no adaptive temperature"
    )
    compare.settle_engines(
        args, PEERS, alone=alone if args.requests or args.compare else None
    )
    vocab = workload.model(args.model).vocab
    for requests in args.requests:
        workload.work(args.work, vocab=vocab, requests=requests)


def plans(args: argparse.Namespace) -> list[compare.Plan]:
    """A worker per engine; of ours, one for each number of requests."""
    methods = ("hapo", "dapo") if args.compare else (args.method,)
    options = {
        "slots": args.slots,
        "rows_per_lane": args.rows_per_lane,
        "chunk_tokens": args.chunk_tokens,
    }
    found = []
    for engine in args.engine:
        if engine != compare.OURS:
            job = worker.Job("rollout", args.model, args.work)
            found.append(compare.Plan(engine, PEERS[engine].module, job))
            continue
        for n in args.requests or [None]:
            job = worker.Job(
                "rollout", args.model, args.work, n, methods=methods, options=options
            )
            label = f"{engine}/{n}" if n else engine
            found.append(
                compare.Plan(label, "benchmarks.ours.rollout", job, tuple(methods))
            )
    return found


if __name__ == "__main__":
    main()
