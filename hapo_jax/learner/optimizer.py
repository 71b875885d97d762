"""The optimizer behind a global-norm clip, and its learning rate over a run.

    u_t = direction of the gradient, as the optimizer's name says
    θ  ← θ - rate * (u_t + weight_decay * θ)

    adam                u_t = m̂_t / (√v̂_t + eps) = a_t
    optimistic_adam     u_t = 2 a_t - a_{t-1}
    optimistic_adagrad  u_t = 2 d_t - d_{t-1},   d_t = g_t / √(Σ_{s≤t} g_s² + eps²)

Optimism takes the last direction as a guess of the next one. In the first update, which
has no last one, u is a or d itself. Optimistic Adam is arXiv 1711.00141, Algorithm 1;
optimistic AdaGrad is the same step around AdaGrad's direction.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

SCHEDULES = ("constant", "cosine", "linear")
OPTIMIZERS = ("adam", "optimistic_adam", "optimistic_adagrad")


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
    name: str = "adam",
) -> Optimizer:
    """The optimizer of a name; weight decay applies to every parameter.

    Args:
      learning_rate: updates done so far → rate of the next one, see `schedule`.
      b1, b2: of Adam; AdaGrad has none.
      eps: least size of the root that divides.
      weight_decay: decoupled, times the learning rate.
      max_grad_norm: global norm of an update's gradient above which it is scaled down.
      name: one of `OPTIMIZERS`.
    """
    adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)
    # Squared, since optax adds it below the root.
    adagrad = optax.scale_by_rss(initial_accumulator_value=0.0, eps=eps**2)
    optimistic = optax.scale_by_optimistic_gradient
    direction = {
        "adam": lambda: adam,
        "optimistic_adam": lambda: optax.chain(adam, optimistic()),
        "optimistic_adagrad": lambda: optax.chain(adagrad, optimistic()),
    }[name]()
    # Two chains, as checkpoints of earlier versions have the state.
    chain = optax.chain(
        optax.clip_by_global_norm(max_grad_norm),
        optax.chain(
            direction,
            optax.add_decayed_weights(weight_decay),
            optax.scale_by_learning_rate(learning_rate),
        ),
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
