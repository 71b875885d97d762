"""Model folders: parity with transformers, sharded reading, exports, clear errors.

Tests with `hf_torch` need torch (the extra `parity`) and skip without it. The stored
logits stand for torch elsewhere: they are those of transformers for the same weights.
"""

import copy
import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import tokenizers
import transformers
from flax import nnx

from hapo_jax.algo import entropy
from hapo_jax.model import config as config_lib
from hapo_jax.model import huggingface, layouts, sharding, transformer
from hapo_jax.model import tokenizer as tokenizer_lib
from tests import real_data

MODELS = real_data.FOLDER / "models"

# float32 through two layers, summed in another order than torch's.
TOLERANCE = 1e-4

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # So small that the 24 positions of the tests span all three regimes.
    "original_max_position_embeddings": 16,
}
COMMON = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "bos_token_id": None,
    "eos_token_id": None,
}
FAMILIES = {
    "llama": COMMON
    | {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "rope_theta": 1000.0,
        "rope_scaling": LLAMA3_ROPE,
        "tie_word_embeddings": False,
    },
    "mistral": COMMON
    | {
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "rope_theta": 10000.0,
        "head_dim": 16,
        "sliding_window": None,
        "tie_word_embeddings": False,
    },
    "qwen2": COMMON
    | {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    },
    "qwen3": COMMON
    | {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "rope_theta": 1000000.0,
        "head_dim": 16,  # not hidden_size / num_attention_heads
        "tie_word_embeddings": True,
    },
}
every_family = pytest.mark.parametrize("family", FAMILIES)
assert FAMILIES.keys() == config_lib.FAMILIES.keys(), "each has its parity here"


@pytest.fixture(scope="module")
def hf_torch():
    """torch, for the tests that run transformers' models."""
    return pytest.importorskip("torch", reason="parity needs torch: extra 'parity'")


def file_shapes(hf):
    """Every tensor of a checkpoint, written out by hand: name → shape."""
    width, hidden = hf["hidden_size"], hf["intermediate_size"]
    channels = hf.get("head_dim", width // hf["num_attention_heads"])
    queries = hf["num_attention_heads"] * channels
    keys = hf["num_key_value_heads"] * channels
    shapes = {
        "model.embed_tokens.weight": [hf["vocab_size"], width],
        "model.norm.weight": [width],
    }
    if not hf["tie_word_embeddings"]:
        shapes["lm_head.weight"] = [hf["vocab_size"], width]
    for i in range(hf["num_hidden_layers"]):
        layer = {
            "input_layernorm.weight": [width],
            "self_attn.q_proj.weight": [queries, width],
            "self_attn.k_proj.weight": [keys, width],
            "self_attn.v_proj.weight": [keys, width],
            "self_attn.o_proj.weight": [width, queries],
            "post_attention_layernorm.weight": [width],
            "mlp.gate_proj.weight": [hidden, width],
            "mlp.up_proj.weight": [hidden, width],
            "mlp.down_proj.weight": [width, hidden],
        }
        if hf["model_type"] == "qwen2":
            layer["self_attn.q_proj.bias"] = [queries]
            layer["self_attn.k_proj.bias"] = [keys]
            layer["self_attn.v_proj.bias"] = [keys]
        if hf["model_type"] == "qwen3":
            layer["self_attn.q_norm.weight"] = [channels]
            layer["self_attn.k_norm.weight"] = [channels]
        shapes |= {f"model.layers.{i}.{name}": s for name, s in layer.items()}
    return shapes


def formula_tensors(hf):
    """Weights that any language can make again: a rising tone per tensor."""
    tensors = {}
    for number, (name, shape) in enumerate(file_shapes(hf).items()):
        wave = np.cos(0.01 * np.arange(np.prod(shape)) ** 2 + number)
        wave = 1 + 0.2 * wave if "norm" in name else 0.3 * wave
        tensors[name] = wave.reshape(shape).astype(np.float32)
    return tensors


def write_folder(folder, hf, tensors=None):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hf))
    safetensors.numpy.save_file(
        formula_tensors(hf) if tensors is None else tensors,
        folder / "model.safetensors",
        {"format": "pt"},
    )
    return folder


def write_by_transformers(torch, folder, hf, **options):
    """A random model, norms and biases included, as `save_pretrained` writes it."""
    torch.manual_seed(0)
    # transformers empties the nested dicts that it is given.
    config = transformers.AutoConfig.for_model(**copy.deepcopy(hf))
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "norm" in name else 0.0, 0.2)
    model.save_pretrained(folder, **options)
    return model.eval()


def ragged_batch():
    """Three left-padded rows of 24 columns: tokens, positions, and a bool mask."""
    lengths = np.array([24, 17, 5])
    columns = np.arange(24)[None]
    mask = columns >= 24 - lengths[:, None]
    tokens = np.random.default_rng(0).integers(0, 96, mask.shape)
    return tokens * mask, np.maximum(np.cumsum(mask, 1) - 1, 0), mask


def torch_logits(torch, model):
    tokens, positions, mask = map(torch.tensor, ragged_batch())
    with torch.no_grad():
        out = model(tokens, attention_mask=mask.long(), position_ids=positions)
    return out.logits.numpy()


def our_logits(params, config):
    graphdef = nnx.graphdef(
        nnx.eval_shape(lambda: transformer.Transformer(config, rngs=nnx.Rngs(0)))
    )

    @jax.jit
    def run(params, tokens, positions, segment_ids):
        model = nnx.merge(graphdef, params)
        return model.logits(model(tokens, positions, segment_ids))

    return np.asarray(run(params, *(x.astype(np.int32) for x in ragged_batch())))


def load(folder, dtype=jnp.float32):
    config = huggingface.load_config(folder)
    return huggingface.load_params(folder, config, dtype=dtype), config


def assert_same_params(actual, expected):
    flat = nnx.to_flat_state(expected)
    assert [path for path, _ in nnx.to_flat_state(actual)] == [p for p, _ in flat]
    for (path, a), (_, b) in zip(nnx.to_flat_state(actual), flat):
        np.testing.assert_array_equal(a.get_value(), b.get_value(), err_msg=str(path))


# --- parity -------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("shard", ["50GB", "20KB"])
def test_equals_transformers(hf_torch, tmp_path, family, shard):
    model = write_by_transformers(
        hf_torch, tmp_path, FAMILIES[family], max_shard_size=shard
    )
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "20KB")
    _, _, mask = ragged_batch()
    theirs = hf_torch.tensor(torch_logits(hf_torch, model)[mask])
    ours = jnp.asarray(our_logits(*load(tmp_path))[mask])
    their_logprobs = hf_torch.log_softmax(theirs, -1)
    their_entropy = hf_torch.distributions.Categorical(logits=theirs).entropy()
    assert 0.5 < float(their_entropy.mean()) < 4.4  # neither certain nor uniform
    for name, a, b in (
        ("logits", ours, theirs),
        ("logprobs", jax.nn.log_softmax(ours), their_logprobs),
        ("entropy", entropy.of_logits(ours), their_entropy),
    ):
        np.testing.assert_allclose(
            a, b.numpy(), rtol=0, atol=TOLERANCE, err_msg=f"{family} {name}"
        )


@every_family
@pytest.mark.parametrize("from_source", [True, False])
def test_transformers_loads_what_we_write(hf_torch, tmp_path, family, from_source):
    source, out = tmp_path / "in", tmp_path / "out"
    model = write_by_transformers(hf_torch, source, FAMILIES[family])
    params, config = load(source)
    huggingface.save_params(
        out,
        params,
        config,
        dtype=jnp.float32,
        source=source if from_source else None,
        max_shard_bytes=20_000,
    )
    again, report = transformers.AutoModelForCausalLM.from_pretrained(
        out, output_loading_info=True
    )
    assert not any(report.values()), report
    assert again.dtype == hf_torch.float32
    _, _, mask = ragged_batch()
    np.testing.assert_allclose(
        torch_logits(hf_torch, again.eval())[mask],
        torch_logits(hf_torch, model)[mask],
        rtol=0,
        atol=TOLERANCE,
    )


YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    # Of the 24 positions most lie beyond.
    "original_max_position_embeddings": 8,
}
STRETCHED = {
    "yarn": YARN,
    "yarn as DeepSeek's": YARN | {"mscale": 1.0, "mscale_all_dim": 0.707},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
}


@pytest.mark.parametrize(
    ("family", "scaling"),
    [(f, "yarn") for f in FAMILIES] + [("qwen3", s) for s in STRETCHED if s != "yarn"],
)
def test_stretched_positions_equal_transformers(hf_torch, tmp_path, family, scaling):
    """Read, and written with and without the source."""
    hf = FAMILIES[family] | {"rope_scaling": STRETCHED[scaling]}
    model = write_by_transformers(hf_torch, tmp_path / "in", hf)
    theirs = torch_logits(hf_torch, model)
    _, _, mask = ragged_batch()
    params, config = load(tmp_path / "in")
    close = {"rtol": 0, "atol": TOLERANCE}
    np.testing.assert_allclose(our_logits(params, config)[mask], theirs[mask], **close)
    for source in (tmp_path / "in", None):
        huggingface.save_params(
            tmp_path / "out", params, config, dtype=jnp.float32, source=source
        )
        written = json.loads((tmp_path / "out" / "config.json").read_text())
        assert written["rope_scaling"]["rope_type"] == STRETCHED[scaling]["rope_type"]
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        logits = torch_logits(hf_torch, again.eval())
        np.testing.assert_allclose(logits[mask], theirs[mask], **close)
        assert huggingface.load_config(tmp_path / "out") == config


GOLDEN_MODELS = FAMILIES | {"yarn": FAMILIES["qwen3"] | {"rope_scaling": YARN}}
# Logits of transformers 5.23 (torch 2.13, float32) for `formula_tensors`: row 1, last
# column, tokens 0 to 5. They may change only if `formula_tensors`, `FAMILIES` or
# `ragged_batch` does; then take them from a run of `test_golden_is_transformers`.
GOLDEN = {
    "llama": [-0.661243, -1.668564, -0.928969, -0.054703, -0.530387, -0.4107],
    "mistral": [0.132405, 0.053611, 0.30058, 1.91157, -0.505723, 0.256],
    "qwen2": [0.10891, 0.885135, 0.244134, 3.068348, -0.844135, -0.139958],
    "qwen3": [0.276645, 1.358758, -0.448609, -0.253452, 1.252716, -1.534305],
    "yarn": [-0.565106, 1.007474, -0.341285, -0.725384, 1.068966, -1.370496],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_equals_golden(tmp_path, name):
    folder = write_folder(tmp_path, GOLDEN_MODELS[name])
    logits = our_logits(*load(folder))
    np.testing.assert_allclose(logits[1, -1, :6], GOLDEN[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_is_transformers(hf_torch, tmp_path, name):
    folder = write_folder(tmp_path, GOLDEN_MODELS[name])
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(report.values()), report
    logits = torch_logits(hf_torch, model.eval())
    np.testing.assert_allclose(logits[1, -1, :6], GOLDEN[name], rtol=0, atol=1e-4)


# --- reading ------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 4, 1), (2, 2, 2)])
@every_family
def test_sharded_load_equals_whole(tmp_path, mesh8, family, shape):
    folder = write_folder(tmp_path, FAMILIES[family])
    whole, config = load(folder)
    shardings = sharding.param_shardings(
        huggingface.abstract_params(config), mesh8(shape), sharding.TRAIN_RULES
    )
    split = huggingface.load_params(
        folder, config, dtype=jnp.float32, shardings=shardings
    )
    assert_same_params(split, whole)
    for (path, array), (_, wanted) in zip(
        nnx.to_flat_state(split), nnx.to_flat_state(shardings)
    ):
        assert array.get_value().sharding == wanted.get_value(), path


class Recorder:
    """A stored tensor that counts the elements read from it."""

    def __init__(self, array):
        self.array, self.elements = array, 0

    def __getitem__(self, window):
        self.elements += self.array[window].size
        return self.array[window]


@pytest.mark.parametrize(
    ("name", "shape", "bounds"),
    [
        ("embedding", (6, 4), ((2, 4), (0, 2))),
        ("final_norm.scale", (6,), ((3, 6),)),
        ("layers.attention.query", (6, 4, 3), ((3, 6), (1, 2), (0, 3))),
        ("layers.attention.out", (4, 3, 6), ((2, 4), (0, 3), (0, 2))),
        ("layers.attention.query_bias", (4, 3), ((1, 3), (0, 3))),
        ("layers.mlp.down", (6, 4), ((0, 3), (2, 4))),
    ],
)
def test_reads_its_own_part_and_no_more(name, shape, bounds):
    layout = layouts.LAYOUTS[name]
    ours = np.arange(np.prod(shape)).reshape(shape)
    stored = Recorder(layout.to_file(ours))
    part = layout.read(stored, shape, bounds)
    expected = ours[tuple(slice(*b) for b in bounds)]
    np.testing.assert_array_equal(part, expected)
    assert stored.elements == expected.size


def test_split_channels_are_read_right():
    layout, shape = layouts.LAYOUTS["layers.attention.query"], (6, 4, 8)
    ours = np.arange(np.prod(shape)).reshape(shape)
    part = layout.read(layout.to_file(ours), shape, ((0, 6), (1, 3), (2, 4)))
    np.testing.assert_array_equal(part, ours[:, 1:3, 2:4])


@pytest.mark.parametrize("stored", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_reads_other_float_types(tmp_path, stored):
    hf = FAMILIES["qwen3"]
    tensors = {k: v.astype(stored) for k, v in formula_tensors(hf).items()}
    params, _ = load(write_folder(tmp_path / "stored", hf, tensors))
    rounded = {k: v.astype(np.float32) for k, v in tensors.items()}
    expected, _ = load(write_folder(tmp_path / "rounded", hf, rounded))
    assert_same_params(params, expected)


def test_loads_in_the_dtype_asked_for(tmp_path):
    params, _ = load(write_folder(tmp_path, FAMILIES["qwen2"]), dtype=jnp.bfloat16)
    assert {x.dtype.name for x in jax.tree.leaves(params)} == {"bfloat16"}


def test_tied_checkpoint_may_hold_the_head(tmp_path):
    hf = FAMILIES["qwen2"]
    tensors = formula_tensors(hf)
    expected, _ = load(write_folder(tmp_path / "without", hf))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    params, _ = load(write_folder(tmp_path / "with", hf, tensors))
    assert_same_params(params, expected)
    tensors["lm_head.weight"][-1, -1] += 1
    with pytest.raises(ValueError, match="lm_head.weight differs .* set it to false"):
        load(write_folder(tmp_path / "other", hf, tensors))


def test_old_rotary_buffers_are_skipped(tmp_path):
    hf = FAMILIES["llama"]
    tensors = formula_tensors(hf)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    params, _ = load(write_folder(tmp_path / "old", hf, tensors))
    expected, _ = load(write_folder(tmp_path / "new", hf))
    assert_same_params(params, expected)


# --- errors of reading --------------------------------------------------------------


def test_all_wrong_tensors_are_listed_before_any_is_read(tmp_path, monkeypatch):
    hf = FAMILIES["qwen2"]
    tensors = formula_tensors(hf)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.layers.0.self_attn.k_proj.weight"] = np.zeros((8, 32), np.float32)
    tensors["model.layers.2.mlp.up_proj.weight"] = np.zeros((48, 32), np.float32)
    tensors["model.norm.weight"] = np.zeros(32, np.int32)
    folder = write_folder(tmp_path, hf, tensors)
    monkeypatch.setattr(layouts.Layout, "read", lambda *_: pytest.fail("was read"))
    with pytest.raises(ValueError) as error:
        load(folder)
    lines = {line.strip() for line in str(error.value).splitlines()[1:]}
    assert lines == {
        "missing model.layers.1.mlp.up_proj.weight [48, 32]",
        "model.layers.0.self_attn.k_proj.weight is [8, 32], expected [16, 32]",
        "unexpected model.layers.2.mlp.up_proj.weight [48, 32]",
        "model.norm.weight is I32, expected a float type",
    }


@pytest.mark.parametrize("stored", [np.float32, ml_dtypes.bfloat16])
def test_a_sample_of_weights_sees_other_ones_in_every_tensor(tmp_path, stored):
    tensors = formula_tensors(FAMILIES["llama"])
    tensors = {name: x.astype(stored) for name, x in tensors.items()}
    write_folder(tmp_path, FAMILIES["llama"], tensors)
    (before,) = huggingface.sample_weights(tmp_path).values()
    assert before.keys() == tensors.keys()
    for name, x in tensors.items():
        other = x.copy()
        other.flat[x.size // 2] += 1  # tensors of this size are read whole
        write_folder(tmp_path, FAMILIES["llama"], tensors | {name: other})
        (after,) = huggingface.sample_weights(tmp_path).values()
        assert [n for n in tensors if after[n] != before[n]] == [name]


def test_a_large_tensor_is_sampled_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface, "_SAMPLE_BYTES", 4 * 32 * 4)
    monkeypatch.setattr(huggingface, "_SAMPLE_BLOCKS", 4)
    tensors = formula_tensors(FAMILIES["llama"])
    name = "model.embed_tokens.weight"  # 96 rows of 128 bytes

    def mark(row):
        other = tensors[name].copy()
        other[row] += 1
        write_folder(tmp_path, FAMILIES["llama"], tensors | {name: other})
        return huggingface.sample_weights(tmp_path)["model.safetensors"][name]

    seen = [row for row in range(96) if mark(row) != mark([])]
    assert seen == [0, 31, 32, 63, 64, 95]


def renamed(prefix, **more):
    """The tensors of a Qwen2, with another prefix than "model." and others beside."""
    found = formula_tensors(FAMILIES["qwen2"])
    found = {prefix + name.removeprefix("model."): x for name, x in found.items()}
    return found | {name: np.zeros(2, kind) for name, kind in more.items()}


UP = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (renamed(""), "lack 'model.' .* AutoModelForCausalLM"),
        (renamed("language_model.model."), "begin with 'language_model.model.' where"),
        (
            renamed("model.language_model.", **{"model.visual.x": np.float32}),
            "'model.lan",
        ),
        (renamed("module.model."), "begin with 'module.model.'"),
        (renamed("_orig_mod.model."), "begin with '_orig_mod.model.'"),
        (renamed("base_model.model.model."), "begin with 'base_model.model.model.'"),
        (renamed("model.", **{f"{UP}.qweight": np.int32}), "GPTQ or AWQ"),
        (
            renamed("model.", **{f"{UP}.weight.quant_map": np.float32}),
            "bitsandbytes, 4",
        ),
        (renamed("model.", **{f"{UP}.SCB": np.float32}), "bitsandbytes, 8 bits"),
        (renamed("model.", **{f"{UP}.weight_scale_inv": np.float32}), "FP8"),
        (renamed("model.", **{f"{UP}.weight_packed": np.int32}), "compressed-tensors"),
        (
            renamed("model.", **{"model.norm.weight": ml_dtypes.float8_e4m3fn}),
            "model.norm.weight is F8_E4M3, of quantised weights",
        ),
        (
            renamed("model.", **{f"base_model.{UP}.lora_A.weight": np.float32}),
            "LoRA weights that are not merged",
        ),
        (
            renamed("model.", **{"model.layers.0.mlp.experts.0.x": np.float32}),
            "a mixture of experts",
        ),
        (renamed("model.", **{"score.weight": np.float32}), "a classifier or reward"),
        (renamed("model.", **{"v_head.summary.weight": np.float32}), "a value head"),
    ],
)
def test_other_checkpoints_are_named_by_what_they_are(tmp_path, tensors, words):
    folder = write_folder(tmp_path, FAMILIES["qwen2"], tensors)
    with pytest.raises(ValueError, match=words) as error:
        load(folder)
    assert str(error.value).startswith(str(folder))
    assert len(str(error.value).splitlines()) == 1


def test_of_many_wrong_tensors_a_message_shows_some(tmp_path):
    folder = write_folder(tmp_path, FAMILIES["llama"])
    (folder / "config.json").write_text(
        json.dumps(FAMILIES["llama"] | {"num_hidden_layers": 30})
    )
    with pytest.raises(ValueError, match="and 244 more$") as error:  # 28 · 9 - 8
        load(folder)
    assert len(str(error.value).splitlines()) == 10


def test_a_head_that_is_missing(tmp_path):
    """The remedy of the message works."""
    hf = FAMILIES["qwen2"]
    folder = write_folder(tmp_path, hf)
    (folder / "config.json").write_text(json.dumps(hf | {"tie_word_embeddings": False}))
    with pytest.raises(
        ValueError, match=r"(?s)lm_head.* set tie_word_embeddings to true"
    ):
        load(folder)
    write_folder(tmp_path, hf)
    load(folder)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(tmp_path, mesh8, family, value):
    """Whole and split over devices; the embedding, a norm, a layer, the head."""
    hf = FAMILIES[family]
    tensors = formula_tensors(hf)
    broken = ["model.embed_tokens.weight", "model.norm.weight"]
    broken += ["model.layers.1.mlp.up_proj.weight"]
    broken += ["lm_head.weight"] * (not hf["tie_word_embeddings"])
    for name in broken:
        tensors[name].flat[-1] = value
    folder = write_folder(tmp_path, hf, tensors)
    config = huggingface.load_config(folder)
    shardings = sharding.param_shardings(
        huggingface.abstract_params(config), mesh8((2, 2, 2)), sharding.TRAIN_RULES
    )
    for places in (None, shardings):
        with pytest.raises(ValueError, match="NaN or infinity in") as error:
            huggingface.load_params(
                folder, config, dtype=jnp.bfloat16, shardings=places
            )
        named = {line.strip() for line in str(error.value).splitlines()[1:-1]}
        assert named == set(broken)


def test_a_tensor_in_two_files(tmp_path):
    folder = write_folder(tmp_path, FAMILIES["llama"])
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    shutil.copyfile(folder / "a.safetensors", folder / "b.safetensors")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="both a.safetensors and b.safetensors hold"):
        load(folder)


def test_only_torch_weights(tmp_path):
    folder = write_folder(tmp_path, FAMILIES["llama"])
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="has pytorch_model.bin: pickled weights"):
        load(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match="no model.safetensors or .*index.json"):
        load(folder)


def test_missing_and_broken_shards(tmp_path):
    folder = write_folder(tmp_path / "in", FAMILIES["llama"])
    params, config = load(folder)
    out = tmp_path / "out"
    huggingface.save_params(
        out, params, config, dtype=jnp.float32, max_shard_bytes=20_000
    )
    shards = sorted(out.glob("*.safetensors"))
    shards[0].write_bytes(shards[0].read_bytes()[:-5])
    with pytest.raises(ValueError, match=f"{shards[0].name} is not readable"):
        load(out)
    shards[0].unlink()
    with pytest.raises(ValueError, match=f"lacks {shards[0].name}, which .*index"):
        load(out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gemma3"}, "model_type='gemma3'.*llama, mistral, qwen2, qwen3"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"use_sliding_window": True}, "use_sliding_window=true"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope_type='longrope'.*'yarn'"),
        ({"hidden_act": "gelu"}, 'hidden_act="gelu"'),
        ({"attention_bias": True}, "attention_bias=true"),
        ({"num_key_value_heads": 3}, "multiple of num_key_value_heads=3"),
        # Kinds of models, whatever their model_type says.
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            r'quantised \("gptq"\).*in bfloat16',
        ),
        ({"quantization": {"bits": 4}}, r"quantised \(.*and remove quantization"),
        (
            {"model_type": "qwen3_moe", "num_experts": 128},
            "num_experts=128 is of a mixture of experts.*model_type='qwen3_moe'",
        ),
        (
            {"model_type": "qwen2_5_vl", "vision_config": {"depth": 32}},
            "vision_config=.* is of a multimodal model",
        ),
        ({"transformers_weights": "b.safetensors"}, "is another file than model.safe"),
        ({"is_encoder_decoder": True}, "is of an encoder with a decoder"),
        (
            {"architectures": ["LlamaForSequenceClassification"]},
            "'SequenceClassification' .a classifier or reward model.*LlamaForCausalLM",
        ),
        ({"architectures": "LlamaForCausalLM"}, "architectures=.* must be"),
        (
            {"layer_types": ["full_attention", "sliding_attention"]},
            "layer_types=.* all",
        ),
        # Other types than a field has, and numbers beyond any model.
        ({"model_type": ["llama"]}, "model_type=.* must be a text"),
        ({"hidden_size": 32.0}, "hidden_size=32.0 must be a whole number, from 1"),
        ({"vocab_size": "96"}, 'vocab_size="96" must be a whole number'),
        ({"num_hidden_layers": -2}, "num_hidden_layers=-2 must be a whole number"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000 must be"),
        ({"num_attention_heads": 0}, "num_attention_heads=0 must be a whole number"),
        ({"rms_norm_eps": "1e-6"}, 'rms_norm_eps="1e-6" must be a number above 0 and'),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps=NaN must be a number"),
        ({"tie_word_embeddings": "false"}, 'embeddings="false" must be true or false'),
        ({"pad_token_id": "<pad>"}, 'pad_token_id="<pad>" must be a whole number'),
    ],
)
def test_unsupported_configs_are_named(tmp_path, change, message):
    (tmp_path / "config.json").write_text(json.dumps(FAMILIES["llama"] | change))
    with pytest.raises(ValueError, match=message) as error:
        huggingface.load_config(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_row_of_the_table_is_a_family(tmp_path, monkeypatch):
    """All that a family needs whose weights are named and used as another's."""
    row = config_lib.Family("MineForCausalLM", qkv_bias=True)
    monkeypatch.setattr(config_lib, "FAMILIES", {**config_lib.FAMILIES, "mine": row})
    hf = FAMILIES["qwen2"]
    like = load(write_folder(tmp_path / "like", hf))
    mine = {"model_type": "mine", "architectures": ["MineForCausalLM"]}
    tensors = formula_tensors(hf)
    params, config = load(write_folder(tmp_path / "mine", hf | mine, tensors))
    np.testing.assert_array_equal(our_logits(params, config), our_logits(*like))
    huggingface.save_params(tmp_path / "out", params, config, dtype=jnp.float32)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written.items() >= mine.items()
    again, config_again = load(tmp_path / "out")
    assert config_again == config
    assert_same_params(again, params)


def test_a_window_is_refused_also_where_the_file_does_not_name_it(tmp_path):
    """transformers takes a Mistral without the field to see 4096 tokens."""
    hf = FAMILIES["mistral"]
    without = {key: value for key, value in hf.items() if key != "sliding_window"}
    for config in (without, hf | {"sliding_window": 4096}):
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match="sliding_window=4096 .* set it to null"):
            huggingface.load_config(tmp_path)
    window = transformers.AutoConfig.for_model("mistral").sliding_window
    assert window == config_lib.FAMILIES["mistral"].window


def test_no_config(tmp_path):
    with pytest.raises(ValueError, match="holds no config.json"):
        huggingface.load_config(tmp_path)
    for text, words in (("{", "is not JSON"), ("[]", "holds a list where an object")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=f"config.json {words}"):
            huggingface.load_config(tmp_path)


# Computed from the shapes that the models' authors publish.
REAL_SIZES = {
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-3.2-1B-Instruct": 1_235_814_400,
    "Llama-3.2-3B": 3_212_749_824,
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen2.5-Math-1.5B": 1_543_714_304,
    "Qwen2.5-7B": 7_615_616_512,
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-8B": 8_190_735_360,
}


@pytest.mark.parametrize("name", REAL_SIZES)
def test_real_configs_give_the_real_number_of_parameters(name):
    folder = MODELS / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set HAPO_DATA_DIR")
    params = huggingface.abstract_params(huggingface.load_config(folder))
    assert sum(x.size for x in jax.tree.leaves(params)) == REAL_SIZES[name]


# --- writing ------------------------------------------------------------------------


@pytest.fixture
def small_tokenizer(tmp_path):
    """One token per word, with two end tokens and a chat template."""
    words = ["<pad>", "<|im_end|>", "<eos>", "a", "b"]
    model = tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, "<pad>")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>"
    ).save_pretrained(tmp_path / "tokenizer")
    return tokenizer_lib.load(tmp_path / "tokenizer")


@pytest.mark.parametrize("max_shard_bytes", [10**9, 20_000, 1])
@every_family
def test_round_trip(tmp_path, mesh8, family, max_shard_bytes):
    folder = write_folder(tmp_path / "in", FAMILIES[family])
    whole, config = load(folder)
    shardings = sharding.param_shardings(
        huggingface.abstract_params(config), mesh8((2, 2, 2)), sharding.TRAIN_RULES
    )
    huggingface.save_params(
        tmp_path / "out",
        huggingface.load_params(folder, config, dtype=jnp.float32, shardings=shardings),
        config,
        dtype=jnp.float32,
        max_shard_bytes=max_shard_bytes,
    )
    again, config_again = load(tmp_path / "out")
    assert config_again == config
    assert_same_params(again, whole)
    tensors = formula_tensors(FAMILIES[family])
    largest = max(v.nbytes for v in tensors.values())
    files = list((tmp_path / "out").glob("*.safetensors"))
    written = {}
    for file in files:
        part = safetensors.numpy.load_file(file)
        assert sum(v.nbytes for v in part.values()) <= max(max_shard_bytes, largest)
        written |= part
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(written[name], tensor, err_msg=name)
    expected_files = {10**9: 1, 1: len(tensors)}
    assert len(files) == expected_files.get(max_shard_bytes, len(files))


def test_export_keeps_the_source_and_states_dtype_and_stops(tmp_path, small_tokenizer):
    hf = FAMILIES["llama"] | {"pretraining_tp": 1, "unknown_key": {"x": [1]}}
    folder = write_folder(tmp_path / "in", hf)
    (folder / "generation_config.json").write_text(
        '{"_from_model_config": true, "top_k": 20, "eos_token_id": 0}'
    )
    params, config = load(folder)
    out = tmp_path / "out"
    huggingface.save_params(
        out,
        params,
        config,
        dtype=jnp.bfloat16,
        source=folder,
        tokenizer=small_tokenizer,
    )
    written = json.loads((out / "config.json").read_text())
    assert written == hf | {"dtype": "bfloat16", "torch_dtype": "bfloat16"}
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation == {"top_k": 20, "eos_token_id": [2, 1], "pad_token_id": 0}
    assert tokenizer_lib.load(out).encode("b a") == [4, 3]
    rounded, _ = load(out)
    for a, b in zip(jax.tree.leaves(rounded), jax.tree.leaves(params)):
        np.testing.assert_array_equal(a, b.astype(jnp.bfloat16).astype(jnp.float32))
    with safetensors.safe_open(out / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.get_slice("lm_head.weight").get_dtype() == "BF16"


def test_export_without_source_names_the_tokens(tmp_path, small_tokenizer):
    params, config = load(write_folder(tmp_path / "in", FAMILIES["qwen3"]))
    out = tmp_path / "out"
    huggingface.save_params(
        out, params, config, dtype=jnp.float32, tokenizer=small_tokenizer
    )
    written = json.loads((out / "config.json").read_text())
    assert (written["eos_token_id"], written["pad_token_id"]) == (2, 0)
    assert written["architectures"] == ["Qwen3ForCausalLM"]
    assert tokenizer_lib.load(out).stop_ids == (2, 1)


def test_new_rotary_spelling_gains_the_old_one(tmp_path):
    hf = {k: v for k, v in FAMILIES["llama"].items() if not k.startswith("rope_")}
    hf["rope_parameters"] = {"rope_theta": 1000.0, **LLAMA3_ROPE}
    folder = write_folder(tmp_path / "in", hf)
    params, config = load(folder)
    out = tmp_path / "out"
    huggingface.save_params(out, params, config, dtype=jnp.float32, source=folder)
    written = json.loads((out / "config.json").read_text())
    assert written["rope_parameters"] == hf["rope_parameters"]
    assert (written["rope_theta"], written["rope_scaling"]) == (1000.0, LLAMA3_ROPE)


def test_a_failed_save_leaves_the_old_folder(tmp_path, monkeypatch):
    params, config = load(write_folder(tmp_path / "in", FAMILIES["qwen2"]))
    out = tmp_path / "out"
    huggingface.save_params(out, params, config, dtype=jnp.float32)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert {file.stat().st_mode for file in out.iterdir()} == {
        (out / "config.json").stat().st_mode
    }
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copymode", lambda *_: 1 / 0)  # after the first tensors
        with pytest.raises(ZeroDivisionError):
            huggingface.save_params(out, params, config, dtype=jnp.bfloat16)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    huggingface.save_params(out, params, config, dtype=jnp.bfloat16)
    rounded, _ = load(out, dtype=jnp.bfloat16)
    for a, b in zip(jax.tree.leaves(rounded), jax.tree.leaves(params)):
        np.testing.assert_array_equal(a, b.astype(jnp.bfloat16))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


def test_will_not_replace_something_else(tmp_path):
    params, config = load(write_folder(tmp_path / "in", FAMILIES["qwen2"]))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    with pytest.raises(ValueError, match="not a model folder"):
        huggingface.save_params(tmp_path / "thesis", params, config, dtype=jnp.float32)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "x"


def test_export_of_another_model_than_the_source(tmp_path):
    other = write_folder(tmp_path / "other", FAMILIES["qwen3"] | {"rms_norm_eps": 1e-5})
    params, config = load(write_folder(tmp_path / "in", FAMILIES["qwen3"]))
    with pytest.raises(ValueError, match="'rms_eps': 1e-05.*'rms_eps': 1e-06"):
        huggingface.save_params(
            tmp_path / "out", params, config, dtype=jnp.float32, source=other
        )
    assert not (tmp_path / "out").exists()
