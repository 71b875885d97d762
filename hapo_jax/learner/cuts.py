"""How the learner's work is cut so that it fits the memory there is.

What the config leaves open is chosen here: rows of a micro-batch, what the backward
pass makes again, tokens of a chunk of the head. On a CPU they follow from its caches
and were measured (`benchmarks/`); on accelerators from an estimate of the memory that
an update takes, which `tests/learner/test_cuts.py` compares with compiled programs.
"""

import math
from typing import NamedTuple

from hapo_jax.learner import head
from hapo_jax.model.config import ModelConfig
from hapo_jax.system import target

# Tokens of a micro-batch per device. A CPU: enough to keep the matrix products
# efficient, few enough for the activations of a small model to stay in caches, and for
# the last micro-batch, which is computed whole however little is in it. Accelerators:
# as many as fit, up to where products are efficient.
_CPU_TOKENS = 1024
_MOST_TOKENS = 8192
# Fewer tokens than these at a time cost more than what `dots` saves.
_FEW_TOKENS = 2048
# Bytes per parameter beside the state: the sum of gradients; in half precision, those
# of a micro-batch and the parameters.
_PER_PARAMETER = 4 + 2 + 2


class Memory(NamedTuple):
    """What there is, and what an update keeps of it whatever is chosen; per device.

    Attributes:
      usable: bytes of arrays and programs together.
      kept: bytes of the training state and all else that stays.
      parameters: float32 parameters that the device keeps.
    """

    usable: float
    kept: int
    parameters: int


class Cut(NamedTuple):
    """Attributes:
    rows: of a micro-batch, per device that has rows of its own.
    remat: see `transformer.REMATS`.
    head_tokens: of a chunk of the head, per such device.
    needed: estimate of what an update takes, bytes per device; 0 on a CPU.
    """

    rows: int
    remat: str
    head_tokens: int
    needed: float


def choose(
    model: ModelConfig,
    there_is: Memory,
    *,
    width: int,
    most_rows: int,
    shards: int,
    tensor: int,
    rows: int = 0,
    remat: str = "auto",
    head_tokens: int = 0,
) -> Cut:
    """Chooses what is open: 0, and "auto".

    Args:
      model: sizes.
      there_is: memory.
      width: tokens of a row.
      most_rows: of a mini-batch, per shard; more would stay empty.
      shards: parts that rows are split into.
      tensor: devices that share a row.
      rows, remat, head_tokens: as in `Cut`, where the config sets them.
    """
    head_tokens = head_tokens or head.chunk_tokens(
        model.vocab_size, shards=shards, tensor=tensor, usable=there_is.usable
    )
    divisors = [n for n in range(1, most_rows + 1) if most_rows % n == 0]
    if target.platform() == "cpu":
        nearest = min(divisors, key=lambda n: abs(math.log(n * width / _CPU_TOKENS)))
        remat = "dots" if remat == "auto" else remat
        return Cut(
            rows=rows or nearest, remat=remat, head_tokens=head_tokens, needed=0.0
        )
    remats = ("dots", "full") if remat == "auto" else (remat,)
    if rows:
        divisors = [rows]
    else:
        divisors = [n for n in divisors if n == 1 or n * width <= _MOST_TOKENS]
    cuts = [
        Cut(rows=n, remat=kind, head_tokens=head_tokens, needed=0.0)
        for kind in remats
        for n in reversed(divisors)
    ]
    cuts = [
        cut._replace(needed=update_bytes(model, there_is, cut, width, tensor))
        for cut in cuts
    ]
    fitting = [cut for cut in cuts if cut.needed <= there_is.usable]
    # The first recomputes least; but with few tokens each pass over the weights and
    # their gradients is dear.
    enough = min(_FEW_TOKENS, divisors[-1] * width)
    good = [cut for cut in fitting if cut.rows * width >= enough]
    return (good or fitting or cuts[-1:])[0]


def update_bytes(
    model: ModelConfig, there_is: Memory, cut: Cut, width: int, tensor: int
) -> float:
    """What an update takes at its fullest, bytes per device; bfloat16 is assumed."""
    c, tokens = model, cut.rows * width
    heads, kv = c.num_heads * c.head_dim / tensor, c.num_kv_heads * c.head_dim / tensor
    D, F, V = c.d_model, c.d_ff / tensor, c.vocab_size / tensor
    kept = {"full": D, "dots": 3 * D + heads + 2 * kv + 2 * F}
    kept["none"] = 2 * kept["dots"] + 4 * D + 2 * F + 2 * heads
    activations = 2 * tokens * c.num_layers * kept[cut.remat]
    # A layer in its backward pass, part of it in float32.
    activations += 4 * tokens * (4 * D + 3 * F + 3 * heads)
    # Who sees whom, as cuDNN takes it.
    activations += 2 * tokens * width if target.platform() == "gpu" else 0
    # Logits and their derivative; the unembedding, and its gradient twice.
    of_head = 4 * 4 * cut.head_tokens * V + (2 + 4 + 4) * V * D
    of_weights = _PER_PARAMETER * there_is.parameters
    return there_is.kept + activations + of_head + of_weights
