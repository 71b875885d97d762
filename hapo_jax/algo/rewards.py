"""Changes to rewards before advantages: the soft overlong penalty."""

import jax
import jax.numpy as jnp

Array = jax.Array


def overlong_penalty(
    lengths: Array, *, max_tokens: int, buffer_tokens: int, factor: float
) -> Array:
    """Soft overlong punishment, to be added to the reward.

        -factor * clip((length - (max_tokens - buffer_tokens)) / buffer_tokens, 0, 1)

    arXiv 2503.14476 (DAPO), Eq. (13): 0 up to the buffer, then linear, -factor at the
    longest completion.

    Args:
      lengths: [B] int32, completion lengths in tokens, stop token included.
      max_tokens: longest completion, tokens.
      buffer_tokens: length of the linear part, tokens, in [1, max_tokens].
      factor: penalty at max_tokens, in units of reward, >= 0.

    Returns:
      [B] float32 in [-factor, 0].
    """
    if not 1 <= buffer_tokens <= max_tokens:
        raise ValueError(
            f"{buffer_tokens=} must be in [1, max_tokens={max_tokens}]; for no penalty "
            "set the factor to 0."
        )
    over = (lengths - (max_tokens - buffer_tokens)) / buffer_tokens
    return -factor * jnp.clip(over, 0, 1).astype(jnp.float32)
