"""What a folder is that is no model's, and which of its files hold the weights."""

import json
import re

import numpy as np
import pytest
import safetensors.numpy

from hapo_jax.config import check
from hapo_jax.model import folder

CONFIG = '{"model_type": "llama"}'


def fill(path, *names, config=False):
    path.mkdir(exist_ok=True)
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"x")
    if config:
        (path / "config.json").write_text(CONFIG)
    return path


def write_weights(path, *names):
    for name in names:
        safetensors.numpy.save_file({name: np.zeros(1, np.float32)}, path / name)


def write_index(path, *files):
    index = {"weight_map": {f"tensor {i}": file for i, file in enumerate(files)}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def message(function, path):
    with pytest.raises(ValueError) as error:
        function(path)
    assert len(str(error.value).splitlines()) <= 10
    assert str(path) in str(error.value)
    return str(error.value)


# Files of a folder, and what the refusal says of them.
KINDS = {
    "GGUF": (["model-Q4_K_M.gguf"], "model-Q4_K_M.gguf: weights of llama.cpp"),
    "pickled": (["pytorch_model.bin"], "pickled weights.*save_pretrained"),
    "pickled shards": (
        [f"pytorch_model-{i:05d}-of-00191.bin" for i in range(1, 192)],
        "pytorch_model-00001-of-00191.bin, .* and 188 more: pickled weights",
    ),
    "unfinished": (
        [".cache/huggingface/download/abc.incomplete"],
        "not finished; run the same download again",
    ),
    "no index": (
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        "shards without their index; copy model.safetensors.index.json",
    ),
    "of the authors": (["consolidated.00.pth", "params.json"], "the model's authors"),
    "Mistral's": (["consolidated.safetensors", "params.json"], "the model's authors"),
    "FSDP": (["__0_0.distcp"], "another trainer"),
    "verl": (["model_world_size_8_rank_0.pt"], "verl"),
    "DeepSpeed": (["mp_rank_00_model_states.pt"], "another trainer"),
    "TensorFlow": (["tf_model.h5"], "TensorFlow"),
    "Flax": (["flax_model.msgpack"], "Flax"),
    "MLX": (["weights.npz"], "NumPy"),
    "ONNX": (["model.onnx"], "ONNX"),
    "pictures": (["model_index.json"], "pictures"),
    "a variant": (["model.fp16.safetensors"], "another name.*model.safetensors"),
    "nothing": ([], "check the path"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_folder_without_weights_is_named_by_what_it_has(tmp_path, name):
    files, words = KINDS[name]
    path = fill(tmp_path / "model", *files, config=True)
    folder.check(path)
    said = message(folder.weight_files, path)
    assert "has no model.safetensors or model.safetensors.index.json" in said
    assert re.search(words, said)
    # and so it is where config.json is missing as well
    (path / "config.json").unlink()
    said = message(folder.check, path)
    assert "holds no config.json" in said and re.search(words, said)


def test_adapters_are_refused_even_beside_a_model(tmp_path):
    """transformers would compute with both, where peft is installed."""
    path = fill(tmp_path / "model", "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "Qwen/Qwen3-8B", "peft_type": "LORA"}'
    )
    said = message(folder.check, path)
    assert 'a LoRA or PEFT adapter of "Qwen/Qwen3-8B"' in said
    assert "merge_and_unload" in said and "remove" not in said
    fill(path, "model.safetensors", config=True)
    said = message(folder.check, path)
    assert "adapter_config.json beside model.safetensors" in said
    (path / "adapter_config.json").unlink()  # as the message says
    folder.check(path)


def test_not_a_folder(tmp_path, monkeypatch):
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF")
    assert "is a file (weights of llama.cpp" in message(folder.check, gguf)
    single = tmp_path / "model.safetensors"
    single.write_bytes(b"x")
    assert "is a file" in message(folder.check, single)
    assert "there is no folder" in message(folder.check, tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    said = message(folder.check, "Qwen/Qwen3-8B")
    assert "hf download Qwen/Qwen3-8B --local-dir" in said
    assert "is an address" in message(folder.check, "gs://bucket/model")
    with pytest.raises(ValueError, match="model.path: there is no folder"):
        check.check_model_path("nowhere")


@pytest.mark.parametrize(
    "below", ["hf", "snapshots/0123456789abcdef", "actor/huggingface", "checkpoint-500"]
)
def test_a_model_below_is_pointed_out(tmp_path, below):
    inner = tmp_path / below
    inner.mkdir(parents=True)
    (inner / "config.json").write_text(CONFIG)
    assert f"give {inner}" in message(folder.check, tmp_path)


def test_the_folder_of_a_run(tmp_path):
    (tmp_path / "config.json").write_text('{"starts": [], "config": {}}')
    said = message(folder.read_config, tmp_path)
    assert "the folder of a run and not of a model" in said
    assert str(tmp_path / "hf") in said


# --- which weights ------------------------------------------------------------------


def test_one_file_or_shards(tmp_path):
    write_weights(tmp_path, "model.safetensors")
    assert folder.weight_files(tmp_path) == ["model.safetensors"]
    (tmp_path / "model.safetensors").unlink()
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    write_weights(tmp_path, *shards, "model-00001-of-00003.safetensors")
    write_index(tmp_path, *shards, shards[0])
    assert folder.weight_files(tmp_path) == shards


def test_a_left_over_index(tmp_path):
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    write_weights(tmp_path, "model.safetensors", *shards)
    write_index(tmp_path, *shards)
    said = message(folder.weight_files, tmp_path)
    assert "model.safetensors and " in said and "index.json are both there" in said
    # One shard gone leaves it open, all of them gone does not.
    (tmp_path / shards[0]).unlink()
    assert "are both there" in message(folder.weight_files, tmp_path)
    (tmp_path / shards[1]).unlink()
    assert folder.weight_files(tmp_path) == ["model.safetensors"]


def test_either_file_removed_is_a_remedy(tmp_path):
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    write_weights(tmp_path, "model.safetensors", *shards)
    write_index(tmp_path, *shards)
    (tmp_path / "model.safetensors").unlink()
    assert folder.weight_files(tmp_path) == shards
    write_weights(tmp_path, "model.safetensors")
    (tmp_path / "model.safetensors.index.json").unlink()
    assert folder.weight_files(tmp_path) == ["model.safetensors"]


def test_an_index_of_the_one_file_is_no_other(tmp_path):
    write_weights(tmp_path, "model.safetensors")
    write_index(tmp_path, "model.safetensors", "model.safetensors")
    assert folder.weight_files(tmp_path) == ["model.safetensors"]


def test_links_of_the_hubs_cache_are_followed(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    write_weights(blobs, "0123")
    (snapshot / "model.safetensors").symlink_to("../../blobs/0123")
    assert folder.weight_files(snapshot) == ["model.safetensors"]
    with folder.open_weights(snapshot / "model.safetensors") as file:
        assert list(file.keys()) == ["0123"]


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("{}", "lacks weight_map"),
        ('{"weight_map": null}', "lacks weight_map"),
        ('{"weight_map": {}}', "weight_map is empty"),
        ('{"weight_map": ["a.safetensors"]}', "weight_map=.* must be an object"),
        ('{"weight_map": {"a": 5}}', "gives 5 for 'a'"),
        ('{"weight_map": {"a": ["b"]}}', "the name of a file beside it"),
        ('{"weight_map": {"a": "../b.safetensors"}}', "the name of a file beside it"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "the name of a file beside it"),
        ('{"weight_map": {"a": ""}}', "the name of a file beside it"),
        ('{"weight_map": {"a": "x\\u0000y"}}', "the name of a file beside it"),
        ('{"weight_map": {"a": ".."}}', r"lacks \.\."),
        ('{"weight_map": {"a": "gone.safetensors"}}', "lacks gone.safetensors"),
        (json.dumps({"weight_map": {"a": "n" * 5000}}), "lacks nnn"),
        ("[]", "holds a list where an object belongs"),
        ("<html>", "is a web page"),
        ("", "is empty"),
    ],
)
def test_broken_indices(tmp_path, index, words):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match=words) as error:
        folder.weight_files(tmp_path)
    assert "index.json" in str(error.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (b"<!doctype html><html>", "is a web page"),
        (bytes(4096), "nothing but zero bytes"),
        (b"PK\x03\x04 a zip file, as torch.save writes it", "is not readable"),
        (b"\x10\0\0\0\0\0\0\0{" + b" " * 20, "is not readable"),
    ],
)
def test_broken_weights(tmp_path, data, words):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"model.safetensors .*{words}"):
        folder.open_weights(path)


def test_weights_cut_short(tmp_path):
    write_weights(tmp_path, "model.safetensors")
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="copy or download it again"):
            folder.open_weights(path)
