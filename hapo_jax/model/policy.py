"""Puts the policy on the mesh: what training, evaluation and SFT start from."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from hapo_jax.model import huggingface, sharding, transformer
from hapo_jax.model import tokenizer as tokenizer_lib
from hapo_jax.model.config import ModelConfig
from hapo_jax.system import distributed, target


@dataclasses.dataclass(frozen=True)
class Policy:
    """A model's structure and layouts; its parameters travel separately.

    Attributes:
      config: sizes.
      graphdef: what `nnx.merge` needs beside parameters.
      tokenizer: with stop tokens.
      source: the Hugging Face folder that it comes from.
      dtype: what layers compute in.
      mesh: where everything lies that the learner uses.
      sample_mesh: the part of it that this process samples on.
      abstract_params: shapes and axis names.
      train_shardings, sample_shardings: of the parameters, for the two uses.
    """

    config: ModelConfig
    graphdef: nnx.GraphDef
    tokenizer: tokenizer_lib.Tokenizer
    source: str
    dtype: jnp.dtype
    mesh: jax.sharding.Mesh
    sample_mesh: jax.sharding.Mesh
    abstract_params: nnx.State
    train_shardings: nnx.State
    sample_shardings: nnx.State

    def load(self) -> nnx.State:
        """Float32 parameters from `source`, laid out for training."""
        return huggingface.load_params(
            self.source, self.config, dtype=jnp.float32, shardings=self.train_shardings
        )

    def load_reference(self) -> nnx.State:
        """The same in the dtype that layers compute in: only ever read."""
        return huggingface.load_params(
            self.source, self.config, dtype=self.dtype, shardings=self.train_shardings
        )

    def abstract_train_params(self) -> nnx.State:
        """ShapeDtypeStructs of the parameters with shardings, to restore into."""
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            self.abstract_params,
            self.train_shardings,
        )

    def sampler_bytes(self) -> int:
        """Bytes per device of the parameters that the sampler gets."""
        whole = sharding.per_device(self.abstract_params, self.sample_shardings)
        return whole * self.dtype.itemsize // 4

    def reference_bytes(self) -> int:
        """Bytes per device of the parameters of a reference policy."""
        whole = sharding.per_device(self.abstract_params, self.train_shardings)
        return whole * self.dtype.itemsize // 4

    def to_sampler(self):
        """A function: training parameters → a copy in the sampler's dtype and layout.

        With several processes each gets a whole copy on its own devices.
        """

        def cast(params):
            return jax.tree.map(lambda p: p.astype(self.dtype), params)

        copy = jax.jit(
            cast,
            in_shardings=(self.train_shardings,),
            out_shardings=sharding.param_shardings(
                self.abstract_params, self.mesh, sharding.SAMPLE_RULES
            ),
        )
        if self.sample_mesh is self.mesh:
            return copy
        return lambda params: distributed.to_local(copy(params), self.sample_shardings)


def make(
    model_config: ModelConfig,
    tokenizer: tokenizer_lib.Tokenizer,
    source: str,
    dtype: str,
    mesh: jax.sharding.Mesh,
    sample_mesh: jax.sharding.Mesh | None = None,
) -> Policy:
    """A Policy from its parts.

    Args:
      model_config, tokenizer, source, mesh: see Policy.
      dtype: "float32", "bfloat16" or "auto".
      sample_mesh: None for this process's part of `mesh`.
    """
    compute = compute_dtype(dtype)
    abstract = nnx.eval_shape(
        lambda: transformer.Transformer(model_config, dtype=compute, rngs=nnx.Rngs(0))
    )
    graphdef, params = nnx.split(abstract, nnx.Param)
    if sample_mesh is None:
        sample_mesh = distributed.local_mesh(mesh)
    return Policy(
        config=model_config,
        graphdef=graphdef,
        tokenizer=tokenizer,
        source=source,
        dtype=compute,
        mesh=mesh,
        sample_mesh=sample_mesh,
        abstract_params=params,
        train_shardings=sharding.param_shardings(params, mesh, sharding.TRAIN_RULES),
        sample_shardings=sharding.param_shardings(
            params, sample_mesh, sharding.SAMPLE_RULES
        ),
    )


def compute_dtype(name: str):
    """ "auto" is float32 on CPU, which has no fast bfloat16, and bfloat16 elsewhere."""
    if name == "auto":
        name = "float32" if target.platform() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def make_mesh(config: ConfigDict) -> jax.sharding.Mesh:
    """The mesh of the config's section `mesh`, over all devices."""
    return sharding.make_mesh(
        data=config.mesh.data, fsdp=config.mesh.fsdp, tensor=config.mesh.tensor
    )
