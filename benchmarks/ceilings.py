"""What the machine can do at most: float32 matrix products and copies, timed.

A worker of `compare.py` like an engine, so that the limit is measured under the same
pinning and in the same minutes as what is compared with it. Its argument's `methods`
names one library, "jax" or "torch".
"""

import os
import time
from collections.abc import Callable

from benchmarks import worker, workload

# Enough calls for the best of them to be near the machine's best, few enough that
# measuring between runs costs little.
_SECONDS_PER_SHAPE = 0.3
_MIN_CALLS = 3
_COPY_ELEMENTS = 2**26  # 256 MiB of float32, beyond any cache
_SQUARE = 2048
_PREFILL_ROWS = 2560  # tokens at a time; with few rows a product is bound by memory
_DECODE_ROWS = 64


def shapes_of(model: workload.Model) -> dict[str, tuple[int, int, int]]:
    """(rows, inner, columns) of products: a large square, and the model's largest."""
    return {
        "square": (_SQUARE, _SQUARE, _SQUARE),
        "prefill_mlp": (_PREFILL_ROWS, model.d_model, model.d_ff),
        "decode_mlp": (_DECODE_ROWS, model.d_model, model.d_ff),
        "decode_head": (_DECODE_ROWS, model.d_model, model.vocab),
    }


def build(job: worker.Job) -> worker.Engine:
    """The probes of one library."""
    (library,) = job.methods
    version, product, copy = {"jax": _jax, "torch": _torch}[library]()
    shapes = shapes_of(workload.model(job.model))
    calls = {name: product(*shape) for name, shape in shapes.items()}

    def run(seed: int) -> dict:
        del seed  # nothing random
        gflop_s = {
            name: 2 * rows * inner * columns / best_seconds(calls[name]) / 1e9
            for name, (rows, inner, columns) in shapes.items()
        }
        # A copy reads and writes each of its four-byte elements.
        copied = 8 * _COPY_ELEMENTS / best_seconds(copy)
        return {"gflop_s": gflop_s, "copy_gb_s": copied / 1e9}

    return worker.Engine(versions={library: version}, runs={library: run})


def best_seconds(call: Callable[[], object]) -> float:
    """Shortest of the calls that fit into the time for a shape; blocking calls only."""
    times = []
    while len(times) < _MIN_CALLS or sum(times) < _SECONDS_PER_SHAPE:
        now = time.perf_counter()
        call()
        times.append(time.perf_counter() - now)
    return min(times)


def _jax():
    import jax
    import jax.numpy as jnp

    multiply = jax.jit(lambda a, b: a @ b)
    # In place: the first touch of fresh memory would cost more than the copy.
    add_one = jax.jit(lambda x: x + 1, donate_argnums=0)
    array = jnp.ones(_COPY_ELEMENTS, jnp.float32)

    def product(rows: int, inner: int, columns: int) -> Callable[[], object]:
        a = jnp.full((rows, inner), 0.01, jnp.float32)
        b = jnp.full((inner, columns), 0.01, jnp.float32)
        return lambda: multiply(a, b).block_until_ready()

    def copy() -> None:
        nonlocal array
        array = add_one(array).block_until_ready()

    return jax.__version__, product, copy


def _torch():
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    source = torch.ones(_COPY_ELEMENTS)
    target = torch.empty_like(source)

    def product(rows: int, inner: int, columns: int) -> Callable[[], object]:
        a, b = torch.full((rows, inner), 0.01), torch.full((inner, columns), 0.01)
        return lambda: a @ b

    return torch.__version__, product, lambda: target.copy_(source)


if __name__ == "__main__":
    worker.serve(build)
