"""How arrays lie on the mesh: the mesh, one table of rules, and shardings from them.

Parameters carry the names of their axes (`transformer.py`); the tables below map a
name to a mesh axis. Changing how a model is parallelised is an edit of a table.

  data    copies of the model; the batch is split
  fsdp    the batch is split, and so are parameters and optimizer state
  tensor  heads, feed-forward and vocabulary are split

For who knows PPO and not JAX: programs are written as if for one device. An array's
*sharding* says which part of it each device holds, and the compiler splits the work
accordingly and puts in what must be sent. `P("tensor", None)` splits an array's first
axis over the mesh axis `tensor`, and leaves its second whole.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from hapo_jax.system.errors import Refused

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")  # one axis of an array may be split over two of the mesh

Rules = Mapping[str, str | None]

# Training: fully sharded parameters.
TRAIN_RULES: Rules = {
    "layers": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
}
# Sampling: a decode step reads every weight, so gathering them over `fsdp` at each
# step would cost more than the step; they are copied once per rollout instead.
SAMPLE_RULES: Rules = {**TRAIN_RULES, "embed": None}


def make_mesh(*, data: int = -1, fsdp: int = 1, tensor: int = 1, devices=None) -> Mesh:
    """A `data × fsdp × tensor` mesh over `devices` (default: all).

    Args:
      data, fsdp, tensor: sizes; at most one may be -1, "all that are left".
      devices: the devices to use, or None for all of them.

    Raises:
      Refused: the sizes do not multiply to the number of devices, or parameters
        would be split over slices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    free = [name for name, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise Refused(f"mesh={sizes}: every size must be positive and at most one -1.")
    if free and len(devices) % fixed == 0:
        sizes[free[0]] = len(devices) // fixed
    if math.prod(sizes.values()) != len(devices):
        # Negative where the size that is left could not be worked out.
        raise Refused(
            f"mesh={sizes} needs {abs(math.prod(sizes.values()))} devices, not "
            f"{len(devices)}; set one of mesh.data, mesh.fsdp, mesh.tensor to -1."
        )
    grid = device_grid(devices, **sizes)
    # Auto: the compiler decides how arrays between arguments and results lie. Where it
    # decides badly, the `constrain_` functions below overrule it.
    return Mesh(grid, AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES))


def device_grid(devices: list, *, data: int, fsdp: int, tensor: int) -> np.ndarray:
    """[data, fsdp, tensor] devices: slices along `data`, hosts before their devices.

    Between slices there is only the data centre's network, which carries gradients
    once a step but not parameters at every layer. `tensor` comes last, so that its
    rows stay within a host, where a decode step needs them. (`mesh_utils` follows the
    torus instead, and its rows may leave a host.)

    Raises:
      Refused: `data` does not count whole slices.
    """

    def slice_of(device) -> int:
        # GPUs have one, too, for each host; their hosts are joined by a fast network.
        tpu = device.platform == "tpu"
        return getattr(device, "slice_index", 0) if tpu else 0

    slices = len({slice_of(d) for d in devices})
    if data % slices:
        raise Refused(
            f"mesh.data={data} must be a multiple of the {slices} slices, between "
            "which parameters are not split; set it, and mesh.fsdp to -1."
        )
    order = sorted(devices, key=lambda d: (slice_of(d), d.process_index, d.id))
    return np.asarray(order).reshape(data, fsdp, tensor)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh, *, leading: int = 0) -> NamedSharding:
    """Rows split over data and fsdp, behind `leading` unsplit axes."""
    return NamedSharding(mesh, P(*(None,) * leading, BATCH))


def cache_sharding(mesh: Mesh) -> NamedSharding:
    """Keys and values [B, K, …]: rows like a batch, heads like the parameters'."""
    return NamedSharding(mesh, P(BATCH, TRAIN_RULES["kv_heads"]))


def of_axes(mesh: Mesh, rules: Rules, *names: str | None) -> NamedSharding:
    """The sharding of an array whose axes have these names; the rest is whole."""
    return NamedSharding(mesh, P(*(name and rules[name] for name in names)))


def attention_specs() -> tuple[P, P]:
    """Specs of queries, keys and values [B, T, heads, C], and of [B, T]."""
    return P(BATCH, None, TRAIN_RULES["heads"]), P(BATCH)


def constrain_batch(x: jax.Array) -> jax.Array:
    """Keeps activations [B, ...] split by rows, where a mesh is in scope.

    Without this, XLA may follow the embedding's `fsdp` axis and split channels.
    """
    mesh = jax.sharding.get_abstract_mesh()
    # A batch that does not divide, such as one row in a test, is left as it is.
    if mesh.empty or x.shape[0] % math.prod(mesh.shape[a] for a in BATCH):
        return x
    return jax.lax.with_sharding_constraint(x, P(BATCH))


def constrain_vocab(x: jax.Array, *, axis: int) -> jax.Array:
    """Keeps [B, …] split by rows, and its axis of V like the unembedding's."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or x.shape[0] % math.prod(mesh.shape[a] for a in BATCH):
        return x
    spec = [BATCH] + [None] * (x.ndim - 1)
    spec[axis] = TRAIN_RULES["vocab"]
    return jax.lax.with_sharding_constraint(x, P(*spec))


def sum_shards(x: jax.Array) -> jax.Array:
    """[S, D, V] → [V, D], the sum over shards, laid out like an unembedding.

    Every device receives the share that it keeps. Left to itself, XLA would add up the
    whole on every device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or x.shape[0] % math.prod(mesh.shape[a] for a in BATCH):
        return x.sum(0).T
    vocab, embed = TRAIN_RULES["vocab"], TRAIN_RULES["embed"]
    # In a `shard_map` the code is of one device: `x` is its part, and what is summed
    # over devices is written down. Words are split over `tensor`, where nothing is
    # summed: each device there has other words.
    return jax.shard_map(
        lambda x: _own_channels(x.sum(0).T),
        in_specs=P(BATCH, None, vocab),
        out_specs=P(vocab, embed),
    )(x)


# Rows of an array that a TPU moves together.
_TILE_ROWS = 128


def _own_channels(table: jax.Array) -> jax.Array:
    """[rows, D] on each device → its channels of the sum over the batch.

    Summed in shares of rows, which then change places with shares of channels: a TPU
    exchanges whole tiles, and few channels are not a tile's width. Cut by channels, the
    sum would be made as an all-reduce, twice the bytes.
    """
    rows, embed = len(table), TRAIN_RULES["embed"]
    shares = jax.lax.axis_size(embed)
    if shares > 1:
        # Over `fsdp` in two moves. First each device gets the sum of its share of rows,
        # all channels of it; then rows change places with channels.
        table = jnp.pad(table, [(0, -rows % (_TILE_ROWS * shares)), (0, 0)])
        table = jax.lax.psum_scatter(table, embed, scatter_dimension=0, tiled=True)
        table = jax.lax.all_to_all(table, embed, 1, 0, tiled=True)[:rows]
    # The other mesh axes of the batch, over which each device keeps the same part.
    return jax.lax.psum(table, [a for a in BATCH if shares == 1 or a != embed])


def gather_channels(table: jax.Array) -> jax.Array:
    """[V, D] split by rows alone, so that a lookup by a split batch stays local."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return table
    return jax.lax.with_sharding_constraint(table, P(TRAIN_RULES["vocab"], None))


@jax.custom_vjp
def lookup(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """Rows [B, T, D] of a table [V, D] by tokens [B, T] int32.

    Its gradient in the table is summed as in `sum_shards`. JAX would derive the same
    numbers by itself, but add up the whole table on every device.
    """
    return constrain_batch(gather_channels(table)[tokens])


def _lookup_forward(table, tokens):
    return lookup(table, tokens), (table, tokens)


def _lookup_backward(saved, gradient):
    table, tokens = saved  # of the table only the shape is read
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or len(tokens) % math.prod(mesh.shape[a] for a in BATCH):
        return jnp.zeros_like(table).at[tokens].add(gradient), None
    vocab, embed = TRAIN_RULES["vocab"], TRAIN_RULES["embed"]
    V, D = table.shape
    rows = V // mesh.shape[vocab]

    def of_device(tokens, gradient):
        """A device's rows of the table, of which it keeps its channels."""
        own = tokens - rows * jax.lax.axis_index(vocab)
        # Words of other devices fall outside and are dropped; an index below 0 would be
        # counted from the end, as in NumPy.
        own = jnp.where(own < 0, rows, own)
        whole = jnp.zeros((rows, D), table.dtype).at[own].add(gradient, mode="drop")
        return _own_channels(whole)

    summed = jax.shard_map(
        of_device, in_specs=(P(BATCH), P(BATCH)), out_specs=P(vocab, embed)
    )
    return summed(tokens, gradient), None  # integers have no gradient


lookup.defvjp(_lookup_forward, _lookup_backward)


def param_shardings(params: nnx.State, mesh: Mesh, rules: Rules) -> nnx.State:
    """One NamedSharding per parameter, from the parameter's axis names.

    Args:
      params: state of `nnx.Param` (arrays or ShapeDtypeStructs) with the metadata
        `axes`, as `transformer.Transformer` makes them.
      mesh: the mesh.
      rules: axis name → mesh axis (or None: not split).

    Returns:
      A state of the same structure with a NamedSharding at every leaf.

    Raises:
      Refused: two axes of one parameter fall on the same mesh axis, or a size is
        not divisible by the mesh axis; names parameter, axis and remedy.
    """

    def one(path, param: nnx.Variable):
        shape, names = param.get_value().shape, param.get_metadata("axes")
        if len(names) == len(shape) - 1:
            # The names are those of one layer; stacking put an axis before them.
            names = ("layers", *names)
        spec = [rules[name] for name in names]
        used = [axis for axis in spec if axis is not None]
        where = ".".join(str(getattr(p, "key", p)) for p in path)
        if len(set(used)) != len(used):
            raise Refused(f"{where}: axes {names} collide on the mesh as {spec}.")
        for name, size, axis in zip(names, shape, spec):
            if axis is not None and size % mesh.shape[axis]:
                raise Refused(
                    f"{where}: {name}={size} must be divisible by "
                    f"mesh.{axis}={mesh.shape[axis]}; choose a divisor of {size}."
                )
        return param.replace(NamedSharding(mesh, P(*spec)))

    return jax.tree_util.tree_map_with_path(
        one, params, is_leaf=lambda x: isinstance(x, nnx.Variable)
    )


def laid_out(shapes, shardings):
    """ShapeDtypeStructs with shardings, as arrays have them: to jit, an array that lies
    elsewhere is another argument.

    Args:
      shapes: a tree of ShapeDtypeStructs.
      shardings: of the same structure, or of a prefix of it.
    """

    def one(sharding, part):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), part
        )

    return jax.tree.map(one, shardings, shapes)


def per_device(tree, shardings=None) -> int:
    """Bytes per device of ShapeDtypeStructs with shardings (or given ones)."""
    leaves = jax.tree.leaves(tree)
    given = (
        [x.sharding for x in leaves]
        if shardings is None
        else jax.tree.leaves(shardings)
    )
    # Of one device; all have parts of one size, since axes divide.
    return sum(
        math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize
        for x, s in zip(leaves, given, strict=True)
    )
