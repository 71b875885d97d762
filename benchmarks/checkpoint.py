"""Writes a model of the workload with random weights, for every engine to load.

    python -m benchmarks.checkpoint MODEL FOLDER

Same weights make results comparable: engines that do the same update report the same
loss and the same norm of the gradient.
"""

import sys

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks import workload
from benchmarks.ours import parts
from hapo_jax.model import huggingface, transformer


def write(name: str, folder: str) -> None:
    """Writes the model called `name` as a Hugging Face folder."""
    config = parts.model_config(workload.model(name))
    model = transformer.Transformer(config, rngs=nnx.Rngs(jax.random.key(0)))
    params = nnx.state(model, nnx.Param)
    huggingface.save_params(folder, params, config, dtype=jnp.float32)


if __name__ == "__main__":
    write(*sys.argv[1:])
