"""How Hugging Face files name and shape each parameter.

`LAYOUTS` is the one table; `huggingface.py` derives checks, slices and exports from it.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"

Bounds = tuple[tuple[int, int], ...]  # (start, stop) along each axis


class Layout(NamedTuple):
    """How the files hold one parameter (of one layer, if it is stacked).

    Attributes:
      name: tensor name; `{}` stands for the number of the layer.
      axes: for each axis of the file's tensor, the axes of ours that it merges,
        outermost first. `((1, 2), (0,))` makes our [D, H, C] the file's [H·C, D].
    """

    name: str
    axes: tuple[tuple[int, ...], ...]

    @property
    def stacked(self) -> bool:
        return "{}" in self.name

    @property
    def order(self) -> tuple[int, ...]:
        """Our axes in the order in which the file has them."""
        return tuple(axis for group in self.axes for axis in group)

    def file_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The file's shape of a parameter whose shape here is `shape`."""
        return tuple(math.prod(shape[a] for a in group) for group in self.axes)

    def to_file(self, x: np.ndarray) -> np.ndarray:
        """Our array as the file has it, contiguous, as safetensors wants it."""
        shape = self.file_shape(x.shape)
        return np.ascontiguousarray(x.transpose(self.order).reshape(shape))

    def read(self, tensor, shape: tuple[int, ...], bounds: Bounds) -> np.ndarray:
        """The part `bounds` of our array of `shape`, from a safetensors slice.

        Reads whole inner axes of a merged axis and cuts them afterwards: they are the
        channels of a head, and no rule splits those.
        """
        window, sizes, cut = [], [], []
        for outer, *inner in self.axes:
            start, stop = bounds[outer]
            width = math.prod(shape[a] for a in inner)
            window.append(slice(start * width, stop * width))
            sizes += [stop - start, *(shape[a] for a in inner)]
            cut += [slice(None), *(slice(*bounds[a]) for a in inner)]
        part = tensor[tuple(window)].reshape(sizes)[tuple(cut)]
        return part.transpose(np.argsort(self.order))


_VECTOR = ((0,),)
_TABLE = ((0,), (1,))
_MATRIX = ((1,), (0,))  # torch keeps [out, in]
_TO_HEADS = ((1, 2), (0,))
_FROM_HEADS = ((2,), (0, 1))
_HEADS_BIAS = ((0, 1),)

LAYOUTS: Mapping[str, Layout] = {
    "embedding": Layout(EMBEDDING, _TABLE),
    "final_norm.scale": Layout("model.norm.weight", _VECTOR),
    "head": Layout(HEAD, _TABLE),
} | {
    f"layers.{ours}": Layout(f"model.layers.{{}}.{theirs}", axes)
    for ours, theirs, axes in (
        ("attention_norm.scale", "input_layernorm.weight", _VECTOR),
        ("attention.query", "self_attn.q_proj.weight", _TO_HEADS),
        ("attention.key", "self_attn.k_proj.weight", _TO_HEADS),
        ("attention.value", "self_attn.v_proj.weight", _TO_HEADS),
        ("attention.out", "self_attn.o_proj.weight", _FROM_HEADS),
        ("attention.query_bias", "self_attn.q_proj.bias", _HEADS_BIAS),
        ("attention.key_bias", "self_attn.k_proj.bias", _HEADS_BIAS),
        ("attention.value_bias", "self_attn.v_proj.bias", _HEADS_BIAS),
        ("attention.query_norm.scale", "self_attn.q_norm.weight", _VECTOR),
        ("attention.key_norm.scale", "self_attn.k_norm.weight", _VECTOR),
        ("mlp_norm.scale", "post_attention_layernorm.weight", _VECTOR),
        ("mlp.gate", "mlp.gate_proj.weight", _MATRIX),
        ("mlp.up", "mlp.up_proj.weight", _MATRIX),
        ("mlp.down", "mlp.down_proj.weight", _MATRIX),
    )
}


class FileTensor(NamedTuple):
    """One tensor of the files: a parameter, or one layer of a stacked one.

    Attributes:
      layout: its entry in `LAYOUTS`.
      param: the whole parameter, an array or a ShapeDtypeStruct.
      layer: which layer, or None if the parameter is not stacked.
    """

    layout: Layout
    param: Any
    layer: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """In the file."""
        ours = self.param.shape if self.layer is None else self.param.shape[1:]
        return self.layout.file_shape(ours)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def gather(self, dtype) -> np.ndarray:
        """The whole tensor on the host, as the file has it. Every host must call."""
        x = self.param
        if self.layer is not None:
            x = jax.lax.dynamic_index_in_dim(x, self.layer, axis=0, keepdims=False)
        x = x.astype(dtype)
        if not x.is_fully_addressable:
            x = multihost_utils.process_allgather(x, tiled=True)
        return self.layout.to_file(np.asarray(x))


def file_tensors(params: nnx.State) -> dict[str, FileTensor]:
    """Name → FileTensor of all parameters, layer by layer, in the order of `params`."""
    tensors = {}
    for path, param in nnx.to_flat_state(params):
        layout, value = of(path), param.get_value()
        for layer in range(value.shape[0]) if layout.stacked else [None]:
            tensors[layout.name.format(layer)] = FileTensor(
                layout=layout, param=value, layer=layer
            )
    return tensors


def of(path: tuple[str, ...]) -> Layout:
    """The layout of the parameter at `path` in the model's state."""
    return LAYOUTS[".".join(path)]
