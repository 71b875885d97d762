"""DCPO: clip ranges by the old probability, advantages by the history of the prompt."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hapo_jax.algo import advantages, row, stages
from hapo_jax.algo.ranges import Range

Array = jax.Array


class History(NamedTuple):
    """Of each training problem, [num_prompts] float32.

    Attributes:
      times: batches that it was in.
      mean, std: of its rewards so far.
    """

    times: Array
    mean: Array
    std: Array


def init(num_prompts: int) -> History:
    """No problem has been tried."""
    none = jnp.zeros(num_prompts, jnp.float32)
    return History(times=none, mean=none, std=none)


def update(values, state: History) -> History:
    """With the rewards of the step."""
    rewards, ids = values["rewards"], values["prompt_ids"]
    # A row that only fills up has the id -1, and falls behind the last problem.
    size = len(state.times)
    ids = jnp.where(ids < 0, size, ids)

    def total(x):
        return jax.ops.segment_sum(x, ids, size + 1)[:size]

    count = total(jnp.ones_like(rewards))
    mean = total(rewards) / jnp.maximum(count, 1)
    known = jnp.concatenate([mean, jnp.zeros(1)])
    centred = rewards - known[ids]
    # Equal rewards have no deviation, whatever rounding makes of their mean.
    high = jax.ops.segment_max(rewards, ids, size + 1)
    low = -jax.ops.segment_max(-rewards, ids, size + 1)
    centred = jnp.where((low < high)[ids], centred, 0)
    std = jnp.sqrt(total(jnp.square(centred)) / jnp.maximum(count - 1, 1))

    before, times = state.times, state.times + 1
    pooled = (state.mean * before + mean) / times
    shift = before / times * jnp.square(mean - state.mean)
    variance = (before * jnp.square(state.std) + jnp.square(std) + shift) / times
    new = History(
        times,
        jnp.where(before > 0, pooled, mean),
        jnp.where(before > 0, jnp.sqrt(variance), std),
    )
    return jax.tree.map(lambda new, old: jnp.where(count > 0, new, old), new, state)


@stages.declare(
    by_rows=True,
    silent_at_zero=False,
    init=init,
    update=update,
)
def dcpo(
    rewards: Array,
    mask: Array,
    group_ids: Array,
    prompt_ids: Array,
    state: History,
) -> Array:
    """DCPO: rewards standardised by the group, and by all that the prompt ever had.

        a = (R - mean_G) / std_G,   b = (R - mean) / std  over the batches so far
        A = the smaller in magnitude of  b / i + (1 - 1/i) a  and  a / i + (1 - 1/i) b

    arXiv 2509.02333, by its code; i is the number of batches that the prompt was in,
    this one included. Deviations are of a sample, and pooled over batches; without any
    the standardised reward is 0. So equal rewards give advantages once the prompt has
    had others before.

    Args:
      rewards, mask, group_ids: see `advantages`.
      prompt_ids: [B] int32, -1 for an empty row.
      state: with this step's rewards.

    Returns:
      [B, T] float32.
    """
    centred, size = advantages.centre(rewards, group_ids)
    square = advantages.group_sum(jnp.square(centred), group_ids)
    now = _standard(centred, jnp.sqrt(square / jnp.maximum(size - 1, 1)))
    mean, std = state.mean[prompt_ids], state.std[prompt_ids]
    ever = _standard(rewards - mean, std)
    share = 1 / jnp.maximum(state.times[prompt_ids], 1)
    mixed = share * ever + (1 - share) * now, share * now + (1 - share) * ever
    smaller = jnp.where(jnp.abs(mixed[0]) < jnp.abs(mixed[1]), *mixed)
    return advantages.per_token(smaller, mask)


def _standard(centred: Array, std: Array) -> Array:
    """centred / std, 0 without a deviation."""
    return jnp.where(std > 0, centred / jnp.where(std > 0, std, 1), 0)


@stages.declare(options={"largest": Range(1, 1e6)})
def by_old_probability(
    old_logprobs: Array, *, low: float, high: float, largest: float = 10.0
) -> tuple[Array, Array]:
    """DCPO: improbable tokens have a wider range.

        1 - low_t  = (1 + sqrt(max(0, 1 - 4 low / p))) / 2
        1 + high_t = min((1 + sqrt(1 + 4 high / p)) / 2, largest)

    arXiv 2509.02333, Eq. (4): |r (r - 1)| p is at most low or high. For negative
    advantages `algo.clip.dual` is the bound that `largest` is for positive ones.

    Args:
      old_logprobs: [B, T] float32, nats, ln p.
      low, high: widths; of a token with p = 1 about those of the range.
      largest: bound of a ratio.

    Returns:
      (low, high), each [B, T] float32.
    """
    p = jnp.exp(jnp.maximum(old_logprobs, -80))
    least = (1 + jnp.sqrt(jnp.maximum(0, 1 - 4 * low / p))) / 2
    most = jnp.minimum((1 + jnp.sqrt(1 + 4 * high / p)) / 2, largest)
    return 1 - least, most - 1


STAGES = {
    "algo.advantage": {"dcpo": dcpo},
    "algo.clip_range": {"by_old_probability": by_old_probability},
}
METHODS = {
    "dcpo": row.Row(
        {
            **row.GRPO,
            "algo.advantage": {"name": "dcpo"},
            "algo.clip_range": {"name": "by_old_probability"},
            "algo.clip.high": 0.28,
            "algo.clip.dual": 10.0,
        },
        source="arXiv 2509.02333, by its published code",
        open="the widths: 0.2/0.28 as published code, 0.16/0.2 in the paper's appendix "
        "A.9, by algo.clip.low and algo.clip.high; the paper adds completions up, here "
        "their mean is taken, which scales the gradient",
    ),
}
