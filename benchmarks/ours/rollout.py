"""Our engine as a worker of `rollout.py`; planned lengths are its requests' limits."""

import importlib.metadata

import jax.numpy as jnp
import numpy as np

from benchmarks import worker, workload
from benchmarks.ours import parts
from hapo_jax import assembly
from hapo_jax.config import defaults, presets
from hapo_jax.model import huggingface, sharding
from hapo_jax.model import policy as policy_lib
from hapo_jax.rollout import schedule
from hapo_jax.rollout.requests import Request


def build(job: worker.Job) -> worker.Engine:
    """One engine per method over all devices, with the same parameters."""
    shapes, work = job.load()
    policy = policy_lib.make(
        parts.model_config(shapes),
        None,
        job.checkpoint,
        "float32",
        sharding.make_mesh(),
    )
    params = huggingface.load_params(
        job.checkpoint,
        policy.config,
        dtype=jnp.float32,
        shardings=policy.sample_shardings,
    )
    return worker.Engine(
        versions={"jax": importlib.metadata.version("jax")},
        runs={
            method: worker.generating(
                _generator(method, policy, params, work, job.options), work
            )
            for method in job.methods
        },
    )


def requests_of(work: workload.Work) -> list[Request]:
    """One request per planned length; those of a group share prompt and id."""
    return [
        Request(
            prompt_id=i // work.group_size,
            prompt_tokens=work.prompts[i // work.group_size],
            sample_id=i % work.group_size,
            max_tokens=int(length),
        )
        for i, length in enumerate(work.lengths)
    ]


def _generator(method: str, policy, params, work: workload.Work, options: dict):
    """A function from a seed to the lengths of the completions, in request order."""
    config = presets.apply_method(defaults.default(), method)
    programs = parts.make_programs(
        policy,
        assembly.make_method(config),
        prompt_tokens=work.prompts.shape[1],
        completion_tokens=work.max_tokens,
        pad_id=work.pad_id,
        **options,
    )
    stats = parts.statistics(policy.config.vocab_size)
    requests = requests_of(work)

    def lengths(seed: int) -> np.ndarray:
        found = np.zeros(len(requests), np.int32)
        for done in schedule.run(
            programs,
            params,
            requests,
            seed=seed,
            step=0,
            method_state=stats,
        ):
            found[done.request] = len(done.tokens)
        return found

    return lengths


if __name__ == "__main__":
    worker.serve(build)
