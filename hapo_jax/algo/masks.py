"""Which tokens of a completion the loss is of: (kept, counted), bool [B, T] each.

A token that is not kept has no policy loss; one that is not counted leaves the
denominator and has no regulariser.
"""

from collections.abc import Callable

import jax

from hapo_jax.algo import stages

Array = jax.Array


@stages.declare()
def all_tokens(mask: Array) -> tuple[Array, Array]:
    """Every token of the completion."""
    return mask, mask


MASKS: dict[str, Callable[..., tuple[Array, Array]]] = {
    "all": all_tokens,
}
