"""The value head: a number per token from the state that predicts it.

It is trained with the policy and no part of it: neither the sampler nor an export has
it. In a TrainState it is one more branch of what is trained.
"""

import jax
import jax.numpy as jnp
from flax import nnx

Array = jax.Array

_NAME = "value_head"


def init(d_model: int) -> nnx.State:
    """A head that gives 0 everywhere, float32."""
    weight = nnx.Param(jnp.zeros(d_model, jnp.float32), axes=("embed",))
    bias = nnx.Param(jnp.zeros((), jnp.float32), axes=())
    return nnx.State({_NAME: {"weight": weight, "bias": bias}})


def split(trainable: nnx.State) -> tuple[nnx.State, nnx.State | None]:
    """(the policy's part, the head or None) of what is trained."""
    if _NAME not in trainable:
        return trainable, None
    return nnx.split_state(trainable, lambda path, _: path[0] != _NAME, ...)


def join(policy: nnx.State, head: nnx.State | None) -> nnx.State:
    """The inverse of `split`."""
    return policy if head is None else nnx.merge_state(policy, head)


def values(head: nnx.State, hidden: Array) -> Array:
    """[..., D] states → [...] float32 values. In float32 whatever layers compute in:
    values differ by less than bfloat16 resolves."""
    weight, bias = head[_NAME]["weight"].get_value(), head[_NAME]["bias"].get_value()
    return jnp.einsum("...D,D->...", hidden.astype(jnp.float32), weight) + bias
