"""A plan of a run, without the hardware: does it fit, how long, how much.

    hapo-plan --config=configs/paper/qwen2_5_math_7b.py --topology=v5e:8x8

Compiles the run's own programs (prefill, a chunk of decoding, scoring, an update) with
libtpu's compiler for a slice that is not there, and prints what each device would hold,
compute, move and send. Needs the extra `plan`; runs on any CPU, in minutes. The
checkpoint's weights are not needed: `model.path` may hold a config.json alone, or
`model.sizes` its fields.

Seconds are those of a roofline: each program at the chip's full speed in what it has
most of. A real run is slower; what overlaps badly, waits for the host or for graders is
not in it. Ends with status 1 and advice if something does not fit.
"""

import dataclasses
import json
import os
import sys

import jax
from absl import flags
from ml_collections import ConfigDict

from hapo_jax import cli
from hapo_jax.config import check
from hapo_jax.model import huggingface
from hapo_jax.model.config import ModelConfig
from hapo_jax.planning import chips, estimate, programs
from hapo_jax.rollout import memory
from hapo_jax.system import target
from hapo_jax.system.errors import Refused

_GIB = 2**30
# Collectives that a phase's table shows.
_SHOWN = 6


def plan(config: ConfigDict, topology_name: str, *, completion_tokens: int = 0) -> dict:
    """Plans a run and returns everything that is printed, as plain data.

    Args:
      config: of `hapo-train`.
      topology_name: such as "v5e:8x8".
      completion_tokens: mean length of a completion; 0 assumes the longest for all.

    Raises:
      Refused: config, model or topology cannot be used.
      memory.DoesNotFit: not even the fewest slots fit.
    """
    topology = chips.topology(topology_name)
    config = check.check(config, num_devices=len(topology.devices)).config
    model = model_config(config)
    mean = completion_tokens or config.rollout.max_completion_tokens
    if not 0 < mean <= config.rollout.max_completion_tokens:
        raise Refused(
            f"--completion_tokens={mean} must be between 1 and rollout."
            f"max_completion_tokens={config.rollout.max_completion_tokens}."
        )
    chip = topology.chip
    with target.compile_for(target.Target("tpu", chip.hbm_bytes)):
        lowered = programs.programs(
            config,
            model,
            topology.devices,
            topology.host_devices,
            completion_tokens=mean,
        )
        phases = [estimate.measure(program, topology) for program in lowered]
    return summarise(config, topology, mean, phases)


def model_config(config: ConfigDict) -> ModelConfig:
    """Sizes from `model.path`, or where that is empty from `model.sizes`."""
    if config.model.path or not config.model.sizes:
        check.check_model_path(config.model.path)
        return huggingface.load_config(config.model.path)
    return ModelConfig.from_hf(config.model.sizes.to_dict(), "model.sizes")


def summarise(config: ConfigDict, topology, mean: int, phases) -> dict:
    """The plan as plain data; bytes and FLOPs per device, seconds, US dollars."""
    r, chip = config.rollout, topology.chip
    fits = all(phase.fits for phase in phases)
    out = {
        "config": config.method,
        "topology": topology.name,
        "devices": len(topology.devices),
        "devices_per_host": len(topology.host_devices),
        "hbm_bytes": chip.hbm_bytes,
        "mean_completion_tokens": mean,
        "fits": fits,
        "phases": [_phase(phase, r.chunk_tokens) for phase in phases],
    }
    if not fits:
        out["advice"] = estimate.remedies(config, phases, topology)
    if all(phase.counts for phase in phases):
        seconds = sum(phase.step_s for phase in phases)
        tokens = r.batch_prompts * r.group_size * mean
        hours = seconds * config.num_steps / 3600
        out |= {
            "step_s": seconds,
            "completion_tokens_per_s": tokens / seconds,
            "num_steps": config.num_steps,
            "run_hours": hours,
            "price_per_chip_hour": chip.price,
            "run_dollars": hours * len(topology.devices) * chip.price,
        }
    return out


def _phase(phase: estimate.Phase, chunk_tokens: int) -> dict:
    out = dataclasses.asdict(phase) | {"step_s": phase.step_s}
    counts = out.pop("counts")
    if counts is not None:
        out |= {
            "flops": counts["flops"],
            "flops_over_useful": counts["flops"] / phase.useful_flops,
            "moved_bytes": counts["nbytes"],
            "collectives": counts["collectives"],
            "assumed_loops": counts["assumed_loops"],
            "uncounted_kernels": sorted(counts["unknown"]),
        }
        if phase.in_use_bytes:
            out["moved_per_token_bytes"] = counts["nbytes"] / chunk_tokens
    return out


def show(plan: dict) -> None:
    """Prints a plan."""
    print(
        f"{plan['topology']}: {plan['devices']} devices in hosts of "
        f"{plan['devices_per_host']}, {plan['hbm_bytes'] / _GIB:.2f} GiB each"
    )
    print(
        f"completions of {plan['mean_completion_tokens']} tokens; loops over data run "
        "as often as these need, one round of sampling per step\n"
    )
    print("GiB per device  arguments  results  temporaries  others alive     peak")
    for p in plan["phases"]:
        kinds = ("arguments", "outputs", "temporaries", "resident", "peak")
        given, results, made, others, peak = (p[f"{k}_bytes"] / _GIB for k in kinds)
        print(
            f"{p['name']:<14} {given:>10.2f} {results:>8.2f} {made:>12.2f} "
            f"{others:>13.2f} {peak:>8.2f}  {'' if p['fits'] else 'DOES NOT FIT'}"
        )
    print("\nper call      useful  program  over      moved    sent   seconds  × calls")
    print(
        "              TFLOPs   TFLOPs  useful      GiB     GiB            = per step"
    )
    for p in plan["phases"]:
        if "flops" in p:
            _show_speed(p)
    for p in plan["phases"]:
        _show_collectives(p)
    if "step_s" in plan:
        print(
            f"\nat full speed: {plan['step_s']:.1f} s per step, "
            f"{plan['completion_tokens_per_s']:,.0f} completion tokens/s; "
            f"{plan['num_steps']} steps in {plan['run_hours']:.1f} h for "
            f"${plan['run_dollars']:,.0f} at ${plan['price_per_chip_hour']:.2f} per "
            "chip-hour (list price, check yours)"
        )
    if not plan["fits"]:
        print("\nIt does not fit. What would help:")
        for advice in plan["advice"]:
            print(f"  {advice}")


def _show_speed(p: dict) -> None:
    sent = sum(c["wire_bytes"] for c in p["collectives"])
    bound = max(("compute", "memory", "network"), key=lambda k: p[f"{k}_s"])
    call = p[f"{bound}_s"]
    print(
        f"{p['name']:<10} {p['useful_flops'] / 1e12:>9.3f} {p['flops'] / 1e12:>8.3f} "
        f"{p['flops_over_useful']:>7.2f} {p['moved_bytes'] / _GIB:>8.2f} "
        f"{sent / _GIB:>7.2f} {call:>9.4f} × {p['calls']:g} = {p['step_s']:.1f} s "
        f"({bound})"
    )
    if p["filled_flops"]:
        ratio = p["flops"] / p["filled_flops"]
        print(f"{'':<10} over what full rows of one sequence each need: {ratio:.2f}")
    if p["in_use_bytes"]:
        used, moved = (
            p["in_use_bytes"] / _GIB,
            p["moved_per_token_bytes"] / p["in_use_bytes"],
        )
        print(
            f"{'':<10} weights and cache: {used:.2f} GiB per token, "
            f"moved {moved:.2f} times"
        )
    for kernel in p["uncounted_kernels"]:
        print(f"{'':<10} operations of kernel {kernel} are not counted")


def _show_collectives(p: dict) -> None:
    found = p.get("collectives", [])
    if not found:
        return
    print(
        f"\n{p['name']}: collectives per call and device (× trips; sent as by a ring)"
    )
    for c in found[:_SHOWN]:
        sent = c["wire_bytes"] / 2**20
        print(
            f"  {c['kind']:<19} {c['result']:<24} of {c['group']:>3}  "
            f"× {c['times']:<7g} {sent:>10.1f} MiB"
        )
    rest = found[_SHOWN:]
    if rest:
        sent = sum(c["wire_bytes"] for c in rest) / 2**20
        print(f"  and {len(rest)} smaller: {sent:.1f} MiB")


def run() -> None:
    """The program `hapo-plan`."""
    # The compiler is asked for; no TPU, and no metadata server, is looked for.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # plans side by side
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    jax.config.update("jax_platforms", "cpu")
    # Programs for devices that are not there can be written to it and not read back.
    jax.config.update("jax_enable_compilation_cache", False)
    name = flags.DEFINE_string("topology", None, "Chip and shape, such as v5e:8x8.")
    mean = flags.DEFINE_integer(
        "completion_tokens", 0, "Mean length of a completion; 0: the longest."
    )
    as_json = flags.DEFINE_bool("json", False, "Print the plan as JSON alone.")

    def start(config: ConfigDict, workdir: str | None) -> None:
        del workdir
        try:
            found = plan(config, name.value, completion_tokens=mean.value)
        except memory.DoesNotFit as error:
            print(f"It does not fit: {error}", file=sys.stderr)
            sys.exit(1)
        if as_json.value:
            print(json.dumps(found, indent=1))
        else:
            show(found)
        sys.exit(0 if found["fits"] else 1)

    cli.run(start, required=("config", "topology"))


if __name__ == "__main__":
    run()
