"""How fast and how full a step of learning was: the `perf/` metrics."""

import resource

import jax

from hapo_jax.learner import flops, train_step
from hapo_jax.learner.learn import Learnt
from hapo_jax.model import transformer
from hapo_jax.model.config import ModelConfig
from hapo_jax.rollout import memory


def rates(
    config: ModelConfig,
    learnt: Learnt,
    seconds: float,
    *,
    peak_flops: float,
) -> dict[str, float]:
    """Speed of one call of `learn`.

    Args:
      config: sizes of the policy.
      learnt: what was done.
      seconds: how long it took, work on the host included.
      peak_flops: FLOP/s of all devices together.

    Returns:
      perf/mfu: FLOPs that the work needed over those that the devices could have done.
      perf/tokens_per_s: prompt and completion tokens in updates, a shared prompt once.
      perf/padding_share: columns of the updates' rows that held no token.
      perf/memory_gib: see `peak_gib`.
      perf/memory_share: of what a device, on a CPU the machine, has.
    """
    needed = sum(flops.of_placement(config, placement) for placement in learnt.scorings)
    needed += flops.TRAINING * sum(
        flops.of_placement(config, placement) for placement in learnt.updates
    )
    tokens = sum(placement.computed_tokens for placement in learnt.updates)
    columns = sum(placement.computed_columns for placement in learnt.updates)
    found = {"perf/memory_gib": peak_gib()}
    share = found["perf/memory_gib"] * 2**30 / memory.device_bytes()
    found["perf/memory_share"] = share
    if columns:  # of nothing there is no rate
        found |= {
            "perf/mfu": needed / (seconds * peak_flops),
            "perf/tokens_per_s": tokens / seconds,
            "perf/padding_share": 1 - tokens / columns,
        }
    return found


def cuts(learner: train_step.Learner) -> dict[str, float]:
    """How the work is cut, so that runs can be compared.

    Returns:
      perf/micro_rows: rows of a micro-batch, over all devices.
      perf/head_tokens: whose logits exist at a time, per device.
      perf/remat: what the backward pass makes again, by its place in
        `transformer.REMATS`: 0 nothing, 1 all but products with weights, 2 all.
    """
    return {
        "perf/micro_rows": learner.layout.micro_rows,
        "perf/head_tokens": learner.width,
        "perf/remat": transformer.REMATS.index(learner.remat),
    }


def peak_gib() -> float:
    """Most memory used so far: of the fullest local device, or of the process where
    devices keep no count, as CPUs do not."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    if peaks:
        return max(peaks) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # from KiB
