"""Our engine as a worker of `rollout.py`; planned lengths are its requests' limits."""

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import worker, workload
from hapo_jax import config as config_lib
from hapo_jax import policy as policy_lib
from hapo_jax.algo import entropy as entropy_lib
from hapo_jax.algo import objective as objective_lib
from hapo_jax.model import sharding, transformer
from hapo_jax.model.config import ModelConfig
from hapo_jax.rollout import engine as engine_lib
from hapo_jax.rollout import sampler as sampler_lib


def build(job: worker.Job) -> worker.Engine:
    """One engine per method over all devices, with the same parameters."""
    shapes, work = job.load()
    mesh = sharding.make_mesh()
    policy = policy_lib.make(model_config(shapes), None, "", "float32", mesh)
    init = jax.jit(
        lambda key: nnx.state(
            transformer.Transformer(policy.config, rngs=nnx.Rngs(key)), nnx.Param
        ),
        out_shardings=policy.sample_shardings,
    )
    with jax.set_mesh(mesh):
        params = init(jax.random.key(0))
    return worker.Engine(
        versions={"jax": importlib.metadata.version("jax")},
        runs={
            method: worker.generating(
                _generator(method, policy, params, work, job), work
            )
            for method in job.methods
        },
    )


def model_config(shapes: workload.Model) -> ModelConfig:
    """The workload's shapes in our own words."""
    return ModelConfig(
        model_type="qwen2",
        vocab_size=shapes.vocab,
        d_model=shapes.d_model,
        d_ff=shapes.d_ff,
        num_layers=shapes.layers,
        num_heads=shapes.heads,
        num_kv_heads=shapes.kv_heads,
        head_dim=shapes.head_dim,
        max_positions=shapes.max_positions,
        rms_eps=shapes.rms_eps,
        rope_theta=shapes.rope_theta,
        qkv_bias=True,
        tie_embeddings=shapes.tied,
        init_std=shapes.init_std,
    )


def requests_of(work: workload.Work) -> list[engine_lib.Request]:
    """One request per planned length; those of a group share prompt and id."""
    return [
        engine_lib.Request(
            prompt_id=i // work.group_size,
            prompt_tokens=work.prompts[i // work.group_size],
            sample_id=i % work.group_size,
            max_tokens=int(length),
        )
        for i, length in enumerate(work.lengths)
    ]


def statistics(vocab: int) -> entropy_lib.EntropyStats:
    """Statistics under which temperatures do move.

    The fresh ones would set every temperature to the base. Random weights give nearly
    uniform distributions, so the entropy of the uniform one is the pivot.
    """
    pivot = jnp.log(jnp.log(jnp.float32(vocab)))
    one = jnp.ones((), jnp.float32)
    return entropy_lib.EntropyStats(pivot, std=one, max_score=one, min_score=-one)


def _generator(method: str, policy, params, work: workload.Work, job: worker.Job):
    """A function from a seed to the lengths of the completions, in request order."""
    config = config_lib.apply_method(config_lib.default(), method)
    objective = objective_lib.make_objective(**config_lib.flat(config.algo))
    engine = engine_lib.Engine(
        policy.config,
        policy.graphdef,
        policy.mesh,
        policy.sample_shardings,
        num_slots=job.slots,
        rows_per_lane=job.rows_per_lane,
        max_prompt_tokens=work.prompts.shape[1],
        max_completion_tokens=work.max_tokens,
        chunk_tokens=job.chunk_tokens,
        stop_ids=(),
        pad_id=work.pad_id,
        truncation=sampler_lib.Truncation(),
        temperature_fn=lambda entropy, stats, base: objective_lib.temperature(
            objective, entropy, stats, base_temperature=base
        ),
        dtype=policy.dtype,
    )
    stats = statistics(policy.config.vocab_size)
    requests = requests_of(work)

    def lengths(seed: int) -> np.ndarray:
        found = np.zeros(len(requests), np.int32)
        for done in engine.run(
            params, requests, seed=seed, step=0, stats=stats, base_temperature=1.0
        ):
            found[done.request] = len(done.tokens)
        return found

    return lengths


if __name__ == "__main__":
    worker.serve(build)
