"""How many slots fit: memory is planned before anything is compiled."""

import os

import jax

from hapo_jax.model import target
from hapo_jax.model.config import ModelConfig

_GIB = 2**30


class DoesNotFit(ValueError):
    """Memory is too small for the slots."""


def bytes_per_slot(
    config: ModelConfig,
    *,
    prompt_columns: int,
    completion_columns: int,
    rows_per_lane: int,
    itemsize: int,
) -> int:
    """Keys and values of one row and its share of a prompt, in bytes.

    Counted twice, since a batch that is moved to other columns exists twice for a
    moment.
    """
    columns = completion_columns + prompt_columns / rows_per_lane
    per_column = 2 * config.num_layers * config.num_kv_heads * config.head_dim
    return int(2 * columns * per_column * itemsize)


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


def plan_slots(
    requested: int,
    *,
    most: int,
    multiple: int,
    slot_bytes: int,
    budget_bytes: float,
    shards: int,
) -> int:
    """The number of slots, over all devices.

    Args:
      requested: rollout.slots; 0 takes what fits.
      most: more are never needed.
      multiple: of which the number must be one.
      slot_bytes: see `bytes_per_slot`.
      budget_bytes: of one device, for all its slots.
      shards: devices that share the rows out.

    Raises:
      ValueError: the requested number is no multiple.
      DoesNotFit: it does not fit, or not even the smallest number does.
    """
    fits = int(budget_bytes // slot_bytes) * shards // multiple * multiple
    needed = -(-most // multiple) * multiple
    numbers = (
        f"a slot takes {slot_bytes / _GIB:.4f} GiB and the budget "
        f"(rollout.memory_fraction) is {budget_bytes / _GIB:.2f} GiB per device, "
        f"enough for {fits} slots on {shards}"
    )
    if fits < multiple:
        raise DoesNotFit(
            f"not even {multiple} slots fit: {numbers}; raise rollout.memory_fraction, "
            "lower rollout.max_completion_tokens, or use more devices."
        )
    if not requested:
        return min(needed, fits)
    if requested % multiple:
        raise ValueError(
            f"rollout.slots={requested} must be a multiple of {multiple} (rows that "
            "share a prompt × devices that share the rows); 0 chooses for you."
        )
    if requested > fits:
        raise DoesNotFit(
            f"rollout.slots={requested} do not fit: {numbers}; lower it, or raise "
            "rollout.memory_fraction."
        )
    return requested
