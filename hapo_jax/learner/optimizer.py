"""The optimizer: AdamW behind a global-norm clip, and its learning rate over a run."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

SCHEDULES = ("constant", "cosine", "linear")


class Optimizer(NamedTuple):
    """An `optax.GradientTransformation` that can say how fast it learns.

    Attributes:
      init, update: as optax has them.
      learning_rate: (state) -> float32 scalar, the rate of the next update.
    """

    init: Callable
    update: Callable
    learning_rate: Callable


def make_optimizer(
    learning_rate: Callable,
    *,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    max_grad_norm: float,
) -> Optimizer:
    """AdamW as the paper's runs use it; weight decay applies to every parameter.

    Args:
      learning_rate: updates done so far → rate of the next one, see `schedule`.
      b1, b2, eps: of Adam.
      weight_decay: decoupled, times the learning rate.
      max_grad_norm: global norm of an update's gradient above which it is scaled down.
    """
    chain = optax.chain(
        optax.clip_by_global_norm(max_grad_norm),
        optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay),
    )
    return Optimizer(
        init=chain.init,
        update=chain.update,
        learning_rate=lambda state: learning_rate(_updates_done(state)),
    )


def schedule(
    peak: float,
    *,
    warmup_updates: int,
    decay: str,
    decay_updates: int,
    final_share: float,
) -> Callable:
    """Updates done so far → learning rate of the next one.

    Args:
      peak: the largest rate.
      warmup_updates: of a linear rise; the first has 1/warmup_updates of the peak.
      decay: one of `SCHEDULES`, behind the rise.
      decay_updates: of the fall from the peak; not read for "constant".
      final_share: of the peak, at the end of the fall and from there on.
    """
    fall = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(
            peak, max(decay_updates, 1), alpha=final_share
        ),
        "linear": lambda: optax.linear_schedule(
            peak, peak * final_share, max(decay_updates, 1)
        ),
    }[decay]()
    if not warmup_updates:
        return fall
    rise = optax.linear_schedule(
        peak / warmup_updates, peak, max(warmup_updates - 1, 1)
    )
    return optax.join_schedules([rise, fall], [warmup_updates])


def _updates_done(state: optax.OptState) -> jax.Array:
    """int32 scalar: the count that the learning rate goes by."""

    def counts(node):
        return isinstance(node, optax.ScaleByScheduleState)

    nodes = jax.tree.leaves(state, is_leaf=counts)
    (found,) = [node for node in nodes if counts(node)]
    return found.count
