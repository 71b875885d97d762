"""From packed tokens to the states that predict the targets, and to their scores.

Every pass of the learner over a batch (old log-probs, reference, gradient, SFT) goes
through `states`, so their numbers can be compared with each other and with the
sampler's.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from hapo_jax.learner import head, value_head
from hapo_jax.learner.packing import Packed

Array = jax.Array


def micro_batch(packed: Packed, k: Array) -> Packed:
    """Micro-batch k of M: fields [m, W], [S, N] and [S]."""
    arrays = packed._replace(num_micros=None)
    return jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, k, keepdims=False), arrays
    )


def states(model: nnx.Module, micro: Packed, *, branches: bool, remat: str) -> Array:
    """Hidden states that predict the targets of a micro-batch, [S, N, D].

    Args:
      model: a `transformer.Transformer`.
      micro: of `micro_batch`.
      branches: sequences may share prompts.
      remat: see `transformer.REMATS`.
    """
    hidden = model(
        micro.tokens,
        micro.positions,
        micro.segment_ids,
        micro.branch_ids if branches else None,
        remat=remat,
    )
    S = micro.targets.shape[0]
    m, W, D = hidden.shape
    places = micro.places.reshape(S, m // S * W)
    return _pick(hidden.reshape(S, m // S * W, D), micro.sources, places)


def score(
    model: nnx.Module,
    packed: Packed,
    *,
    branches: bool,
    outputs: frozenset[str] = head.ENTROPY,
    critic: nnx.State | None = None,
    **options,
) -> head.Scores:
    """Scores of all targets, [M, S, N], without gradients.

    Args:
      model, branches: as in `states`.
      packed: M micro-batches, of which the first `num_micros` are computed.
      critic: a value head, whose values are then among the scores.
      outputs, **options: as in `head.scores`.
    """
    weight = model.unembedding().astype(model.dtype)

    def one(k, out):
        micro = micro_batch(packed, k)
        hidden = states(model, micro, branches=branches, remat="none")
        part = head.scores(
            hidden,
            weight,
            micro.targets,
            micro.counts,
            drawn=micro.drawn,
            outputs=outputs,
            unused_ids=model.config.unused_ids,
            **options,
        )
        if critic is not None:
            part = part._replace(values=value_head.values(critic, hidden))
        return jax.tree.map(
            lambda x, y: jax.lax.dynamic_update_index_in_dim(x, y, k, 0), out, part
        )

    empty = jnp.zeros(packed.targets.shape, jnp.float32)
    start = head.Scores.each(empty, outputs)
    if critic is not None:
        start = start._replace(values=empty)
    return jax.lax.fori_loop(0, packed.num_micros, one, start)


@jax.custom_vjp
def _pick(hidden: Array, sources: Array, places: Array) -> Array:
    """[S, columns, D] → [S, N, D]. A state predicts one target at most, so that the
    gradient is a lookup too, by `places`, and not a sum over scattered rows."""
    return jnp.take_along_axis(hidden, sources[..., None], axis=1)


def _pick_forward(hidden, sources, places):
    return _pick(hidden, sources, places), places


def _pick_backward(places, gradient):
    found = jnp.take_along_axis(
        gradient, places[..., None], axis=1, mode="fill", fill_value=0
    )
    return found, None, None


_pick.defvjp(_pick_forward, _pick_backward)
