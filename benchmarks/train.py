"""Tokens per second of our learner and of its peers, on the same update in turn.

    python -m benchmarks.train --model tiny --work uniform
    python -m benchmarks.train --model small --work uniform --engine hapo_jax tunix trl
    python -m benchmarks.train --model tiny --work tail --cores 2
    python -m benchmarks.train --model tiny --work step
    python -m benchmarks.train --model tiny --work uniform --compare method
    python -m benchmarks.train --model tiny --work uniform --compare ratio_of
    python -m benchmarks.train --model tiny --work tail --set learner.micro_rows=8

An update is DAPO's: token mean, clipped ratio, AdamW, on completions, advantages and
old log-probs that are given. Prompt and completion tokens count, padding does not.
`--work step` is a whole step, from prompts over completions and rewards to parameters;
there completion tokens count. README.md says more.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from benchmarks import compare, worker, workload
from hapo_jax.config import defaults

TUNIX = compare.Peer("benchmarks.peers.tunix_train", "tunix")
TRL = compare.Peer("benchmarks.peers.trl", "trl")
HF = compare.Peer("benchmarks.peers.huggingface_train", "transformers")
UPDATE_PEERS = {"tunix": TUNIX, "hf": HF, "trl": TRL}
STEP_PEERS = {"tunix": TUNIX, "trl": TRL}  # Hugging Face alone has no such loop
STEP = "step"


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    args = parse(argv)
    compare.compare(plans(args), args)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments, checked; `engine` becomes a list and `set` a dict."""
    parser = compare.argument_parser(__doc__, (compare.OURS, *UPDATE_PEERS))
    parser.add_argument("--work", choices=(*workload.works(), STEP), required=True)
    parser.add_argument("--method", choices=("hapo", "dapo"), default="dapo")
    parser.add_argument(
        "--compare",
        choices=("method", "ratio_of"),
        help="hapo against dapo, or log-probs of what was drawn from against those of "
        "the base, in one process",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings of our config; values are JSON",
    )
    args = parser.parse_args(argv)
    try:
        args.set = settings(args.set)
        compare.settle_engines(
            args,
            STEP_PEERS if args.work == STEP else UPDATE_PEERS,
            alone=f"--compare measures {compare.OURS} alone, since the peers have one "
            "method"
            if args.compare
            else None,
        )
        for plan in plans(args):
            plan.job.update()
    except ValueError as error:
        parser.error(str(error))
    return args


def settings(texts: Sequence[str]) -> dict[str, Any]:
    """["learner.micro_rows=8"] → {"learner.micro_rows": 8}.

    Raises:
      ValueError: another form, no such key, or a value of another type.
    """
    found = {}
    for text in texts:
        key, _, value = text.partition("=")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            raise ValueError(
                f'--set {text}: must be KEY=VALUE with a JSON value, as a.b="c".'
            ) from None
    try:
        defaults.default().lock().update_from_flattened_dict(found)
    except (KeyError, TypeError) as error:
        raise ValueError(f"--set: {error.args[0]}") from error
    return found


def plans(args: argparse.Namespace) -> list[compare.Plan]:
    """A worker per engine."""
    task, work = ("step", "uniform") if args.work == STEP else ("update", args.work)
    methods = {
        None: (args.method,),
        "method": ("hapo", "dapo"),
        "ratio_of": (f"{args.method}/sampled", f"{args.method}/base"),
    }[args.compare]
    ours = worker.Job(task, args.model, work, methods=methods, options=args.set)
    peers = worker.Job(task, args.model, work)
    return [
        compare.Plan(engine, "benchmarks.ours.train", ours, methods)
        if engine == compare.OURS
        else compare.Plan(engine, UPDATE_PEERS[engine].module, peers)
        for engine in args.engine
    ]


if __name__ == "__main__":
    main()
