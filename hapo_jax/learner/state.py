"""What training changes, and how it lies on the mesh."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from hapo_jax.algo.method import Method
from hapo_jax.learner import value_head
from hapo_jax.model import sharding
from hapo_jax.model.policy import Policy

Array = jax.Array


class TrainState(NamedTuple):
    """What an update changes; all but `frozen` is in a checkpoint.

    Attributes:
      trainable: float32 master parameters, an `nnx.State`: of the policy, and of a
        critic beside it if the method has one, see `value_head.py`.
      frozen: the policy's other parameters, an `nnx.State`; empty if all are trained.
      opt_state: of optax, sharded like the trainable parameters.
      method_state: of the method, see `Method.init_state`: statistics of the last
        batch's entropies, for its updates and the next rollout, and what stages keep.
      skipped: int32 scalar, updates skipped in a row for non-finite gradients.
      skipped_total: int32 scalar, in the whole run.
    """

    trainable: nnx.State
    frozen: nnx.State
    opt_state: optax.OptState
    method_state: Any
    skipped: Array
    skipped_total: Array

    @property
    def params(self) -> nnx.State:
        """All parameters of the policy, as the model takes them."""
        return merge(self.frozen, value_head.split(self.trainable)[0])

    @property
    def critic(self) -> nnx.State | None:
        """The value head."""
        return value_head.split(self.trainable)[1]


def merge(frozen: nnx.State, trainable: nnx.State) -> nnx.State:
    """All parameters of a policy from both of its parts."""
    return nnx.merge_state(frozen, trainable) if frozen else trainable


def init_state(
    params: nnx.State,
    optimizer: optax.GradientTransformation,
    method: Method,
    frozen: nnx.State | None = None,
) -> TrainState:
    """A TrainState at step 0 around given parameters, which are trained."""
    frozen = nnx.State({}) if frozen is None else frozen
    critic = None
    if method.has_critic:
        d_model = merge(frozen, params)["embedding"].get_value().shape[-1]
        critic = value_head.init(d_model)
    trainable = value_head.join(params, critic)
    return TrainState(
        trainable=trainable,
        frozen=frozen,
        opt_state=optimizer.init(trainable),
        method_state=method.init_state(),
        skipped=jnp.int32(0),
        skipped_total=jnp.int32(0),
    )


def not_finite(state: TrainState) -> list[str]:
    """Names of the parameters, moments and statistics that are not finite.

    The spread of the entropies may be infinite: there was none.
    """
    stats = state.method_state["entropy"]
    stats = stats._replace(std=jnp.nan_to_num(stats.std, nan=jnp.nan))
    watched = {
        "params": state.trainable,
        "opt_state": state.opt_state,
        "method_state": {**state.method_state, "entropy": stats},
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
    return float(_largest(jax.tree.leaves(state.trainable)))


@jax.jit
def _largest(leaves: list[Array]) -> Array:
    return jnp.stack([jnp.abs(x).max() for x in leaves]).max()


@jax.jit
def _all_finite(leaves: list[Array]) -> list[Array]:
    return [jnp.isfinite(x).all() for x in leaves]


def abstract(
    policy: Policy, optimizer: optax.GradientTransformation, method: Method
) -> TrainState:
    """A TrainState of ShapeDtypeStructs with shardings, to restore into."""
    found = jax.eval_shape(
        lambda params: init_state(params, optimizer, method), policy.abstract_params
    )
    shardings = state_shardings(found, policy.mesh, sharding.TRAIN_RULES)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        found,
        shardings,
    )


def place(
    params: nnx.State,
    optimizer: optax.GradientTransformation,
    method: Method,
    abstract: TrainState,
) -> TrainState:
    """`init_state`, laid out as the shardings of `abstract` say; consumes `params`."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    init = jax.jit(
        lambda p: init_state(p, optimizer, method),
        out_shardings=shardings,
        donate_argnums=0,
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
    params = sharding.param_shardings(abstract.trainable, mesh, rules)
    frozen = sharding.param_shardings(abstract.frozen, mesh, rules)
    whole = sharding.replicated(mesh)
    # Whatever optax keeps per parameter has the parameters' structure.
    opt_state = jax.tree.map(
        lambda node: params if isinstance(node, nnx.State) else whole,
        abstract.opt_state,
        is_leaf=lambda node: isinstance(node, nnx.State),
    )
    rest = abstract._replace(trainable=(), frozen=(), opt_state=())
    rest = jax.tree.map(lambda _: whole, rest)
    return rest._replace(trainable=params, frozen=frozen, opt_state=opt_state)


# Of the arrays of a TrainState in a checkpoint: runs of earlier versions have them so.
def to_saved(state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds of a state, by the names that it has there."""
    own = dict(state.method_state)
    policy, critic = value_head.split(state.trainable)
    saved = {
        "params": policy,
        "opt_state": state.opt_state,
        "stats": own.pop("entropy"),
        "skipped": state.skipped,
        "skipped_total": state.skipped_total,
    }
    saved |= {"method_state": own} if own else {}
    return saved if critic is None else {**saved, "critic": critic}


def from_saved(saved: dict[str, Any], frozen: nnx.State) -> TrainState:
    """The state that a checkpoint holds, and the parameters that are not in it."""
    return TrainState(
        trainable=value_head.join(saved["params"], saved.get("critic")),
        frozen=frozen,
        opt_state=saved["opt_state"],
        method_state={"entropy": saved["stats"], **saved.get("method_state", {})},
        skipped=saved["skipped"],
        skipped_total=saved["skipped_total"],
    )
