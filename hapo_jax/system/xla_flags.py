"""Flags of XLA that a run on accelerators is started with, and why.

    eval "$(python -m hapo_jax.system.xla_flags gpu)"

The launch scripts do this before they start Python: XLA reads the variables once, and a
flag that a version does not know ends the process. That is why the programs do not set
them by themselves. What the environment holds already is kept and wins, as XLA takes
the last of two equal flags.

Attention needs no flag: `model/attention.py` asks for cuDNN's kernel on GPUs and for
the Pallas kernel on TPUs by name.
"""

import os
import shlex
import sys
from collections.abc import Mapping

from hapo_jax.system.errors import Refused

# flag → (value, reason)
GPU = {
    "xla_gpu_enable_latency_hiding_scheduler": (
        "true",
        "orders work so that a layer computes while the next one's weights arrive",
    ),
    "xla_gpu_enable_pipelined_all_gather": (
        "true",
        "gathers the weights of the next layer of a scan during this one",
    ),
    "xla_gpu_enable_pipelined_reduce_scatter": (
        "true",
        "sends gradients of a layer during the next one's backward pass",
    ),
    "xla_gpu_all_gather_combine_threshold_bytes": (
        "134217728",
        "one gather for the weights of a layer, not one for each matrix",
    ),
    "xla_gpu_reduce_scatter_combine_threshold_bytes": (
        "134217728",
        "the same for its gradients",
    ),
}
TPU = {
    "xla_tpu_enable_latency_hiding_scheduler": (
        "true",
        "orders work so that collectives run behind products",
    ),
    "xla_tpu_enable_async_collective_fusion": (
        "true",
        "runs a collective inside the product beside which it is waited for",
    ),
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": (
        "true",
        "for the gathers of weights too, most of what `fsdp` sends",
    ),
    "xla_tpu_enable_async_collective_fusion_multiple_steps": (
        "true",
        "a gather may spread over several products",
    ),
    "xla_tpu_overlap_compute_collective_tc": (
        "true",
        "lets the core that computes drive collectives meanwhile",
    ),
}
# What JAX takes of a GPU at its start, and no more later; by itself it takes 0.75. The
# rest is for CUDA, cuDNN and NCCL.
_GPU_MEMORY = "0.92"
_GPU_MEMORY_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
# The environment variable that each platform reads.
VARIABLES = {"gpu": ("XLA_FLAGS", GPU), "tpu": ("LIBTPU_INIT_ARGS", TPU)}


def environment(
    platform: str, present: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The variables to set for a platform: "gpu", "tpu", or "cpu" for none.

    Raises:
      Refused: the platform is unknown.
    """
    if platform == "cpu":
        return {}
    if platform not in VARIABLES:
        raise Refused(f"platform={platform!r} must be one of cpu, gpu, tpu.")
    variable, flags = VARIABLES[platform]
    ours = " ".join(f"--{flag}={value}" for flag, (value, _) in flags.items())
    found = {variable: f"{ours} {present.get(variable, '')}".strip()}
    if platform == "gpu" and not any(present.get(v) for v in _GPU_MEMORY_VARIABLES):
        found[_GPU_MEMORY_VARIABLES[0]] = _GPU_MEMORY
    return found


if __name__ == "__main__":
    for name, text in environment(*sys.argv[1:]).items():
        print(f"export {name}={shlex.quote(text)}")
