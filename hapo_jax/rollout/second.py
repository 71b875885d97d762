"""A second rollout of some of a step's prompts, hotter or cooler: AEPO.

    T' = high if H <= target else low          H: mean entropy, nats, of the last step
    kept: completions with (R - mean_G) / std_G > least_advantage, the first of them
    loss += Σ -log π over the tokens of the kept / denominator of the batch

arXiv 2510.08141 and its code (597358816/AEPO). There the kept take the places of the
batch's first completions, whatever those are; here they are added to it, with the same
weight: s completions beside B, which the loss divides by the tokens of the B.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from hapo_jax.rollout import batch as batch_lib
from hapo_jax.rollout.batch import RolloutBatch

_EPSILON = 1e-6  # beside the deviation of a group, as in `algo.advantages`


class Second(NamedTuple):
    """Attributes:
    share: of the batch's prompts, the first ones; 0 for no second rollout.
    entropy_target: nats per token; at or below it the policy is too certain.
    high_temperature, low_temperature: of the second rollout then, and above it.
    most_rows: completions that are kept; half of it above the target.
    least_advantage: below or at which a completion is not kept.
    """

    share: float
    entropy_target: float
    high_temperature: float
    low_temperature: float
    most_rows: int
    least_advantage: float


def num_prompts(second: Second, batch_prompts: int) -> int:
    """Prompts of a batch that are drawn again; at least one."""
    return max(1, int(second.share * batch_prompts))


def places(
    second: Second,
    *,
    batch_prompts: int,
    group_size: int,
    num_minibatches: int,
    multiple: int,
) -> int:
    """Rows per mini-batch that are kept free for a second rollout.

    Args:
      second: settings.
      batch_prompts, group_size, num_minibatches: of a batch.
      multiple: of which the number is one; devices that share rows.
    """
    if not second.share:
        return 0
    drawn = num_prompts(second, batch_prompts) * group_size
    most = -(-min(second.most_rows, drawn) // num_minibatches)
    return -(-most // multiple) * multiple


def extend(
    second: Second,
    batch: RolloutBatch,
    metrics: Mapping[str, float],
    draw: Callable[..., tuple[RolloutBatch, dict[str, float]]],
    *,
    entropy: float,
    group_size: int,
    num_minibatches: int,
    free: int,
    first_sample: int,
) -> tuple[RolloutBatch, dict[str, float]]:
    """The batch with the second rollout's kept completions behind each mini-batch.

    Args:
      second: settings.
      batch: N·G rows.
      metrics: of the step.
      draw: (temperature, prompt ids [n], first sample ids [n]) -> graded completions
        in groups, and counts.
      entropy: of the last step, nats per token; 0 before the first.
      group_size: G.
      num_minibatches: of the batch; they share the kept completions evenly.
      free: see `places`.
      first_sample: id of a prompt's first completion; the step has given none above.

    Returns:
      The batch with `free` more rows for each mini-batch, empty where none was kept;
      and the metrics with `second/…`, and with what this has cost.
    """
    certain = entropy <= second.entropy_target
    temperature = second.high_temperature if certain else second.low_temperature
    heads = batch.prompt_ids[::group_size]
    chosen = heads[: num_prompts(second, len(heads))]
    found = {**metrics, "second/temperature": temperature}
    extra = batch_lib.rows(batch, slice(0))
    if len(chosen := chosen[chosen >= 0]):  # -1 marks an empty group
        drawn, counts = draw(temperature, chosen, np.full(len(chosen), first_sample))
        kept = _kept(drawn.rewards, group_size, second.least_advantage)
        most = min(second.most_rows, len(kept))
        extra = batch_lib.rows(drawn, kept[: most if certain else most // 2])
        for key, value in counts.items():
            if key.startswith(("ledger/", "time/", "grading/")):
                found[key] = found.get(key, 0) + value
        found["second/accuracy"] = float(drawn.scores.mean())
    found["second/kept"] = len(extra.rewards)
    return batch_lib.behind_minibatches(batch, extra, num_minibatches, free), found


def _kept(rewards: np.ndarray, group_size: int, least: float) -> np.ndarray:
    """Indices of completions that are better than their group by more than `least`."""
    groups = rewards.reshape(-1, group_size)
    centred = groups - groups.mean(1, keepdims=True)
    std = groups.std(1, keepdims=True, ddof=min(1, group_size - 1))
    return np.flatnonzero(centred / (std + _EPSILON) > least)
