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


@stages.declare(
    by_rows=True, across_rows=False, options={"denominator": ("selected", "all")}
)
def forks(
    forks: Array, mask: Array, *, denominator: str = "selected"
) -> tuple[Array, Array]:
    """The oracle: the choices alone, by the labels of a task that has some.

    What a mask by entropy such as `forking` would be if entropy found the forks.

    Args:
      forks: [B, T] bool, the task's labels.
      mask: [B, T] bool.
      denominator: "selected", the mean over the choices; or "all" tokens.
    """
    kept = forks & mask
    return kept, kept if denominator == "selected" else mask


MASKS: dict[str, Callable[..., tuple[Array, Array]]] = {
    "all": all_tokens,
    "forks": forks,
}
