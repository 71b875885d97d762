"""Mutated model folders: each is refused by name, or read right; nothing else happens.

Bytes, JSON values and headers of every file that a folder brings are changed at random.
`test_in_short` is in the suite, `test_in_long` tries many times as many. The last test
asks transformers what a config means that this package accepts.
"""

import copy
import functools
import json
import pathlib
import random
import shutil
import traceback

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from flax import nnx
from hypothesis import strategies

import hapo_jax
from configs import countdown
from hapo_jax.config import check
from hapo_jax.model import huggingface, transformer
from hapo_jax.model import tokenizer as tokenizer_lib
from hapo_jax.system.errors import Refused
from tests.model import test_huggingface, test_tokenizer

PACKAGE = str(pathlib.Path(hapo_jax.__file__).parent)
WARM = pathlib.Path(PACKAGE).parent / "configs" / "countdown_warm"

# What people find in place of a value; JSON, or Python's idea of it.
VALUES = (
    None, True, False, 0, 1, -1, 2, 3, 7, 1.5, -0.5, 1e308, 2**31, 10**30, 10**400,
    float("nan"), float("inf"), "", "2", "1e-6", "true", "yarn", "linear", "default",
    "llama3", "\ud800", "é", "x" * 2000, [], {}, [[]], [1], ["a"], [[2]], {"a": 1},
    {"content": "<eos>"}, {"rope_type": "yarn", "factor": 4.0}, "../../etc/passwd",
)  # fmt: skip
FILES = (
    b"",
    bytes(300),
    b"null",
    b"[]",
    b"{}",
    b"<!DOCTYPE html>\n<html>",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    b"\x80\x02}q\x00.",
    b"GGUF\x03\0\0\0",
    b"[" * 20_000,
)
TEMPLATES = (
    "{% if", "{{ 1 / 0 }}", "{{ messages[9].content }}", "{{ '\\ud800' }}", "",
    "{{ raise_exception('no') }}", "{% for i in range(10**9) %}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ messages + 1 }}",
    "{{ messages | tojson }}", "{% include 'x' %}", "{{ bos_token + eos_token }}",
    "{{ ''.__class__.__mro__ }}", "{{ strftime_now('%Y') }}",
)  # fmt: skip


# --- folders to start from ----------------------------------------------------------


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Four whole folders: the demo's and one of each family, one of them in shards."""
    home = tmp_path_factory.mktemp("originals")
    shutil.copytree(WARM, home / "warm")
    for family, hf in test_huggingface.FAMILIES.items():
        # Ids of the tokenizer, and sizes so small that most of a file is its header.
        sizes = {"vocab_size": 14, "hidden_size": 8, "intermediate_size": 8}
        hf = hf | sizes | {"max_position_embeddings": 64, "eos_token_id": 2}
        if "head_dim" in hf:
            hf["head_dim"] = 4
        folder = test_huggingface.write_folder(home / family, hf)
        test_tokenizer.write(folder, eos_token="<eos>", pad_token="<pad>")
        (folder / "generation_config.json").write_text('{"eos_token_id": [2, 4]}')
        (folder / "special_tokens_map.json").write_text('{"eos_token": "<eos>"}')
        (folder / "added_tokens.json").write_text('{"<eos>": 2}')
    params, config = test_huggingface.load(home / "qwen3")
    huggingface.save_params(
        home / "shards", params, config, dtype=jnp.float32, max_shard_bytes=2_000
    )
    for file in (home / "shards").glob("model*"):
        shutil.copyfile(file, home / "qwen3" / file.name)
    (home / "qwen3" / "model.safetensors").unlink()
    shutil.rmtree(home / "shards")
    return sorted(home.iterdir())


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Tracing a model costs more than all else here; a template gets little time."""
    monkeypatch.setattr(
        huggingface, "abstract_params", functools.cache(huggingface.abstract_params)
    )
    monkeypatch.setattr(tokenizer_lib, "TEMPLATE_S", 0.5)


# --- changes ------------------------------------------------------------------------


def mutate(draw: random.Random, folder: pathlib.Path) -> str:
    """Changes one file of the folder in one way; says which and how."""
    path = draw.choice(sorted(p for p in folder.iterdir() if p.is_file()))
    ways = [replace, remove, garble, garble, *WAYS.get(path.suffix, [])]
    way = draw.choice(ways if path.stat().st_size else [replace, remove])
    return f"{way.__name__} {path.name}: {way(draw, path)}"


def replace(draw, path):
    data = draw.choice(FILES)
    path.write_bytes(data)
    return data[:20]


def remove(draw, path):
    what = draw.choice(["gone", "a folder", "a link to nowhere", "a link to itself"])
    path.unlink()
    if what == "a folder":
        path.mkdir()
    elif what != "gone":
        path.symlink_to("nowhere" if what == "a link to nowhere" else path.name)
    return what


def garble(draw, path):
    data = bytearray(path.read_bytes())
    at, length = draw.randrange(len(data)), draw.randrange(1, 40)
    how = draw.choice(["cut", "flip", "drop", "twice", "insert", "utf-16", "mark"])
    if how == "cut":
        del data[at:]
    elif how == "flip":
        data[at] ^= 1 << draw.randrange(8)
    elif how == "drop":
        del data[at : at + length]
    elif how == "twice":
        data[at:at] = data[at : at + length]
    elif how == "insert":
        data[at:at] = draw.randbytes(length)
    elif how == "utf-16":
        data = data.decode("latin-1").encode("utf-16")
    else:
        data[:0] = b"\xef\xbb\xbf"
    path.write_bytes(data)
    return f"{how} at {at}"


def replace_template(draw, path):
    template = draw.choice(TEMPLATES)
    path.write_text(template)
    return template


def places(value, found, inside=()):
    """Every place in a JSON value, as keys and numbers from outside in."""
    keys = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        found.append((*inside, key))
        if isinstance(value[key], (dict, list)) and value[key]:
            places(value[key], found, (*inside, key))
    return found


def edit(draw, content):
    """Changes one place of a JSON object."""
    found = places(content, [])
    *inside, key = draw.choice(found)
    holder = functools.reduce(lambda value, k: value[k], inside, content)
    how = draw.choice(["value", "value", "value", "drop", "rename", "add"])
    value = copy.deepcopy(draw.choice(VALUES))
    if how == "value":
        holder[key] = value
    elif how == "drop":
        del holder[key]
    elif isinstance(holder, dict):
        name = f"{key}_" if how == "rename" else draw.choice(CONFIG_KEYS)
        holder[name] = holder.pop(key) if how == "rename" else value
    else:
        holder.append(value)
    return f"{how} {(*inside, key)} {str(value)[:40]!r}"


# Fields that change what a model is, put where they may or may not belong.
CONFIG_KEYS = (
    "rope_scaling", "rope_parameters", "rope_theta", "partial_rotary_factor",
    "original_max_position_embeddings", "quantization_config", "layer_types",
    "use_sliding_window", "sliding_window", "attention_bias", "mlp_bias", "head_dim",
    "num_experts", "vision_config", "architectures", "tie_word_embeddings",
    "eos_token_id", "pad_token_id", "chat_template", "added_tokens_decoder",
    "extra_special_tokens", "unk_token", "weight_map", "model_max_length",
)  # fmt: skip


def edit_json(draw, path):
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError):  # broken already
        return garble(draw, path)
    if not isinstance(content, dict) or not content:
        return garble(draw, path)
    said = edit(draw, content)
    path.write_text(json.dumps(content))
    return said


def edit_header(draw, path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):  # broken already
        return garble(draw, path)
    said = edit(draw, header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    return said


def break_number(draw, path):
    """A number of the weights becomes NaN or infinite."""
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    if len(data) < start + 4:  # broken already
        return garble(draw, path)
    at = start + 4 * draw.randrange((len(data) - start) // 4)
    value = draw.choice([np.nan, np.inf, -np.inf])
    data[at : at + 4] = np.float32(value).tobytes()
    path.write_bytes(data)
    return f"{value} at {at}"


WAYS = {
    ".json": [edit_json] * 8,
    ".safetensors": [edit_header, edit_header, break_number],
    ".jinja": [replace_template] * 4,
}


# --- what must happen ---------------------------------------------------------------


def read(folder: pathlib.Path):
    """All that a run reads of a model folder, as `policy.describe` and `load` do."""
    config = countdown.get_config()
    config.model.path = str(folder)
    config.rollout.max_prompt_tokens = config.rollout.max_completion_tokens = 8
    check.check_model_path(config.model.path)
    model = huggingface.load_config(folder)
    tokenizer = tokenizer_lib.load(folder).within(model.vocab_size)
    check.check_model(config, model, tokenizer.vocab_size)
    tokenizer.unused_ids(model.vocab_size)
    tokenizer.fingerprint()
    ids = tokenizer.encode_prompt("what is this")
    params = huggingface.load_params(folder, model, dtype=jnp.float32)
    huggingface.sample_weights(folder)
    return model, tokenizer, ids, params


def look(folder: pathlib.Path, what: str) -> bool:
    """Whether the folder can be read; fails on all but a refusal or a right read."""
    try:
        model, tokenizer, ids, params = read(folder)
    except Refused as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        assert last.startswith(PACKAGE), f"{what}: foreign {error!r}"
        message = str(error)
        assert 20 < len(message) < 3000 and len(message.splitlines()) <= 10, message
        named = str(folder) in message or "max_position_embeddings=" in message
        assert named, f"{what}: {message}"
        return False
    except BaseException as error:
        raise AssertionError(f"{what}: {type(error).__name__} {error}") from error
    V = model.vocab_size
    assert all(0 <= i < V for i in (*tokenizer.stop_ids, tokenizer.pad_id, *ids)), what
    expected = huggingface.abstract_params(model)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape and np.isfinite(a).all(), what
    return True


def many(number, seed):
    """Decorates a function of a `random.Random`: runs it so often when it is called."""
    settings = hypothesis.settings(
        max_examples=number,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    given = hypothesis.given(strategies.randoms(use_true_random=False))
    return lambda function: hypothesis.seed(seed)(settings(given(function)))


def try_many(originals, home, number, seed):
    """Returns how many of so many mutated folders could be read."""
    folder, read_well = home / "model", []

    @many(number, seed)
    def one(draw):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(draw.choice(originals), folder)
        changes = [mutate(draw, folder) for _ in range(draw.choice([1, 1, 1, 2]))]
        read_well.append(look(folder, f"{changes}"))

    one()
    return sum(read_well)


def test_whole_folders_are_read(originals):
    for folder in originals:
        assert look(folder, folder.name)


@pytest.mark.slow
def test_in_short(originals, tmp_path):
    fine = try_many(originals, tmp_path, 400, seed=0)
    assert 40 < fine < 360  # neither harmless changes alone, nor none


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 11))
def test_in_long(originals, tmp_path, seed):
    try_many(originals, tmp_path, 3000, seed)


@pytest.mark.long
def test_what_is_accepted_means_the_same_to_transformers(originals, tmp_path):
    """Logits of all that both of us read, at positions beyond the original length."""
    torch = pytest.importorskip("torch", reason="parity needs torch: extra 'parity'")
    folder, equal = tmp_path / "model", {}
    bases = [path for path in originals if path.name in test_huggingface.FAMILIES]
    columns = np.arange(40, dtype=np.int32)
    tokens = columns[None] * columns[None] % 14

    @functools.cache
    def program(model):
        graphdef = nnx.graphdef(
            nnx.eval_shape(lambda: transformer.Transformer(model, rngs=nnx.Rngs(0)))
        )

        @jax.jit
        def logits(params):
            policy = nnx.merge(graphdef, params)
            return policy.logits(
                policy(tokens, columns[None], np.ones_like(tokens, np.int32))
            )

        return logits

    @many(2000, seed=0)
    def one(draw):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(draw.choice(bases), folder)
        said = f"{edit_json(draw, folder / 'config.json')}"
        try:
            model, _, _, params = read(folder)
        except Refused:
            return
        if said in equal:
            return
        try:
            theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
            with torch.no_grad():
                expected = theirs(torch.tensor(tokens)).logits.numpy()
        except Exception:  # theirs to refuse, with whatever they refuse by
            return
        known = model.vocab_size - sum(b - a for a, b in model.unused_ids)
        found = np.asarray(program(model)(params))
        np.testing.assert_allclose(
            found[..., :known], expected[..., :known], rtol=0, atol=1e-3, err_msg=said
        )
        equal[said] = True

    one()
    assert len(equal) > 100
