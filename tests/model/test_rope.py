"""Rotary positions: frequencies by hand and against transformers, and their spellings.

That whole models compute the same is shown in `test_huggingface.py`.
"""

import copy
import dataclasses
import logging

import numpy as np
import pytest
import transformers

from hapo_jax.model import rope
from hapo_jax.model.config import ModelConfig

# 64 channels per head, as large models have, or more.
HF = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 256,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 500_000.0,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 1024,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}
SCALINGS = {
    "linear": {"type": "linear", "factor": 4},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": LLAMA3,
    "yarn": YARN,
    "yarn without an original length": {"type": "yarn", "factor": 2.5},
    "yarn by its other names": YARN | {"type": "yarn", "beta_fast": 16, "beta_slow": 2},
    "yarn between channels": YARN | {"truncate": False, "attention_factor": 1.5},
    "yarn as DeepSeek's": YARN | {"factor": 40, "mscale": 1.0, "mscale_all_dim": 0.707},
    "yarn with half of that": YARN | {"mscale": 0.707},
    "yarn without room": YARN | {"original_max_position_embeddings": 5},
    "yarn in one step": YARN | {"beta_fast": 3, "beta_slow": 3, "truncate": False},
    "yarn that leaves all": YARN | {"factor": 1.0},
}


def read(**change):
    return ModelConfig.from_hf(HF | change)


def scaled(scaling):
    return read(rope_scaling=scaling).rope_scaling


@pytest.mark.parametrize("name", SCALINGS)
def test_frequencies_are_those_of_transformers(name):
    pytest.importorskip("torch", reason="parity needs torch: extra 'parity'")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    # transformers fills in what it is given.
    told = copy.deepcopy(HF | {"rope_scaling": SCALINGS[name]})
    theirs = transformers.AutoConfig.for_model(**told)
    compute = ROPE_INIT_FUNCTIONS[theirs.rope_parameters["rope_type"]]
    frequencies, attention_factor = compute(theirs, "cpu")
    ours = read(rope_scaling=SCALINGS[name])
    np.testing.assert_allclose(
        rope.frequencies(ours.head_dim, ours.rope_theta, ours.rope_scaling),
        frequencies.numpy(),
        rtol=1e-6,  # both round float32 powers
    )
    factor = getattr(ours.rope_scaling, "attention_factor", 1.0)
    assert factor == pytest.approx(attention_factor, rel=1e-12)


def test_llama3_by_hand():
    """Short wavelengths stay, long ones are stretched, and the middle is blended."""
    scaling = rope.Llama3(8.0, 1.0, 4.0, original_max_position_embeddings=16)
    plain = rope.frequencies(8, 10_000.0, None)
    np.testing.assert_allclose(plain, [1.0, 0.1, 0.01, 0.001], rtol=1e-6)
    # Turns within 16 positions: 2.546, 0.2546, ... : the first lies between 1 and 4
    # and keeps (2.546 - 1) / 3 = 0.5155 of itself; the others are divided by 8.
    stretched = rope.frequencies(8, 10_000.0, scaling)
    first = 0.51549 + (1 - 0.51549) / 8
    np.testing.assert_allclose(stretched, [first, 0.0125, 0.00125, 0.000125], rtol=1e-5)
    wide = dataclasses.replace(scaling, original_max_position_embeddings=1000)
    stretched = rope.frequencies(8, 10_000.0, wide)
    np.testing.assert_allclose(stretched[:2], [1.0, 0.1], rtol=1e-6)


def test_yarn_by_hand():
    """Of 64 channel pairs, to 10,000: the first that is not kept is where a wave turns
    32 times within 4096 positions, 4096 / (32 · 2π) = 10000^(20.9/64)."""
    yarn = rope.Yarn(4.0, 4096, attention_factor=1.0)
    ratio = rope.frequencies(128, 10_000.0, yarn) / rope.frequencies(
        128, 10_000.0, None
    )
    assert (ratio[:21] == 1).all() and ratio[21] < 1  # floor(20.9) is kept whole
    np.testing.assert_allclose(ratio[46:], 0.25)  # ceil(45.03) turns once
    # Halfway between 20 and 46, half is kept.
    np.testing.assert_allclose(ratio[33], (1 + 0.25) / 2, rtol=1e-6)


def test_linear_by_hand():
    np.testing.assert_allclose(
        rope.frequencies(8, 10_000.0, rope.Linear(4.0)),
        [0.25, 0.025, 0.0025, 0.00025],
        rtol=1e-6,
    )


def test_attention_factor_scales_both_waves():
    """cos² + sin² is its square, at every position and channel."""
    yarn = rope.Yarn(4.0, 16, attention_factor=1.25)
    positions = np.arange(100, dtype=np.int32)
    cos, sin = rope.angles(positions, head_dim=16, theta=1e4, scaling=yarn)
    np.testing.assert_allclose(cos**2 + sin**2, 1.25**2, rtol=1e-5)


# As published, but for sizes that play no part.
QWEN3_8B_R1 = {
    "max_position_embeddings": 131072,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32768,
        "attn_factor": 0.8782488562869419,
    },
    "rope_theta": 1000000,
}
QWEN25_LONG = {
    "max_position_embeddings": 32768,
    "rope_scaling": {
        "factor": 4.0,
        "original_max_position_embeddings": 32768,
        "type": "yarn",
    },
    "rope_theta": 1000000.0,
}


@pytest.mark.parametrize("hf", [QWEN3_8B_R1, QWEN25_LONG])
def test_published_recipes(hf):
    """Both mean 131,072 positions, whichever max_position_embeddings says."""
    config = read(**hf)
    assert config.max_positions == 131072
    assert config.rope_theta == 1e6
    # 1 + ln(4) / 10
    factor = pytest.approx(1.1386294, rel=1e-6)
    assert config.rope_scaling == rope.Yarn(4.0, 32768, attention_factor=factor)


def test_what_nobody_reads_is_said_once(caplog):
    rope._warn.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            read(**QWEN3_8B_R1)
    (message,) = caplog.messages
    assert "attn_factor of rope_type='yarn'" in message
    assert "reads attention_factor" in message


@pytest.mark.parametrize("name", SCALINGS)
def test_written_and_read_again(name):
    config = read(rope_scaling=SCALINGS[name])
    assert ModelConfig.from_hf(config.to_hf()) == config


def test_a_scaling_written_down_says_its_name():
    """What a run notes of its model tells these two apart."""
    notes = [dataclasses.asdict(x) for x in (rope.Linear(4.0), rope.Dynamic(4.0))]
    assert notes[0] == {"rope_type": "linear", "factor": 4.0} != notes[1]


@pytest.mark.parametrize("name", SCALINGS)
def test_the_new_spelling_means_the_same(name):
    old = read(rope_scaling=SCALINGS[name])
    theta = HF["rope_theta"]
    new = {k: v for k, v in HF.items() if k != "rope_theta"}
    new["rope_parameters"] = SCALINGS[name] | {"rope_theta": theta}
    assert ModelConfig.from_hf(new) == old
    # Both at once, as exports have them.
    written = rope.write(old.rope_theta, old.rope_scaling)
    assert ModelConfig.from_hf(new | written) == old


def test_theta():
    bare = {k: v for k, v in HF.items() if k != "rope_theta"}
    assert ModelConfig.from_hf(bare).rope_theta == 10_000.0  # as Llama 2 means it
    new = bare | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    assert ModelConfig.from_hf(new).rope_theta == 1e6
    assert ModelConfig.from_hf(new | {"rope_theta": None}).rope_theta == 1e6
    assert ModelConfig.from_hf(new | {"rope_theta": 1e6}).rope_theta == 1e6


DEFAULT = {"rope_type": "default", "rope_theta": 500_000.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # One spelling says other than the other.
        (
            {"rope_parameters": DEFAULT, "rope_scaling": YARN},
            "rope_parameters means theta 500000, no scaling, and rope_theta with "
            r"rope_scaling means theta 500000, Yarn\(factor=4.0",
        ),
        (
            {"rope_parameters": DEFAULT | YARN, "rope_scaling": LLAMA3},
            "copy the same values to both",
        ),
        ({"rope_parameters": YARN}, "rope_parameters means .*Yarn.* no scaling;"),
        (
            {"rope_parameters": DEFAULT | {"rope_theta": 1e6}},
            "rope_theta=500000.0 differs from 1e",
        ),
        ({"rope_scaling": YARN | {"rope_theta": 1e6}}, "differs from 1e.*rope_scaling"),
        ({"rope_scaling": YARN | {"type": "linear"}}, 'type="linear" differs from'),
        (
            {"rope_scaling": YARN, "original_max_position_embeddings": 512},
            "original_max_position_embeddings=512 differs from 1024",
        ),
        # By kind of layer, as no model here has it.
        (
            {"rope_parameters": {"full_attention": DEFAULT}},
            r"differs by kind of layer \(full_attention\)",
        ),
        # A type that is not there, or not here.
        ({"rope_scaling": {"factor": 4.0}}, "factor=4.0 .* rope_type is not given"),
        (
            {"rope_scaling": {"rope_type": "default", "factor": 4.0}},
            "factor=4.0 .* rope_type is default",
        ),
        ({"rope_scaling": {"rope_type": "longrope"}}, "'longrope' is not supp.*'yarn'"),
        ({"rope_scaling": {"type": "su", "factor": 2.0}}, "'su' is not supported"),
        ({"rope_scaling": {"type": "YaRN", "factor": 2.0}}, "'YaRN' is not supported"),
        ({"rope_scaling": {"type": 4}}, "type=4 must be a text"),
        # Values that are none.
        ({"rope_theta": None}, "rope_theta=null must be a number above 1"),
        ({"rope_theta": "1e6"}, 'rope_theta="1e6" must be a number'),
        ({"rope_theta": -1.0}, "rope_theta=-1.0 must be a number above 1"),
        ({"rope_theta": float("nan")}, "rope_theta=NaN must be a number"),
        ({"rope_theta": 10**400}, "rope_theta=1000+… must be a number"),
        ({"rope_theta": True}, "rope_theta=true must be a number"),
        ({"rope_scaling": "yarn"}, 'rope_scaling="yarn" must be an object'),
        ({"rope_scaling": [YARN]}, "rope_scaling=.* must be an object"),
        ({"rope_scaling": YARN | {"factor": "4.0"}}, 'factor="4.0" must be a number'),
        ({"rope_scaling": YARN | {"factor": 0.5}}, "factor=0.5 .* at least 1"),
        ({"rope_scaling": YARN | {"factor": None}}, "rope_scaling lacks factor"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling lacks factor"),
        ({"rope_scaling": YARN | {"truncate": None}}, "truncate=null must be true"),
        ({"rope_scaling": YARN | {"truncate": "no"}}, 'truncate="no" must be true'),
        ({"rope_scaling": YARN | {"beta_fast": 0.5}}, "beta_fast=0.5 .* beta_slow=1"),
        ({"rope_scaling": YARN | {"beta_slow": 0}}, "beta_slow=0 must be .* above 0"),
        (
            {"rope_scaling": YARN | {"attention_factor": 0}},
            "attention_factor=0 must be a number above 0",
        ),
        (
            {"rope_scaling": YARN | {"original_max_position_embeddings": 8.5}},
            "embeddings=8.5 must be a whole number",
        ),
        (
            {"rope_scaling": {"type": "llama3", "factor": 8.0}},
            "lacks low_freq_factor, high_freq_factor, original_max_position",
        ),
        (
            {"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}},
            "high_freq_factor=1.0 must be above low_freq_factor=1",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported"),
        (
            {"rope_scaling": YARN | {"partial_rotary_factor": 0.5}},
            "rope_scaling: partial_rotary_factor=0.5 is not supported",
        ),
    ],
)
def test_refused(change, message):
    with pytest.raises(ValueError, match=message) as error:
        read(**change)
    assert str(error.value).startswith("config.json: ")
    assert len(str(error.value)) < 600
