"""Hugging Face model folders: `config.json` and safetensors, in and out.

Reading goes from the memory-mapped file to each device: the host holds one device's
part of one parameter. Writing gathers one tensor at a time, one file's worth in all,
and `transformers` (hence vLLM) loads the result. `layouts.py` knows the names and
shapes in the files, `config.py` the fields of `config.json`.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx

from hapo_jax.model import folder as folder_lib
from hapo_jax.model import layouts, rope, sharding, transformer
from hapo_jax.model.config import ModelConfig
from hapo_jax.model.folder import CONFIG, GENERATION_CONFIG, INDEX_FILE, SINGLE_FILE
from hapo_jax.model.layouts import EMBEDDING, HEAD, FileTensor, Layout
from hapo_jax.model.tokenizer import Tokenizer
from hapo_jax.system import user_files
from hapo_jax.system.errors import Refused

MAX_SHARD_BYTES = 5 * 1000**3  # what hubs and file systems take without complaint

# Buffers that old checkpoints carry; they follow from config.json.
_BUFFERS = ("rotary_emb.inv_freq",)
_FLOAT_TYPES = ("F64", "F32", "F16", "BF16")


def load_config(path: str | pathlib.Path) -> ModelConfig:
    """Reads `config.json` of a model folder.

    Raises:
      Refused: no model folder, a broken file, or a model that
        `ModelConfig.from_hf` refuses; names the file.
    """
    hf = folder_lib.read_config(path)
    try:
        return ModelConfig.from_hf(hf)
    except Refused as error:
        raise Refused(f"{path}: {error}") from error


def abstract_params(config: ModelConfig) -> nnx.State:
    """The parameters' shapes and axis names, as `sharding.param_shardings` reads them.

    Returns:
      A state of `nnx.Param` holding float32 `ShapeDtypeStruct`s.
    """
    model = nnx.eval_shape(lambda: transformer.Transformer(config, rngs=nnx.Rngs(0)))
    return nnx.state(model, nnx.Param)


def load_params(
    path: str | pathlib.Path,
    config: ModelConfig,
    *,
    dtype,
    shardings: nnx.State | None = None,
) -> nnx.State:
    """Reads the weights of a model folder onto the devices.

    Names and shapes of all tensors are checked before the first is read. With tied
    embeddings a stored head is accepted if it equals the embedding.

    Args:
      path: folder with `model.safetensors`, or its shards and their index.
      config: the model's, from `load_config`.
      dtype: of the parameters made; the files may hold any float type.
      shardings: a NamedSharding per parameter, from `sharding.param_shardings`;
        None puts everything on the first local device.

    Returns:
      The `nnx.Param` state of `transformer.Transformer(config)`.

    Raises:
      Refused: no safetensors, a broken or missing shard, tensors that are missing,
        unexpected, misshapen, not floats or not finite; lists them.
    """
    folder = pathlib.Path(path)
    abstract = abstract_params(config)
    params = nnx.to_flat_state(abstract)
    if shardings is None:
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        places = {name: device for name, _ in params}
    else:
        places = {name: s.get_value() for name, s in nnx.to_flat_state(shardings)}
    with contextlib.ExitStack() as stack:
        tensors = _open_tensors(folder, stack)
        _check_tensors(folder, tensors, abstract, tied=config.tie_embeddings)
        loaded = []
        for name, param in params:
            layout, shape = layouts.of(name), param.get_value().shape
            value = _load_one(tensors, layout, shape, places[name], jnp.dtype(dtype))
            loaded.append((name, param.replace(value)))
    loaded = nnx.from_flat_state(loaded)
    _check_finite(folder, loaded)
    return loaded


def sample_weights(path: str | pathlib.Path) -> dict[str, dict[str, int]]:
    """A checksum of a sample of every tensor, by file and name, at little cost.

    A tensor of up to `_SAMPLE_BYTES` is read whole, and of a larger one as much, in
    blocks from its beginning to its end. Weights of another training show in
    practically every tensor; a few other numbers in a large one may not.

    Raises:
      Refused: no safetensors, or a broken or missing shard.
    """
    folder = pathlib.Path(path)
    return {file: _sample(folder / file) for file in folder_lib.weight_files(folder)}


# 7B parameters have 339 tensors, most of them large: 60 MB in 1,500 reads. At once,
# since a mounted bucket answers each in a tenth of a second.
_SAMPLE_BYTES = 2**18
_SAMPLE_BLOCKS = 8
_SAMPLE_THREADS = 32


def _sample(path: pathlib.Path) -> dict[str, int]:
    """Of one file, past safetensors: a memory map reads far ahead of each block."""
    with folder_lib.open_weights(path):
        pass  # so its header is sound
    with path.open("rb", buffering=0) as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)

        def mark(tensor: Mapping[str, Any]) -> int:
            found = zlib.crc32(f"{tensor['dtype']} {tensor['shape']}".encode())
            start, stop = (8 + length + x for x in tensor["data_offsets"])
            for place, size in _blocks(start, stop):
                found = zlib.crc32(os.pread(file.fileno(), size, place), found)
            return found

        with concurrent.futures.ThreadPoolExecutor(_SAMPLE_THREADS) as pool:
            return dict(zip(header, pool.map(mark, header.values())))


def _blocks(start: int, stop: int) -> list[tuple[int, int]]:
    """(place, bytes) of what is read of the bytes from `start` to `stop`."""
    if stop - start <= _SAMPLE_BYTES:
        return [(start, stop - start)]
    size = _SAMPLE_BYTES // _SAMPLE_BLOCKS
    room, gaps = stop - start - size, _SAMPLE_BLOCKS - 1
    return [(start + room * i // gaps, size) for i in range(_SAMPLE_BLOCKS)]


def save_params(
    path: str | pathlib.Path,
    params: nnx.State,
    config: ModelConfig,
    *,
    dtype,
    tokenizer: Tokenizer | None = None,
    source: str | pathlib.Path | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes a model folder that `transformers` loads.

    The folder appears whole or not at all: it is written beside `path` and renamed. An
    earlier model folder at `path` is replaced. With several hosts all must call this;
    the first one writes, so `path` must be visible to it.

    Args:
      path: the folder to make.
      params: the `nnx.Param` state of a `transformer.Transformer`, on any devices.
      config: the model's.
      dtype: of the tensors written, such as `jnp.bfloat16`.
      tokenizer: written too, its stop tokens as `eos_token_id`.
      source: the folder that the model came from; its `config.json` and
        `generation_config.json` are kept but for what this call states.
      max_shard_bytes: bytes per file; a larger single tensor gets its own.

    Raises:
      Refused: `path` holds something other than a model folder, or `config` is not
        the model of `source` or of any supported family.
    """
    path, dtype = pathlib.Path(path), jnp.dtype(dtype)
    hf_config = _hf_config(config, source, dtype=dtype, tokenizer=tokenizer)
    generation = _generation_config(source, tokenizer)
    writes = jax.process_index() == 0
    staging = path.with_name(f".{path.name}.partial")
    if writes:
        _make_staging(path, staging)
        _write_json(staging / CONFIG, hf_config)
    tensors = layouts.file_tensors(params)
    shards = _split_into_shards(tensors, dtype.itemsize, max_shard_bytes)
    for file, names in shards.items():
        arrays = {}
        for name in names:
            array = tensors[name].gather(dtype)  # every host takes part
            if writes:
                arrays[name] = array
        if writes:
            # transformers asks for the format, though torch plays no part here.
            safetensors.numpy.save_file(arrays, staging / file, {"format": "pt"})
            # safetensors makes files that only their owner may read.
            shutil.copymode(staging / CONFIG, staging / file)
    if not writes:
        return
    if len(shards) > 1:
        _write_json(staging / INDEX_FILE, _index(shards, tensors, dtype.itemsize))
    if generation:
        _write_json(staging / GENERATION_CONFIG, generation)
    if tokenizer is not None:
        tokenizer.save(staging)
    _replace(path, staging)


def _open_tensors(folder: pathlib.Path, stack: contextlib.ExitStack) -> dict[str, Any]:
    """Name → lazy safetensors slice, of every tensor in the folder."""
    tensors, origin = {}, {}
    for file in folder_lib.weight_files(folder):
        handle = stack.enter_context(folder_lib.open_weights(folder / file))
        for name in handle.keys():  # noqa: SIM118
            if name in tensors:
                raise Refused(
                    f"{folder}: both {origin[name]} and {file} hold {name}; remove the "
                    "file that is left over, or download the folder again."
                )
            tensors[name], origin[name] = handle.get_slice(name), file
    return tensors


def _check_tensors(folder, tensors, params, *, tied: bool) -> None:
    """Compares names, shapes and types with the model's; tells what is wrong."""
    expected = {k: v.shape for k, v in layouts.file_tensors(params).items()}
    if what := _what_they_are(tensors, expected):
        raise Refused(f"{folder}: {what}")
    missing = {k: shape for k, shape in expected.items() if k not in tensors}
    problems = [f"missing {name} {list(shape)}" for name, shape in missing.items()]
    for name, tensor in tensors.items():
        found = tensor.get_shape()
        if name in expected and list(expected[name]) != found:
            problems.append(f"{name} is {found}, expected {list(expected[name])}")
        elif name in expected and tensor.get_dtype() not in _FLOAT_TYPES:
            problems.append(f"{name} is {tensor.get_dtype()}, expected a float type")
        elif name not in expected and not (
            name.endswith(_BUFFERS) or (tied and name == HEAD)
        ):
            problems.append(f"unexpected {name} {found}")
    if problems:
        raise Refused(
            f"{folder}: the tensors are not those of its {CONFIG}:\n  "
            + "\n  ".join(_first(problems))
            + (_UNTIED if missing.keys() == {HEAD} else "")
        )
    if tied and HEAD in tensors and not _equal(tensors[HEAD], tensors[EMBEDDING]):
        raise Refused(
            f"{folder}: {HEAD} differs from {EMBEDDING}, but tie_word_embeddings=true; "
            f"set it to false in {CONFIG}, or remove the head."
        )


_UNTIED = (
    "\nIf the embedding is the head, set tie_word_embeddings to true; else the weights "
    "are not complete."
)
# By a part of a tensor's name, what a checkpoint is that has it.
_SIGNS = {
    ".lora_A.": "LoRA weights that are not merged; merge them into their base model",
    ".experts.": "a mixture of experts, which this package does not have",
    "score.weight": "a classifier or reward model; give a model with a language head",
    "v_head.": "a model with a value head; export it without",
} | {
    part: f"quantised weights ({method}), which cannot be trained; give the folder of "
    "the original model in bfloat16"
    for part, method in {
        ".qweight": "GPTQ or AWQ",
        ".quant_map": "bitsandbytes, 4 bits",
        ".SCB": "bitsandbytes, 8 bits",
        ".weight_scale": "FP8 or compressed-tensors",
        ".weight_packed": "compressed-tensors",
    }.items()
}
# Ends the names of tensors of the first layer; what stands before tells of the whole.
_ANCHOR = "layers.0.input_layernorm.weight"


def _what_they_are(tensors, expected) -> str | None:
    """What kind of checkpoint has these tensors, if not the kind that is expected."""
    for name, tensor in tensors.items():
        for part, what in _SIGNS.items():
            if part in name and name not in expected:
                return f"{name} is of {what}."
        if tensor.get_dtype().startswith("F8"):
            return f"{name} is {tensor.get_dtype()}, of {_SIGNS['.weight_scale']}."
    prefixes = {n.removesuffix(_ANCHOR) for n in tensors if n.endswith(_ANCHOR)}
    if not prefixes or "model." in prefixes:
        return None
    prefix = min(prefixes)
    if not prefix:
        return (
            f"the names of its tensors lack 'model.' ({_ANCHOR}): they are of a model "
            "without its language head. Save it from AutoModelForCausalLM."
        )
    return (
        f"the names of its tensors begin with {prefix!r} where 'model.' belongs: they "
        "are of a larger model, or of a wrapper. Save the language model alone, from "
        "AutoModelForCausalLM."
    )


def _first(problems: list[str], most: int = 8) -> list[str]:
    """What a message can hold of them, each a line."""
    told = [p if p.isprintable() else ascii(p) for p in problems[:most]]
    rest = len(problems) - most
    return [*told, f"and {rest} more"] if rest > 0 else told


def _check_finite(folder: pathlib.Path, params: nnx.State) -> None:
    """Refuses NaN and infinity, which would spread to all that is computed."""
    flat = nnx.to_flat_state(params)
    arrays = [param.get_value() for _, param in flat]
    where = arrays[0].sharding
    if isinstance(where, jax.sharding.NamedSharding):
        where = sharding.replicated(where.mesh)  # of several processes, to all

    @functools.partial(jax.jit, out_shardings=where)
    def finite(arrays):
        # 0 times NaN or infinity is NaN, and a sum spreads it: on a CPU six times as
        # fast as to ask for each number. Layer by layer, since files have them so.
        return [
            (x * 0).sum(axis=tuple(range(layouts.of(name).stacked, x.ndim))) == 0
            for (name, _), x in zip(flat, arrays)
        ]

    broken = [
        layouts.of(name).name.format(layer)
        for (name, _), found in zip(flat, finite(arrays))
        for layer in np.flatnonzero(~np.asarray(found))  # of one, 0 stands for all
    ]
    if broken:
        raise Refused(
            f"{folder}: NaN or infinity in\n  "
            + "\n  ".join(_first(broken))
            + "\nThe training that wrote them had diverged, or the copy is damaged."
        )


def _equal(a, b, rows: int = 4096) -> bool:
    """Whether two stored tables agree; some rows at a time, to spare the host."""
    if a.get_shape() != b.get_shape():
        return False
    total = a.get_shape()[0]
    blocks = [slice(i, min(i + rows, total)) for i in range(0, total, rows)]
    return all(np.array_equal(a[block], b[block]) for block in blocks)


def _load_one(tensors, layout: Layout, shape, sharding, dtype) -> jax.Array:
    """One parameter onto its devices, one distinct part at a time.

    `jax.make_array_from_callback` would hold all parts on the host at once, and read
    a part again for every copy of it.
    """
    devices = collections.defaultdict(list)
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        bounds = tuple(part.indices(size)[:2] for part, size in zip(index, shape))
        devices[bounds].append(device)
    parts = []
    for bounds, holders in devices.items():
        part = np.empty([stop - start for start, stop in bounds], dtype)
        if layout.stacked:
            for row, layer in enumerate(range(*bounds[0])):
                tensor = tensors[layout.name.format(layer)]
                part[row] = layout.read(tensor, shape[1:], bounds[1:])
        else:
            part[...] = layout.read(tensors[layout.name], shape, bounds)
        parts += [jax.device_put(part, device) for device in holders]
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)


def _split_into_shards(
    tensors: Mapping[str, FileTensor], itemsize: int, max_shard_bytes: int
) -> dict[str, list[str]]:
    """File name → names of its tensors; one file with the usual name if all fit."""
    groups, used = [[]], 0
    for name, tensor in tensors.items():
        size = tensor.size * itemsize
        if groups[-1] and used + size > max_shard_bytes:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    if len(groups) == 1:
        return {SINGLE_FILE: groups[0]}
    total = len(groups)
    return {
        f"model-{i:05d}-of-{total:05d}.safetensors": names
        for i, names in enumerate(groups, start=1)
    }


def _index(shards, tensors, itemsize: int) -> dict[str, Any]:
    size = sum(tensor.size for tensor in tensors.values())
    weight_map = {name: file for file, names in shards.items() for name in names}
    return {
        "metadata": {"total_parameters": size, "total_size": size * itemsize},
        "weight_map": dict(sorted(weight_map.items())),
    }


def _hf_config(
    config: ModelConfig, source, *, dtype, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """`config.json`: that of `source`, else a new one; checked against `config`."""
    if source is not None:
        hf = folder_lib.read_config(source)
    else:
        hf = config.to_hf()
        if tokenizer is not None:
            hf |= {
                "bos_token_id": tokenizer.backend.bos_token_id,
                "eos_token_id": tokenizer.stop_ids[0],
                "pad_token_id": tokenizer.pad_id,
            }
    # Which ids are unused says the tokenizer, and not config.json.
    written = dataclasses.replace(ModelConfig.from_hf(hf), unused_ids=config.unused_ids)
    if written != config:
        wrong = [k for k, v in vars(config).items() if getattr(written, k) != v]
        origin = source or f"model_type={config.model_type!r}"
        raise Refused(
            f"{origin} implies { ({k: getattr(written, k) for k in wrong}) }, but the "
            f"model has { ({k: getattr(config, k) for k in wrong}) }; give the folder "
            "that the model came from, or the model_type with these features."
        )
    if hf.get("rope_theta") is None:
        # From transformers 5, which writes `rope_parameters` instead; 4 would ignore
        # those and turn by its default angles. 5 reads both spellings.
        hf |= rope.write(config.rope_theta, config.rope_scaling)
    if tokenizer is not None and (hf.get("pad_token_id") or 0) >= config.vocab_size:
        hf["pad_token_id"] = tokenizer.pad_id  # or transformers could not load it
    return hf | {"dtype": dtype.name, "torch_dtype": dtype.name}


def _generation_config(source, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """`generation_config.json`: that of `source`, with the tokenizer's stop tokens."""
    generation = {}
    if source is not None and (pathlib.Path(source) / GENERATION_CONFIG).exists():
        generation = user_files.read_object(pathlib.Path(source) / GENERATION_CONFIG)
    if tokenizer is not None:
        # The flag says that the file only repeats config.json, which now it does not.
        generation.pop("_from_model_config", None)
        generation |= {
            "eos_token_id": list(tokenizer.stop_ids),
            "pad_token_id": tokenizer.pad_id,
        }
    return generation


def _make_staging(path: pathlib.Path, staging: pathlib.Path) -> None:
    """An empty folder beside `path`, once it is sure that `path` may be replaced."""
    if path.exists() and not (path.is_dir() and _replaceable(path)):
        raise Refused(
            f"{path} exists and is not a model folder; choose another path or move it."
        )
    shutil.rmtree(staging, ignore_errors=True)  # left by a save that was cut short
    staging.mkdir(parents=True)


def _replaceable(folder: pathlib.Path) -> bool:
    return (folder / CONFIG).is_file() or not any(folder.iterdir())


def _replace(path: pathlib.Path, staging: pathlib.Path) -> None:
    """Renames `staging` to `path`; what was there goes afterwards."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    staging.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _write_json(file: pathlib.Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
