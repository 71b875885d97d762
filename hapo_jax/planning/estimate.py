"""From compiled programs to memory, seconds and money."""

import dataclasses
import re
import time

import jax
from ml_collections import ConfigDict

from hapo_jax.planning import chips
from hapo_jax.planning import counts as counts_lib
from hapo_jax.planning.programs import Program

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass
class Phase:
    """One program, per device.

    Attributes:
      name: prefill, decode, score or update.
      devices: that run it together.
      calls: per step.
      fits: its peak is within the chip's memory.
      arguments_bytes, outputs_bytes, temporaries_bytes: as the compiler says; 0 where
        it gave up. Outputs that take the place of arguments do not count.
      code_bytes: of the program itself.
      resident_bytes: of arrays that are alive meanwhile.
      peak_bytes: the sum of these.
      compile_s: seconds that compiling took here.
      useful_flops: that a call needs, per device.
      counts: of a call; None where the compiler gave up.
      filled_flops: see `Program`, per device; as is in_use_bytes.
      compute_s, memory_s, network_s: of a call, at the chip's full speed.
      assumed_trips: of loops whose length depends on the data.
    """

    name: str
    devices: int
    calls: float
    fits: bool
    arguments_bytes: int
    outputs_bytes: int
    temporaries_bytes: int
    code_bytes: int
    resident_bytes: int
    peak_bytes: int
    compile_s: float
    useful_flops: float
    counts: counts_lib.Counts | None
    filled_flops: float = 0.0
    in_use_bytes: int = 0
    compute_s: float = 0.0
    memory_s: float = 0.0
    network_s: float = 0.0
    assumed_trips: tuple[int, ...] = ()

    @property
    def step_s(self) -> float:
        """Seconds of all calls of a step: the slowest of the three, for each call."""
        return self.calls * max(self.compute_s, self.memory_s, self.network_s)


def measure(program: Program, topology: chips.Topology) -> Phase:
    """Compiles a program and counts what it does."""
    started = time.perf_counter()
    chip, devices = topology.chip, program.mesh.size
    phase = Phase(
        name=program.name,
        devices=devices,
        calls=program.calls,
        fits=False,
        arguments_bytes=0,
        outputs_bytes=0,
        temporaries_bytes=0,
        code_bytes=0,
        resident_bytes=program.resident_bytes,
        peak_bytes=0,
        compile_s=0.0,
        useful_flops=program.flops / devices,
        counts=None,
        filled_flops=program.filled_flops / devices,
        in_use_bytes=program.in_use_bytes,
        assumed_trips=program.trips,
    )
    try:
        compiled = program.lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        phase.compile_s = time.perf_counter() - started
        phase.peak_bytes = program.resident_bytes + _refused(error)
        return phase
    memory = compiled.memory_analysis()
    phase.compile_s = time.perf_counter() - started
    phase.arguments_bytes = memory.argument_size_in_bytes
    phase.outputs_bytes = memory.output_size_in_bytes - memory.alias_size_in_bytes
    phase.temporaries_bytes = memory.temp_size_in_bytes
    phase.code_bytes = memory.generated_code_size_in_bytes
    phase.peak_bytes = (
        phase.arguments_bytes
        + phase.outputs_bytes
        + phase.temporaries_bytes
        + phase.code_bytes
        + phase.resident_bytes
    )
    phase.fits = phase.peak_bytes <= chip.hbm_bytes
    phase.counts = counts_lib.count(compiled.as_text(), program.trips)
    phase.compute_s = phase.counts.flops / topology.peak_flops
    phase.memory_s = phase.counts.nbytes / chip.hbm_rate
    wire = sum(c.wire_bytes for c in phase.counts.collectives)
    phase.network_s = wire / chip.ici_rate
    return phase


def _refused(error: Exception) -> int:
    """Bytes that the compiler says a program needs; any other error is raised again."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text and "Ran out of memory" not in text:
        raise error
    size = r"([\d.]+)([KMGT])"
    for said in (rf"Used {size} of [\d.]+[KMGT] hbm", rf"\({size}\) exceeds available"):
        used = re.search(said, text)
        if used is not None:
            return int(float(used.group(1)) * _UNITS[used.group(2)])
    raise error


def remedies(config: ConfigDict, phases: list[Phase], topology) -> list[str]:
    """Two or three settings that would help the phases that do not fit."""
    learner, mesh, advice = config.learner, config.mesh, []
    failing = [p.name for p in phases if not p.fits]
    if {"score", "update"} & set(failing):
        shards = len(topology.devices) // mesh.tensor
        if "update" in failing and learner.remat != "full":
            advice.append("learner.remat=full keeps one state per layer and no more")
        if learner.micro_rows > shards:
            advice.append(
                f"learner.micro_rows={shards} (now {learner.micro_rows}): one row per "
                "device at a time"
            )
        if mesh.data != 1 or mesh.fsdp != -1:
            advice.append(
                "mesh.data=1 mesh.fsdp=-1 splits parameters and optimizer state over "
                "all devices"
            )
        if learner.chunk_tokens == 0 or learner.chunk_tokens > 256:
            advice.append("learner.chunk_tokens=256: fewer logits at a time")
    if {"prefill", "decode"} & set(failing):
        fraction = config.rollout.memory_fraction or 0.6
        advice.append(
            f"rollout.memory_fraction={fraction / 2:.2g}: fewer completions decode "
            "together"
        )
        if mesh.tensor < len(topology.host_devices):
            advice.append(
                f"mesh.tensor={2 * mesh.tensor} splits the weights for sampling, if it "
                "divides the heads"
            )
    advice.append(
        "a larger --topology, chips with more memory (v6e 32, v5p 95 GB), or a smaller "
        "rollout.max_completion_tokens"
    )
    return [*advice[:2], advice[-1]] if len(advice) > 3 else advice
