"""Which files of a model folder hold its weights, and what a folder is that is none.

Hubs and trainers leave many kinds of folders. What cannot be used here is refused by
what it is, with the way to one that can. Imports no jax.
"""

import itertools
import pathlib
from typing import Any

import safetensors

from hapo_jax.system import user_files
from hapo_jax.system.errors import Refused

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_ADAPTER = "adapter_config.json"
_MOST_NAMES = 3  # that a message lists

# What a folder without config.json or safetensors holds instead: a pattern of files,
# and what they are, with the way out. The first that fits is told.
_SIGNS = (
    (
        "*.gguf",
        "weights of llama.cpp, quantised as a rule; give the folder of the original "
        "model, with config.json and safetensors",
    ),
    (
        ".cache/huggingface/download/*.incomplete",
        "a download that was not finished; run the same download again",
    ),
    (
        "model-*-of-*.safetensors",
        f"shards without their index; copy {INDEX_FILE} there too",
    ),
    (
        "consolidated.*",
        "the format of the model's authors; download the one for transformers, with "
        f"config.json and {SINGLE_FILE}, or convert it",
    ),
    (
        "*.distcp",
        "a checkpoint of another trainer (PyTorch FSDP); export it there as a Hugging "
        "Face model",
    ),
    (
        "*_world_size_*_rank_*.pt",
        "a checkpoint of another trainer (verl); merge it there into a Hugging Face "
        "model",
    ),
    (
        "mp_rank_*",
        "a checkpoint of another trainer (DeepSpeed, Megatron); convert it there to a "
        "Hugging Face model",
    ),
    (
        "*.bin",
        "pickled weights, which may run code when read; convert with transformers, "
        "`AutoModelForCausalLM.from_pretrained(folder).save_pretrained(other_folder)`",
    ),
    ("*.pth", "pickled weights; convert them to safetensors"),
    ("*.pt", "pickled weights; convert them to safetensors"),
    (
        "model_index.json",
        "a pipeline that makes pictures; give the folder of a language model",
    ),
    ("*.h5", "weights of TensorFlow; convert them to safetensors"),
    ("*.msgpack", "weights of Flax; convert them to safetensors"),
    ("*.npz", "weights as NumPy arrays; convert them to safetensors"),
    ("*.onnx", "a graph of ONNX; give the folder of the original model"),
    (
        "*.safetensors",
        f"weights of another name; if they are all of the model, call them "
        f"{SINGLE_FILE}",
    ),
)


def check(path: str | pathlib.Path) -> None:
    """Refuses what is no folder of a model, before anything is read.

    Raises:
      Refused: says what it is, and the way out.
    """
    folder = pathlib.Path(path)
    if "://" in str(path):
        raise Refused(
            f"{path} is an address, and a folder is needed; download the model, or "
            "mount the bucket, and give the path."
        )
    if folder.is_file():
        what = next((w for sign, w in _SIGNS if sign == f"*{folder.suffix}"), "")
        raise Refused(
            f"{path} is a file{what and f' ({what})'}, and the folder of a model is "
            "needed; give that."
        )
    if not folder.is_dir():
        hint = "correct the path"
        if str(path).count("/") == 1 and not folder.is_absolute():  # owner/name
            hint += f", or download it from the hub: hf download {path} --local-dir DIR"
        raise Refused(f"there is no folder {str(path)!r}; {hint}.")
    adapter = folder / _ADAPTER
    if user_files.is_there(adapter):
        base = user_files.read_object(adapter).get("base_model_name_or_path")
        whole = [name for name in (SINGLE_FILE, INDEX_FILE) if (folder / name).exists()]
        beside = (
            f" beside {whole[0]}, which transformers would not read" if whole else ""
        )
        raise Refused(
            f"{folder} holds {_ADAPTER}{beside}: it is a LoRA or PEFT adapter of "
            f"{user_files.short(base)}. Merge it into that model with "
            "`merge_and_unload()` and `save_pretrained`, and give the new folder"
            f"{whole and ', or remove the adapter'}."
        )
    if not user_files.is_there(folder / CONFIG):
        raise Refused(f"{folder} holds no {CONFIG}; {_what_it_is(folder)}.")


def read_config(path: str | pathlib.Path) -> dict[str, Any]:
    """The `config.json` of a model folder.

    Raises:
      Refused: it is no such folder, or the file is broken.
    """
    check(path)
    found = user_files.read_object(pathlib.Path(path) / CONFIG)
    if "starts" in found:
        raise Refused(
            f"{path} is the folder of a run and not of a model; give the model that it "
            f"has written, {pathlib.Path(path) / 'hf'}."
        )
    return found


def weight_files(path: str | pathlib.Path) -> list[str]:
    """Names of the files that hold the weights; all are there.

    As transformers chooses them: one file, or else the shards that the index names.
    Where both are there and would give different weights, neither is read.

    Raises:
      Refused: there are none, shards are missing, or the choice is open.
    """
    folder = pathlib.Path(path)
    with user_files.refusing(folder):
        there = {file.name for file in folder.iterdir() if file.is_file()}
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    indexed = user_files.is_there(index)
    if SINGLE_FILE not in there and not indexed:
        raise Refused(
            f"{folder} has no {SINGLE_FILE} or {INDEX_FILE}; {_what_it_is(folder)}."
        )
    if not indexed:
        return [SINGLE_FILE]
    files = _named_by(index)
    absent = [file for file in files if file not in there]
    if SINGLE_FILE not in there or files == [SINGLE_FILE]:
        if absent:
            raise Refused(
                f"{folder} lacks {_some(absent)}, which {INDEX_FILE} names; download "
                "the folder again."
            )
        return files
    if len(absent) == len(files):
        return [SINGLE_FILE]  # the index was left behind when shards were merged
    raise Refused(
        f"{single} and {index} are both there, and it is open which weights are meant: "
        f"transformers reads the first, and the second names {_some(files)}. Remove "
        "the one that is left over."
    )


def open_weights(path: pathlib.Path):
    """A safetensors file, opened; a context manager.

    Raises:
      Refused: it is broken, or no such file.
    """
    with user_files.refusing(path), path.open("rb") as file:
        head = file.read(user_files.HEAD_BYTES)
    if problem := user_files.recognise(head):
        raise Refused(f"{path} {problem}.")
    try:
        return safetensors.safe_open(path, framework="numpy")
    except safetensors.SafetensorError as error:
        raise Refused(
            f"{path} is not readable ({error}); it may have been cut short: copy or "
            "download it again."
        ) from error


def _named_by(index: pathlib.Path) -> list[str]:
    """The files that an index names, each once."""
    fields = user_files.Fields(user_files.read_object(index), str(index))
    fields.require("weight_map", remedy="download the index again")
    files = set()
    for tensor, file in fields.table("weight_map").items():
        name = pathlib.PurePath(file).name if isinstance(file, str) else None
        if not name or file != name or not name.isprintable():
            raise Refused(
                f"{index}: weight_map gives {user_files.short(file)} for {tensor!r}, "
                "which must be the name of a file beside it; download the index again."
            )
        files.add(file)
    if not files:
        raise Refused(f"{index}: weight_map is empty; download the index again.")
    return sorted(files)


def _what_it_is(folder: pathlib.Path) -> str:
    """What a folder holds that has no model, and the way out."""
    inside = itertools.islice(_models_below(folder), _MOST_NAMES)
    if names := sorted(str(path.parent) for path in inside):
        return f"a model lies below, give {' or '.join(names)}"
    for pattern, what in _SIGNS:
        if files := sorted(path.name for path in folder.glob(pattern)):
            return f"it has {_some(files)}: {what}"
    return "check the path, or download the model again"


def _models_below(folder: pathlib.Path):
    """Their config.json, as runs, other trainers and the hub's cache lay them out."""
    for pattern in ("*", "snapshots/*", "*/huggingface"):
        yield from folder.glob(f"{pattern}/{CONFIG}")


def _some(names: list[str]) -> str:
    rest = len(names) - _MOST_NAMES
    told = ", ".join(names[:_MOST_NAMES])
    return f"{told} and {rest} more" if rest > 0 else told
