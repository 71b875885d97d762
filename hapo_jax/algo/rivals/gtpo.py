"""GTPO and GRPO-S: rewards by the entropies of a group, per token or completion."""

import jax
import jax.numpy as jnp

from hapo_jax.algo import advantages, losses, masked, row, stages
from hapo_jax.algo.ranges import Range

Array = jax.Array


_declare = stages.declare(
    by_rows=True,
    options={
        "outcome": Range(0, 1_000),
        "entropy_bonus": Range(0, 1_000),
        "norm_set": ("group", "polarity"),
    },
)


@_declare
def gtpo(
    scores: Array,
    old_entropy: Array,
    mask: Array,
    group_ids: Array,
    *,
    outcome: float = 1.0,
    entropy_bonus: float = 0.1,
    norm_set: str = "group",
) -> Array:
    """GTPO: rewards per token, by the entropies of the group at the same position.

    arXiv 2508.04349, Eq. (3) to (7), see `gtpo_rewards`, and then normalised to mean 0
    and deviation 1 over tokens. The paper leaves open over which: with "polarity" only
    those of right, or of wrong, completions, and then the sign of the outcome is lost.

    Args:
      scores, old_entropy, mask, group_ids: see the module; entropies in nats.
      outcome, entropy_bonus: alpha_1 and alpha_2 of the paper.
      norm_set: "group", all tokens of the group, or "polarity".

    Returns:
      [B, T] float32; 0 for a group that is all right or all wrong.
    """
    weights = {"outcome": outcome, "entropy_bonus": entropy_bonus}
    shaped = gtpo_rewards(scores, old_entropy, mask, group_ids, **weights)
    return _normalised(shaped, scores, mask, group_ids, norm_set)


@_declare
def grpo_s(
    scores: Array,
    old_entropy: Array,
    mask: Array,
    group_ids: Array,
    *,
    outcome: float = 1.0,
    entropy_bonus: float = 0.1,
    norm_set: str = "group",
) -> Array:
    """GRPO-S: rewards per completion, by the mean entropies of those of the group.

    arXiv 2508.04349, Eq. (8) and (9), see `grpo_s_rewards`, and then normalised over
    the completions of the group.

    Args:
      scores, old_entropy, mask, group_ids: see the module; entropies in nats.
      outcome, entropy_bonus: beta_1 and beta_2 of the paper.
      norm_set: as in `gtpo`, with completions in place of tokens.

    Returns:
      [B, T] float32; 0 for a group that is all right or all wrong.
    """
    weights = {"outcome": outcome, "entropy_bonus": entropy_bonus}
    shaped = grpo_s_rewards(scores, old_entropy, mask, group_ids, **weights)
    filled = jnp.any(mask, axis=1, keepdims=True)
    whole = _normalised(shaped[:, None], scores, filled, group_ids, norm_set)
    return jnp.where(mask, whole, 0)


def _normalised(shaped, scores, mask, group_ids, norm_set) -> Array:
    """[B, X] numbers under a mask to mean 0 and deviation 1 over the set of each."""
    right = scores > 0.5
    ids = group_ids if norm_set == "group" else group_ids * 2 + right
    size = 2 * len(scores)

    def mean(x):
        """[B, 1], over the set that each row belongs to."""
        total = jax.ops.segment_sum(masked.sum(x, mask, axis=1), ids, size)
        count = jax.ops.segment_sum(masked.count(mask, axis=1), ids, size)
        return (total / jnp.maximum(count, 1))[ids][:, None]

    centred = shaped - mean(shaped)
    std = jnp.sqrt(mean(jnp.square(centred)))
    share = advantages.group_mean(
        right.astype(jnp.float32), group_ids, jnp.ones_like(scores)
    )
    mixed = (share > 0) & (share < 1)
    return jnp.where(mask & mixed[:, None], centred / (std + advantages.STD_EPSILON), 0)


def gtpo_rewards(
    scores: Array,
    old_entropy: Array,
    mask: Array,
    group_ids: Array,
    *,
    outcome: float,
    entropy_bonus: float,
) -> Array:
    """The token rewards of `gtpo` before they are normalised, [B, T] float32.

        right:   outcome + entropy_bonus * n_t * H   / sum of H   over the right
        wrong:  -outcome - entropy_bonus * n_t * 1/H / sum of 1/H over the wrong

    sums and the number n_t are over the completions of the group, right or wrong as
    the token's own, that are at least t long.
    """
    right = scores > 0.5
    nats = jnp.where(mask, old_entropy, 0)
    measure = jnp.where(right[:, None], nats, 1 / (nats + masked.EPSILON))
    measure = jnp.where(mask, measure, 0)
    ids = group_ids * 2 + right

    def alike(x):
        """[B, T], summed over completions of the group with the same outcome."""
        return jax.ops.segment_sum(x, ids, 2 * len(scores))[ids]

    share = measure / (alike(measure) + masked.EPSILON)
    value = outcome + entropy_bonus * share * alike(mask.astype(jnp.float32))
    return jnp.where(mask, jnp.where(right[:, None], value, -value), 0)


def grpo_s_rewards(
    scores: Array,
    old_entropy: Array,
    mask: Array,
    group_ids: Array,
    *,
    outcome: float,
    entropy_bonus: float,
) -> Array:
    """The rewards of `grpo_s` before they are normalised, [B] float32.

    Those of `gtpo_rewards` for completions of one token that has their mean entropy; a
    completion without tokens has 0 and is not counted.
    """
    shaped = gtpo_rewards(
        scores,
        masked.mean(old_entropy, mask, axis=1)[:, None],
        jnp.any(mask, axis=1, keepdims=True),
        group_ids,
        outcome=outcome,
        entropy_bonus=entropy_bonus,
    )
    return shaped[:, 0]


@stages.declare(by_rows=True, across_rows=False)
def mean_ratio(
    logprobs: Array, old_logprobs: Array, mask: Array, *, limit: float
) -> Array:
    """The arithmetic mean of a completion's token ratios, at each of its tokens.

    arXiv 2508.04349, the ratio of GRPO-S. GSPO's is the geometric mean.

    Args:
      logprobs, old_logprobs: [B, T] float32, nats; the first is differentiable.
      mask: [B, T] bool.
      limit: of a token's log-ratio, as in `losses.importance_ratio`.
    """
    ratio = losses.importance_ratio(logprobs, old_logprobs, limit=limit)
    # 1 where there are no tokens.
    mean = masked.mean(ratio - 1, mask, axis=1)[:, None] + 1
    return jnp.broadcast_to(mean, mask.shape)


STAGES = {
    "algo.advantage": {"gtpo": gtpo, "grpo_s": grpo_s},
    "algo.ratio": {"mean": mean_ratio},
}
METHODS = {
    "gtpo": row.Row(
        {**row.DAPO, "algo.advantage": {"name": "gtpo"}},
        source="arXiv 2508.04349, Eq. (3) to (7)",
        open="over which tokens rewards are normalised: algo.advantage.norm_set",
    ),
    "grpo_s": row.Row(
        {
            **row.DAPO,
            "algo.advantage": {"name": "grpo_s"},
            "algo.ratio": {"name": "mean"},
            "algo.aggregation": {"name": "seq_mean_token_mean"},
        },
        source="arXiv 2508.04349, Eq. (8) and (9)",
        open="over which completions rewards are normalised: algo.advantage.norm_set",
    ),
}
