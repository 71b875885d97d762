"""The optimizer: AdamW behind a global-norm clip, with a warm-up."""

import optax


def make_optimizer(
    *,
    learning_rate: float,
    warmup_steps: int,
    decay_steps: int,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    max_grad_norm: float,
) -> optax.GradientTransformation:
    """AdamW as the paper's runs use it; weight decay applies to every parameter.

    Args:
      learning_rate: the peak.
      warmup_steps: optimizer updates of linear rise from 0; the first update already
        has 1/warmup_steps of the peak.
      decay_steps: updates of a cosine to zero behind the warm-up; 0 stays at the peak.
      b1, b2, eps: of Adam.
      weight_decay: decoupled.
      max_grad_norm: global norm above which gradients are scaled down.
    """
    return optax.chain(
        optax.clip_by_global_norm(max_grad_norm),
        optax.adamw(
            schedule(learning_rate, warmup_steps, decay_steps),
            b1=b1,
            b2=b2,
            eps=eps,
            weight_decay=weight_decay,
        ),
    )


def schedule(learning_rate: float, warmup_steps: int, decay_steps: int):
    """Updates done so far → learning rate of the next one."""
    start = learning_rate / max(warmup_steps, 1)
    rise = optax.linear_schedule(start, learning_rate, max(warmup_steps - 1, 1))
    hold = (
        optax.cosine_decay_schedule(learning_rate, decay_steps)
        if decay_steps
        else optax.constant_schedule(learning_rate)
    )
    return optax.join_schedules([rise, hold], [warmup_steps]) if warmup_steps else hold
