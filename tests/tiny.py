"""A tiny policy and settings that several test files share. No files, no network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hapo_jax import config as config_lib
from hapo_jax.algo import objective as objective_lib
from hapo_jax.model import transformer
from hapo_jax.model.config import ModelConfig

MODEL = ModelConfig(
    model_type="qwen3",
    vocab_size=40,
    d_model=16,
    d_ff=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_positions=64,
    qk_norm=True,
    tie_embeddings=True,
    # Large enough that the distributions are neither flat nor certain.
    init_std=0.6,
)


@functools.cache
def model(seed: int = 0) -> tuple[nnx.GraphDef, nnx.State]:
    """(graphdef, float32 params) of `MODEL`."""
    return nnx.split(transformer.Transformer(MODEL, rngs=nnx.Rngs(seed)), nnx.Param)


def params(seed: int = 0) -> nnx.State:
    """A fresh copy, for functions that donate."""
    return jax.tree.map(jnp.copy, model(seed)[1])


def prompts(lengths, columns: int, seed: int = 0):
    """Random prompts padded on the left: tokens [N, columns] int32, lengths [N]."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((len(lengths), columns), np.int32)
    for row, n in zip(rows, lengths):
        row[columns - n :] = rng.integers(3, MODEL.vocab_size, n)
    return rows, np.array(lengths, np.int32)


def objective(method: str = "hapo", **changes) -> objective_lib.Objective:
    """The objective of a method; `changes` are keywords of `make_objective`."""
    config = config_lib.apply_method(config_lib.default(), method)
    settings = config_lib.flat(config.algo)
    return objective_lib.make_objective(**settings | changes)
