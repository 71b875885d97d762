"""Fills a training batch: dynamic sampling with carry-over.

A group whose completions are all right or all wrong has no advantage to learn from
(DAPO, §3.2). Such groups are replaced by those of further prompts; useful groups
beyond the batch wait for the next step.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from hapo_jax.rollout import batch as batch_lib
from hapo_jax.rollout import ledger
from hapo_jax.rollout.batch import RolloutBatch, TokenRecord
from hapo_jax.system.errors import Refused

# What `generate` sums over completions and metrics have the mean of.
_PER_COMPLETION = ("reward/", "rollout/unreadable", "correction/first_accuracy")


class StreamState(NamedTuple):
    """Where the run stands in its data; part of every checkpoint.

    Attributes:
      cursor: prompts taken from the stream so far.
      carried: useful groups that wait for the next step, or None.
      spent: up to here; None where checkpoints of an earlier version do not say.
      entropy: mean over the tokens of the last step that drew some, in nats; 0 before.
    """

    cursor: int = 0
    carried: RolloutBatch | None = None
    spent: ledger.Ledger | None = ledger.Ledger()
    entropy: float = 0.0

    def pay(
        self, metrics: Mapping[str, float]
    ) -> tuple["StreamState", dict[str, float]]:
        """After a step with these metrics: with what it cost, and the totals."""
        after = self._replace(entropy=metrics.get("entropy/mean", self.entropy))
        if self.spent is None:
            return after, {}
        spent = self.spent.plus(metrics)
        return after._replace(spent=spent), spent.metrics()

    def has_sampled(self, budget: int, more: float = 0) -> bool:
        """Whether the run has sampled that many tokens; never for a budget of 0.

        Args:
          budget: in tokens.
          more: tokens of the step that goes on, which are not paid yet.

        Raises:
          Refused: the run was begun before it was counted.
        """
        if budget and self.spent is None:
            raise Refused(
                f"max_sampled_tokens={budget} is no end for a run whose checkpoints do "
                "not say how much it has sampled; leave it at 0 and set num_steps."
            )
        return bool(budget) and self.spent.sampled_tokens + more >= budget

    def to_plain(self) -> dict:
        """Nested dicts of arrays and numbers, for a checkpoint."""
        carried = None
        if self.carried is not None:
            # Flat, as the checkpoints have it that were written before the record.
            carried = self.carried._asdict()
            carried |= carried.pop("record")._asdict()
        spent = self.spent and self.spent._asdict()
        return {
            "cursor": self.cursor,
            "carried": carried,
            "spent": spent,
            "entropy": self.entropy,
        }

    @classmethod
    def from_plain(cls, plain: dict) -> "StreamState":
        """The inverse of `to_plain`."""
        carried = plain["carried"]
        if carried is not None:
            none = np.zeros_like(carried["rewards"])
            # What checkpoints of earlier versions lack.
            lacking = {
                "baselines": none,
                "beside": none > 0,
                "given": np.zeros_like(carried["completion_mask"]),
                "forks": np.zeros_like(carried["completion_mask"]),
                "cut_logit": np.full(
                    carried["entropy"].shape, batch_lib.NO_CUT, np.float32
                ),
            }
            fields = {**lacking, **carried}
            record = {name: fields.pop(name) for name in TokenRecord._fields}
            carried = RolloutBatch(**fields, record=TokenRecord(**record))
        spent = plain.get("spent")
        return cls(
            cursor=int(plain["cursor"]),
            carried=carried,
            spent=spent and ledger.Ledger(**spent),
            entropy=float(plain.get("entropy", 0.0)),
        )


# (prompt_ids [N], first_sample [N]) -> graded completions, and metrics to be summed
GenerateFn = Callable[[np.ndarray, np.ndarray], tuple[RolloutBatch, dict[str, float]]]


def collect(
    state: StreamState,
    generate: GenerateFn,
    take: Callable[[int, int], np.ndarray],
    *,
    batch_prompts: int,
    round_prompts: int,
    group_size: int,
    dynamic_sampling: bool,
    max_rounds: int,
) -> tuple[RolloutBatch, StreamState, dict[str, float]]:
    """Collects `batch_prompts` groups to train on.

    Args:
      state: where the run stands.
      generate: samples and grades one round.
      take: (cursor, count) → prompt ids, see `prompts.take`.
      batch_prompts: groups in a batch.
      round_prompts: prompts sampled at a time.
      group_size: G.
      dynamic_sampling: leave out groups whose scores are all equal.
      max_rounds: after so many rounds train on what there is; empty rows fill the
        batch, so its shape stays.

    Returns:
      RolloutBatch of batch_prompts·G rows, the new state, and metrics: of everything
      sampled in this step (`rollout/…`), so that dynamic sampling does not hide how
      good the policy is, the means of the parts of their rewards (`reward/…`), the
      share without an answer (`rollout/unreadable`), and the sums of what else
      `generate` counted.
    """
    kept = [] if state.carried is None else [state.carried]
    num_groups = num_carried = sum(len(b.rewards) for b in kept) // group_size
    cursor, sampled, drawn = state.cursor, [], Counter()
    sums = Counter(dict.fromkeys(ledger.SAMPLED, 0))
    while num_groups < batch_prompts and len(sampled) < max_rounds:
        prompt_ids = take(cursor, round_prompts)
        cursor += round_prompts
        # A prompt may come twice in one step (a new epoch, a small data set); its
        # further completions get further sample ids, hence other random keys.
        first_sample = []
        for prompt in prompt_ids:
            first_sample.append(drawn[prompt] * group_size)
            drawn[prompt] += 1
        fresh, counted = generate(prompt_ids, np.array(first_sample))
        sums.update(counted)
        sampled.append(fresh)
        keep = _useful(fresh, group_size) if dynamic_sampling else slice(None)
        kept.append(batch_lib.rows(fresh, keep))
        num_groups = sum(len(b.rewards) for b in kept) // group_size

    pool = batch_lib.concatenate(kept)
    rows = batch_prompts * group_size
    batch = batch_lib.pad_rows(batch_lib.rows(pool, slice(rows)), rows)
    batch = batch_lib.number_groups(batch, group_size)
    surplus = batch_lib.rows(pool, slice(rows, None))
    carried = surplus if len(surplus.rewards) else None
    metrics = {
        "rollout/rounds": len(sampled),
        "rollout/groups_trained": min(num_groups, batch_prompts),
        "rollout/groups_from_last_step": min(num_carried, batch_prompts),
        "rollout/groups_carried": max(num_groups - batch_prompts, 0),
        **sums,
    }
    if sampled:
        metrics |= _describe(batch_lib.concatenate(sampled), group_size)
        for name in [name for name in sums if name.startswith(_PER_COMPLETION)]:
            metrics[name] = sums[name] / metrics["rollout/completions"]
    return batch, state._replace(cursor=cursor, carried=carried), metrics


def _useful(batch: RolloutBatch, group_size: int) -> np.ndarray:
    """[B] bool, rows of groups whose scores differ. The score decides, not the reward:
    a group that is all wrong is no more useful for a length penalty in it."""
    scores = batch.scores.reshape(-1, group_size)
    mixed = (scores.max(1) != scores.min(1)) | (group_size == 1)
    return np.repeat(mixed, group_size)


def _std(values: np.ndarray) -> float:
    """Standard deviation; 0 of equal values, whatever their mean is rounded to."""
    return float(values.std()) if values.max() > values.min() else 0.0


def _describe(batch: RolloutBatch, group_size: int) -> dict[str, float]:
    """Metrics of completions; entropy in nats, lengths in tokens."""
    lengths = batch.lengths
    drawn = batch.completion_mask & ~batch.given
    scores = batch.scores.reshape(-1, group_size)
    temperature, entropy = batch.record.temperature[drawn], batch.record.entropy[drawn]
    found = {
        "rollout/completions": len(lengths),
        "rollout/accuracy": float(batch.scores.mean()),
        "rollout/reward": float(batch.rewards.mean()),
        "rollout/reward_std": _std(batch.rewards),
        "rollout/all_right": float((scores.min(1) == 1).mean()),
        "rollout/all_wrong": float((scores.max(1) == 0).mean()),
        "rollout/truncated": float(batch.truncated.mean()),
        "length/mean": float(lengths.mean()),
        "length/max": int(lengths.max()),
    }
    if not len(entropy):
        return found
    return found | {
        "entropy/mean": float(entropy.mean()),
        "temperature/mean": float(temperature.mean()),
        "temperature/min": float(temperature.min()),
        "temperature/max": float(temperature.max()),
    }
