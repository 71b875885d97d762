"""Floating-point operations that a model needs, and those that devices can do.

Needed means: each prompt once where it is shared, causal attention alone, the head on
scored tokens alone, no padding, nothing made again. So a share of the peak (MFU) made
from it falls when work is wasted.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from hapo_jax.learner.packing import Placement
from hapo_jax.model.config import ModelConfig

# Forward and backward pass against forward alone.
TRAINING = 3

# Dense bfloat16 peak of a device by what its kind contains, from data sheets.
_PEAKS = {
    "tpu v4": 275e12,
    "tpu v5 lite": 197e12,
    "tpu v5e": 197e12,
    "tpu v5": 459e12,
    "tpu v6": 918e12,
    "a100": 312e12,
    "h100": 989e12,
    "h200": 989e12,
    "b200": 2250e12,
}


def of_placement(config: ModelConfig, placement: Placement) -> float:
    """FLOPs of one forward pass over all that is placed, prompts included."""
    return forward(
        config,
        tokens=placement.computed_tokens,
        pairs=_pairs(placement),
        scored=float(placement.lengths[placement.row >= 0].sum()),
    )


def forward(
    config: ModelConfig, *, tokens: float, pairs: float, scored: float
) -> float:
    """FLOPs of one forward pass.

    Args:
      config: sizes.
      tokens: that go through the layers.
      pairs: (query, key) pairs that see each other.
      scored: tokens that go through the head.
    """
    c = config
    per_layer = c.d_model * c.head_dim * (2 * c.num_heads + 2 * c.num_kv_heads)
    per_layer += 3 * c.d_model * c.d_ff
    linear = 2.0 * c.num_layers * per_layer * tokens
    # A score and its share of the values: two products of `head_dim` per head.
    attention = 4.0 * c.num_layers * c.num_heads * c.head_dim * pairs
    return linear + attention + 2.0 * c.d_model * c.vocab_size * scored


def _pairs(placement: Placement) -> float:
    """(query, key) pairs, of which a prompt that is shared counts once."""
    used = placement.row >= 0
    n = placement.prompt_lengths[used].astype(np.float64) - 1
    t = placement.lengths[used].astype(np.float64) + 1
    units = np.stack([placement.row[used], placement.unit_start[used]])
    _, first = np.unique(units, axis=1, return_index=True)
    prompts = (n * (n + 1) / 2)[first].sum()
    return float(prompts + (t * n + t * (t + 1) / 2).sum())


def peak(dtype, num_devices: int) -> float:
    """FLOP/s that the devices can do together.

    From data sheets where the kind of device is known, else measured once by a large
    matrix product; simulated CPU devices share one processor and count as one.
    """
    device = jax.devices()[0]
    known = data_sheet(device.device_kind)
    if known is not None:
        return known * num_devices
    return _measure(jnp.dtype(dtype)) * (1 if device.platform == "cpu" else num_devices)


def data_sheet(kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of a kind of device, as JAX names it; None if unknown."""
    return next((f for name, f in _PEAKS.items() if name in kind.lower()), None)


@functools.cache
def _measure(dtype, size: int = 1536) -> float:
    """FLOP/s of one device: the best of five products of square matrices."""
    x = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        product(x, x).block_until_ready()
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)
