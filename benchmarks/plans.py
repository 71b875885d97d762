"""Plans of the paper's configs for slices of TPUs that are not there.

    python -m benchmarks.plans                  # all of them: half an hour of one core
    python -m benchmarks.plans qwen2_5_math_7b  # those whose name begins so
    python -m benchmarks.plans --tables         # only the tables, from kept plans

Writes `results/plans/NAME.json` and `.txt`, which are what `hapo-plan` says, and
`results/plans/README.md` from all plans that are there. A name is CONFIG-TOPOLOGY, and
what is kept for the backward pass where that is not the config's. Needs the extra
`plan`.
"""

import argparse
import contextlib
import io
import json
import pathlib
import subprocess
import sys
from typing import NamedTuple

from hapo_jax import plan as plan_lib

_HERE = pathlib.Path(__file__).parent
RESULTS = _HERE / "results/plans"
_GIB = 2**30


class Case(NamedTuple):
    """What is planned: a config, a slice, a completion's mean length in tokens, and
    what the backward pass computes again."""

    config: str
    topology: str
    completion_tokens: int
    remat: str = "full"

    @property
    def name(self) -> str:
        """Of the files of its plan, without their suffix."""
        kept = "" if self.remat == "full" else f"-remat-{self.remat}"
        return f"{self.config}-{self.topology.replace(':', '-')}{kept}"


# The first config is planned for slices of three sizes.
CASES = (
    Case("qwen2_5_math_1_5b", "v5e:8x8", 4096),
    Case("qwen2_5_math_7b", "v6e:8x8", 4096),
    Case("qwen3_8b", "v5p:4x4x4", 6144),
    Case("qwen3_14b", "v5p:4x4x4", 6144),
    Case("llama3_2_3b_instruct", "v5e:8x8", 1024),
    Case("llama3_1_8b_instruct", "v6e:8x8", 1024),
    Case("qwen2_5_math_1_5b", "v5e:4x4", 4096),
    Case("qwen2_5_math_1_5b", "v5e:16x16", 4096),
    Case("qwen2_5_math_1_5b", "v5p:4x4x4", 4096, remat="none"),
)

# Of an update's FLOPs over those of full rows, by what is computed again; of a decode
# step's bytes over weights, keys and values; of an all-reduce, in MiB.
_MOST_FLOPS = {"full": 1.40, "none": 1.10}
_MOST_MOVED = 1.3
_MOST_REDUCED = 1.0

_ABOUT = f"""# Plans of the paper's configs

Made by `python -m benchmarks.plans`; do not edit. Each `.json` is what `hapo-plan
--json` printed for a config and a slice, each `.txt` the same for people. Bytes and
FLOPs are per device and call. Seconds are a roofline's, so a real step takes longer; no
plan has been compared with a run on these chips. Prices are list prices.

All prompts are taken to be as long as they may be, and all completions to have the mean
length. That packs badly where two of them do not fit into a row: of Qwen3's rows nearly
half stays empty. Lengths that differ pack better.

- *update*: FLOPs of the compiled update over those that the model needs if the rows
  that it computes hold one sequence each. The goal is {_MOST_FLOPS["full"]:.2f} where
  the backward pass computes all again, and {_MOST_FLOPS["none"]:.2f} where it computes
  nothing again. Behind the stroke: over those that the completions need. There empty
  columns are waste, and so is attention across the sequences of a row, which the kernel
  computes and masks.
- *decode*: bytes that a decode step moves over weights, keys and values of full slots;
  the goal is {_MOST_MOVED:.1f}. Below 1: the embedding is not read as a whole.
- *largest all-reduce*: of those in an update among the devices that share the
  parameters out, where each should get its share alone. The goal is
  {_MOST_REDUCED:.0f} MiB, less than a layer's large matrices have. Activations,
  exchanged over `tensor`, are not among them. On 256 chips a share of
  Qwen2.5-Math-1.5B's matrices is 12 channels wide, and the compiler does not scatter
  gradients of the feed-forward into so narrow ones.

Values behind which *missed* stands do not reach their goal.
"""


def make(case: Case) -> None:
    """Plans one case in a process of its own and keeps what it says.

    Raises:
      RuntimeError: `hapo-plan` printed no plan.
    """
    path = _HERE.parent / f"configs/paper/{case.config}.py"
    command = [sys.executable, "-m", "hapo_jax.plan", "--json", f"--config={path}"]
    command += [f"--topology={case.topology}"]
    command += [f"--completion_tokens={case.completion_tokens}"]
    command += [f"--config.learner.remat={case.remat}"]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if "{" not in said.stdout:  # status 1 also tells a plan that does not fit
        raise RuntimeError(f"{' '.join(command)} ended with {said.returncode}.")
    plan = json.loads(said.stdout)
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        plan_lib.show(plan)
    (RESULTS / f"{case.name}.json").write_text(json.dumps(plan, indent=1) + "\n")
    (RESULTS / f"{case.name}.txt").write_text(shown.getvalue())


def load(case: Case) -> dict | None:
    """The kept plan, or None."""
    path = RESULTS / f"{case.name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def peak_gib(plan: dict) -> float:
    """The most memory of any phase."""
    return max(phase["peak_bytes"] for phase in plan["phases"]) / _GIB


def tables() -> str:
    """All kept plans, one a line, and the memory of those of the first config."""
    kept = {case: plan for case in CASES if (plan := load(case))}
    return "\n".join([_ABOUT, *_plans(kept), "", *_memory(kept)]) + "\n"


def _plans(kept: dict) -> list[str]:
    lines = [
        "| config | slice | mean tokens | fits | peak GiB of HBM | s per step "
        "| tokens/s | run of all steps | update | decode | largest all-reduce MiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case, plan in kept.items():
        label = case.config + ("" if case.remat == "full" else f", {case.remat} again")
        cells = [label, case.topology, f"{case.completion_tokens:,}"]
        cells += ["yes" if plan["fits"] else "**no**"]
        cells += [f"{peak_gib(plan):.1f} of {plan['hbm_bytes'] / _GIB:.2f}"]
        cells += _speed(case, plan) if "step_s" in plan else [""] * 6
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _speed(case: Case, plan: dict) -> list[str]:
    phases = {phase["name"]: phase for phase in plan["phases"]}
    update, decode = phases["update"], phases["decode"]
    filled = update["flops"] / update["filled_flops"]
    moved = decode["moved_per_token_bytes"] / decode["in_use_bytes"]
    return [
        f"{plan['step_s']:.0f}",
        f"{plan['completion_tokens_per_s']:,.0f}",
        f"{plan['run_hours']:.0f} h, ${plan['run_dollars']:,.0f}",
        f"{_missed(filled, _MOST_FLOPS[case.remat])} "
        f"/ {update['flops_over_useful']:.2f}",
        _missed(moved, _MOST_MOVED),
        _missed(_largest_all_reduce(plan, update), _MOST_REDUCED),
    ]


def _missed(value: float, most: float) -> str:
    return f"{value:.2f}" if value <= most else f"**{value:.2f}**, missed"


def _largest_all_reduce(plan: dict, update: dict) -> float:
    """MiB of the largest all-reduce among the devices that share parameters out."""
    return max(
        (
            c["nbytes"] / c["times"] / 2**20
            for c in update["collectives"]
            if c["kind"] == "all-reduce" and c["group"] > plan["devices_per_host"]
        ),
        default=0.0,
    )


def _memory(kept: dict) -> list[str]:
    first = CASES[0].config
    lines = [
        f"Memory of {first} per device in GiB, by the size of a slice of v5e: "
        "arguments and temporaries / peak, which is with what is alive meanwhile:",
        "",
        "| devices | prefill | decode | score | update |",
        "|---|---|---|---|---|",
    ]
    plans = [
        plan
        for case, plan in kept.items()
        if (case.config, case.remat) == (first, "full")
    ]
    for plan in sorted(plans, key=lambda plan: plan["devices"]):
        cells = [str(plan["devices"])]
        for p in plan["phases"]:
            own = p["arguments_bytes"] + p["temporaries_bytes"]
            cells.append(f"{own / _GIB:.2f} / {p['peak_bytes'] / _GIB:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Makes plans and the tables of all that are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="beginnings of names; all if none")
    parser.add_argument("--tables", action="store_true", help="plan nothing")
    args = parser.parse_args()
    for case in () if args.tables else CASES:
        if case.name.startswith(tuple(args.names) or ""):
            make(case)
            (RESULTS / "README.md").write_text(tables())
    (RESULTS / "README.md").write_text(tables())


if __name__ == "__main__":
    main()
