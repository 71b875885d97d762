"""Host data of changing shape as one array of bytes, for `checkpoint.py`.

The surplus groups that a run carries differ in number and length at every step, so
there is no fixed structure to read them back into. Here the structure is written with
them: arrays go into an npz archive, everything around them into a JSON text beside
them.
"""

import json
from typing import Any

import numpy as np

from hapo_jax.system import npz

_STRUCTURE = "structure"  # the archive's member that holds the JSON text
_ARRAY_KINDS = "biufcSU"  # bool, integers, floats, complex, bytes, str


def pack(tree: Any) -> np.ndarray:
    """Packs nested dict (str keys), list and tuple of arrays and JSON values.

    Args:
      tree: leaves are numpy arrays or scalars (bool, number, bytes or str; bfloat16 has
        no name in the format: cast it), str, int, float (also inf and nan), bool, None.

    Returns:
      [number of bytes] uint8.

    Raises:
      ValueError: a leaf or key of another kind; the message names its place.
    """
    arrays: dict[str, np.ndarray] = {}
    structure = _encode(tree, arrays, where="extra")
    text = np.frombuffer(json.dumps(structure).encode(), np.uint8)
    return npz.pack({_STRUCTURE: text, **arrays})


def unpack(packed: np.ndarray) -> Any:
    """The tree that `pack` was given; tuples are lists, numpy scalars [] arrays.

    Args:
      packed: [number of bytes] uint8.
    """
    arrays = npz.unpack(packed)
    return _decode(json.loads(arrays[_STRUCTURE].tobytes()), arrays)


def _encode(node: Any, arrays: dict[str, np.ndarray], *, where: str) -> dict[str, Any]:
    """Replaces arrays by their names; tags every node, so no value is mistaken."""
    match node:
        case np.ndarray() | np.generic():
            if node.dtype.kind not in _ARRAY_KINDS:
                raise ValueError(
                    f"{where} has dtype {node.dtype}; cast it to one that numpy stores "
                    "without pickling."
                )
            name = f"array_{len(arrays)}"
            arrays[name] = np.asarray(node)
            return {"array": name}
        case dict():
            if any(not isinstance(key, str) for key in node):
                raise ValueError(
                    f"{where} has keys {list(node)}; they must be strings."
                )
            return {
                "dict": {
                    key: _encode(value, arrays, where=f"{where}[{key!r}]")
                    for key, value in node.items()
                }
            }
        case list() | tuple():
            return {
                "list": [
                    _encode(value, arrays, where=f"{where}[{i}]")
                    for i, value in enumerate(node)
                ]
            }
        case None | bool() | int() | float() | str():
            return {"value": node}
    raise ValueError(
        f"{where} is {type(node)}; a checkpoint holds numpy arrays, strings, numbers "
        "and None in dicts, lists and tuples. Fetch device arrays with jax.device_get."
    )


def _decode(node: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    """The inverse of `_encode`."""
    ((tag, value),) = node.items()
    match tag:
        case "array":
            return arrays[value]
        case "dict":
            return {key: _decode(child, arrays) for key, child in value.items()}
        case "list":
            return [_decode(child, arrays) for child in value]
    return value
