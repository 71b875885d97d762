"""What training changes, and how it lies on the mesh."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from hapo_jax.algo import entropy as entropy_lib
from hapo_jax.model import sharding

Array = jax.Array


class TrainState(NamedTuple):
    """What an update changes; all of it is in a checkpoint.

    Attributes:
      params: float32 master parameters, an `nnx.State`.
      opt_state: of optax, sharded like the parameters.
      stats: entropy statistics of the last batch, for its updates and the next rollout.
      skipped: int32 scalar, updates skipped in a row for non-finite gradients.
      skipped_total: int32 scalar, in the whole run.
    """

    params: nnx.State
    opt_state: optax.OptState
    stats: entropy_lib.EntropyStats
    skipped: Array
    skipped_total: Array


def init_state(
    params: nnx.State, optimizer: optax.GradientTransformation
) -> TrainState:
    """A TrainState at step 0 around given parameters."""
    return TrainState(
        params,
        optimizer.init(params),
        entropy_lib.initial_stats(),
        jnp.int32(0),
        jnp.int32(0),
    )


def not_finite(state: TrainState) -> list[str]:
    """Names of the parameters, moments and statistics that are not finite.

    The spread of the entropies may be infinite: there was none.
    """
    watched = {
        "params": state.params,
        "opt_state": state.opt_state,
        "stats": state.stats._replace(std=jnp.nan_to_num(state.stats.std, nan=jnp.nan)),
    }
    leaves = jax.tree_util.tree_leaves_with_path(watched)
    finite = jax.device_get(_all_finite([x for _, x in leaves]))
    return [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for (path, _), ok in zip(leaves, finite)
        if not ok
    ]


def largest(state: TrainState) -> float:
    """Of the parameters, in absolute value."""
    return float(_largest(jax.tree.leaves(state.params)))


@jax.jit
def _largest(leaves: list[Array]) -> Array:
    return jnp.stack([jnp.abs(x).max() for x in leaves]).max()


@jax.jit
def _all_finite(leaves: list[Array]) -> list[Array]:
    return [jnp.isfinite(x).all() for x in leaves]


def place(
    params: nnx.State, optimizer: optax.GradientTransformation, abstract: TrainState
) -> TrainState:
    """`init_state`, laid out as the shardings of `abstract` say; consumes `params`."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    init = jax.jit(
        lambda p: init_state(p, optimizer), out_shardings=shardings, donate_argnums=0
    )
    return init(params)


def state_shardings(
    abstract: TrainState, mesh: jax.sharding.Mesh, rules: sharding.Rules
) -> TrainState:
    """Shardings of a TrainState: moments like their parameters, scalars everywhere.

    Args:
      abstract: a TrainState of ShapeDtypeStructs, from `jax.eval_shape(init_state)`.
      mesh, rules: see `sharding.param_shardings`.
    """
    params = sharding.param_shardings(abstract.params, mesh, rules)
    whole = sharding.replicated(mesh)
    # Whatever optax keeps per parameter has the parameters' structure.
    opt_state = jax.tree.map(
        lambda node: params if isinstance(node, nnx.State) else whole,
        abstract.opt_state,
        is_leaf=lambda node: isinstance(node, nnx.State),
    )
    rest = jax.tree.map(lambda _: whole, abstract._replace(params=(), opt_state=()))
    return rest._replace(params=params, opt_state=opt_state)
