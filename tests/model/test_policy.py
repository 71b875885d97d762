"""A policy's parts fit together, or it is refused before weights are read."""

import json
import pathlib
import shutil

import jax.numpy as jnp
import pytest
import transformers

from configs import countdown
from hapo_jax import assembly
from hapo_jax.config import defaults
from hapo_jax.model import huggingface
from hapo_jax.model import policy as policy_lib
from hapo_jax.rollout import demonstrations
from hapo_jax.tasks.problems import Demonstration

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path):
    """The demo's, on a copy of its model."""
    shutil.copytree(ROOT / "configs" / "countdown_warm", tmp_path / "model")
    config = countdown.get_config()
    config.model.path = str(tmp_path / "model")
    return config


def change(config, name, **fields):
    path = pathlib.Path(config.model.path) / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def describe(config):
    return assembly.describe(config, policy_lib.make_mesh(config))


def test_a_pad_token_beyond_the_model(tmp_path, config):
    """It does not matter where no prompt can hold it, and exports can be loaded."""
    change(config, "tokenizer_config.json", pad_token="[PAD]")
    change(config, "config.json", pad_token_id=96)
    policy = describe(config)
    assert policy.config.vocab_size == 96
    assert policy.tokenizer.pad_id == policy.tokenizer.stop_ids[0]
    prompts = assembly.make_prompts(config, policy, config.task.train)
    assert max(ids.max() for ids in prompts.tokens) < 96
    with pytest.raises(ValueError, match=r"holds '\[PAD\]', token 96"):
        policy.tokenizer.encode_prompt("1 2 [PAD]")
    huggingface.save_params(
        tmp_path / "hf",
        policy.load(),
        policy.config,
        dtype=jnp.float32,
        tokenizer=policy.tokenizer,
        source=policy.source,
    )
    for name in ("config.json", "generation_config.json"):
        written = json.loads((tmp_path / "hf" / name).read_text())
        assert written["pad_token_id"] == policy.tokenizer.pad_id
    assert transformers.AutoConfig.from_pretrained(tmp_path / "hf").pad_token_id < 96


def test_a_pad_token_that_the_padded_embedding_holds(config):
    """Nothing to refuse: the row is there, and is never drawn."""
    change(config, "tokenizer_config.json", pad_token="[PAD]")
    change(config, "config.json", vocab_size=128)
    policy = describe(config)
    assert (policy.tokenizer.pad_id, policy.config.unused_ids) == (96, ((97, 128),))


def test_another_models_tokenizer(config):
    change(config, "config.json", vocab_size=50)
    with pytest.raises(ValueError, match="knows 96 ids and the model only 50"):
        describe(config)


def test_lengths_beyond_the_model(config):
    """Stretched positions make room for them, as the message says."""
    config.rollout.max_completion_tokens = 600
    with pytest.raises(ValueError, match="max_position_embeddings=256; .*rope_scaling"):
        describe(config)
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
    change(config, "config.json", rope_scaling=yarn)
    assert describe(config).config.max_positions == 1024


def test_a_demonstration_that_cannot_be_encoded_is_named(config):
    policy = describe(config)
    c = defaults.default_sft()
    shown = [Demonstration("1 2", "3"), Demonstration("1 \ud800", "3")]
    with pytest.raises(
        ValueError, match="demonstration 2 of task.train: .*half a char"
    ):
        demonstrations.tokenise(
            shown,
            policy.tokenizer,
            assembly.prompt_encoder(c, policy),
            max_prompt_tokens=9,
            max_completion_tokens=9,
            section="task.train",
        )
