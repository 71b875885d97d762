"""How many slots fit: memory is planned before anything is compiled.

What the rest of the program keeps is taken off first. A GPU's limit is what JAX took at
its start, three quarters of the card unless XLA_PYTHON_CLIENT_MEM_FRACTION says more.
"""

import os

import jax

from hapo_jax.model.config import ModelConfig
from hapo_jax.system import target
from hapo_jax.system.errors import Refused

_GIB = 2**30


class DoesNotFit(Refused):
    """Memory is too small for the slots."""


# Of a device's memory; the rest is for what is not counted, and for gaps.
_USABLE = 0.92
# Of a CPU's memory, which it has for all programs.
_SHARE_OF_CPU = 0.3
# Logits of a step, and what is made of them, in float32.
_ARRAYS_OF_LOGITS = 4


def bytes_per_slot(
    config: ModelConfig,
    *,
    prompt_columns: int,
    completion_columns: int,
    rows_per_lane: int,
    itemsize: int,
) -> int:
    """What one row needs, in bytes.

    Keys and values of its columns, and one layer of them more, since layers move to
    other columns one by one. Its share of a prompt, twice: prompts that were read wait
    beside those that are in use. What reading the prompt takes, layer by layer. Logits.
    """
    c, prompt = config, prompt_columns / rows_per_lane
    of_layer = 2 * c.num_kv_heads * c.head_dim * itemsize
    cache = of_layer * (c.num_layers + 1) * completion_columns
    prompts = of_layer * (2 * c.num_layers + 1) * prompt
    heads = (c.num_heads + 2 * c.num_kv_heads) * c.head_dim
    reading = prompt * itemsize * (4 * c.d_model + 3 * c.d_ff + 2 * heads)
    return int(cache + prompts + reading + _ARRAYS_OF_LOGITS * 4 * c.vocab_size)


def device_bytes() -> int:
    """Memory of one device; on a CPU its share of the machine's."""
    planned = target.device_bytes()
    if planned is not None:
        return planned
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return total // jax.local_device_count()


def usable_bytes() -> float:
    """Of a device's memory, what programs and arrays together may take."""
    return _USABLE * device_bytes()


def budget_bytes(fraction: float, beside: int) -> float:
    """Of a device, for all its slots.

    Args:
      fraction: rollout.memory_fraction; 0: what is left, on a CPU a fixed share.
      beside: bytes per device that other arrays take while slots decode.
    """
    if fraction or target.platform() == "cpu":
        return (fraction or _SHARE_OF_CPU) * device_bytes()
    return max(0.0, usable_bytes() - beside)


def plan_slots(
    requested: int,
    *,
    most: int,
    multiple: int,
    slot_bytes: int,
    budget_bytes: float,
    shards: int,
    round_up: bool = False,
) -> int:
    """The number of slots, over all devices.

    Args:
      requested: rollout.slots; 0 takes what fits.
      most: more are never needed.
      multiple: of which the number must be one.
      slot_bytes: see `bytes_per_slot`.
      budget_bytes: of one device, for all its slots.
      shards: devices that share the rows out.
      round_up: slots may stay empty for a number with more halves, where rows cost
        little.

    Chosen numbers are multiples with many halves: rows shrink to their half.

    Raises:
      Refused: the requested number is no multiple.
      DoesNotFit: it does not fit, or not even the smallest number does.
    """
    fits = int(budget_bytes // slot_bytes) * shards // multiple * multiple
    numbers = (
        f"a slot takes {slot_bytes / _GIB:.4f} GiB and the budget "
        "(rollout.memory_fraction; 0: what training state and weights leave) is "
        f"{budget_bytes / _GIB:.2f} GiB per device, "
        f"enough for {fits} slots on {shards}"
    )
    if fits < multiple:
        raise DoesNotFit(
            f"not even {multiple} slots fit: {numbers}; raise rollout.memory_fraction, "
            "lower rollout.max_completion_tokens, split the weights (mesh.fsdp, "
            "mesh.tensor), or use more devices."
        )
    if not requested:
        lanes = -(-most // multiple)
        needed = multiple * (_with_halves(lanes, up=True) if round_up else lanes)
        return needed if needed <= fits else multiple * _with_halves(fits // multiple)
    if requested % multiple:
        raise Refused(
            f"rollout.slots={requested} must be a multiple of {multiple} (rows that "
            "share a prompt × devices that share the rows); 0 chooses for you."
        )
    if requested > fits:
        raise DoesNotFit(
            f"rollout.slots={requested} do not fit: {numbers}; lower it, or raise "
            "rollout.memory_fraction."
        )
    return requested


def _with_halves(number: int, *, up: bool = False) -> int:
    """The next number below (or above) of the form 4 … 7 times a power of two."""
    step = 1 << max(0, number.bit_length() - 3)
    return -(-number // step) * step if up else number // step * step
