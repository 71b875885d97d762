"""Tunix's own sampler (`tunix.generate.sampler`) as a worker of `rollout.py`.

As its GRPO learner uses it: prompts repeated for the group, log-probs returned. The
loop is Tunix's; where planned lengths differ, only the drawn token is replaced, by the
stop token at the planned position and by another one before it.
"""

import dataclasses
import importlib.metadata

import jax
import jax.numpy as jnp
from flax import nnx
from tunix.generate import sampler as sampler_lib
from tunix.models.qwen2 import model as qwen2

from benchmarks import worker, workload


class NumberTokenizer:
    """Text that is token ids in decimal, since the sampler takes prompts as text."""

    def __init__(self, work: workload.Work):
        self.work = work

    def encode(self, text: str, **kwargs) -> list[int]:
        """Ids of the numbers in `text`."""
        return [int(word) for word in text.split()]

    def decode(self, ids, **kwargs) -> str:
        """The ids as numbers."""
        return " ".join(map(str, ids))

    def bos_id(self) -> None:
        """None: nothing is put before a prompt."""

    def eos_id(self) -> int:
        """The stop token."""
        return self.work.stop_id

    def pad_id(self) -> int:
        """The padding on the left of a prompt."""
        return self.work.pad_id


class PlannedSampler(sampler_lib.Sampler):
    """Draws the stop token exactly where `work` has a completion end."""

    def __init__(self, transformer, tokenizer, cache_config, work: workload.Work):
        super().__init__(transformer, tokenizer, cache_config)
        self.planned = jnp.asarray(work.lengths)
        self.stop_id = work.stop_id

    def _sample(self, logits, eos, cache, sampler_state):
        drawn = super()._sample(
            logits=logits, eos=eos, cache=cache, sampler_state=sampler_state
        )
        column = drawn.decoding_step
        length = column - sampler_state.num_input_tokens + 1  # with this token
        token = drawn.token_buffer[:, column]
        token = jnp.where(token == self.stop_id, self.stop_id + 1, token)
        token = jnp.where(length == self.planned, self.stop_id, token)
        return dataclasses.replace(
            drawn,
            token_buffer=drawn.token_buffer.at[:, column].set(token),
            done=sampler_state.done | (token == self.stop_id),
        )


def build(job: worker.Job) -> worker.Engine:
    """Qwen2 with random weights."""
    shapes, work = job.load()
    prompt_tokens = work.prompts.shape[1]
    cache = sampler_lib.CacheConfig(
        cache_size=prompt_tokens + work.max_tokens,
        num_layers=shapes.layers,
        num_kv_heads=shapes.kv_heads,
        head_dim=shapes.head_dim,
    )
    model, tokenizer = _model(shapes), NumberTokenizer(work)
    if work.ragged:
        sampler = PlannedSampler(model, tokenizer, cache, work)
        stop_ids = [work.stop_id]
    else:
        sampler = sampler_lib.Sampler(model, tokenizer, cache)
        stop_ids = [shapes.vocab]  # no such token: nothing stops
    prompts = [
        tokenizer.decode(prompt)
        for prompt in work.prompts
        for _ in range(work.group_size)
    ]

    def lengths(seed: int) -> list[int]:
        output = sampler(
            prompts,
            max_generation_steps=work.max_tokens,
            max_prompt_length=prompt_tokens,
            temperature=1.0,
            top_p=1.0,
            top_k=None,
            seed=seed,
            eos_tokens=stop_ids,
            return_logprobs=True,
        )
        # It cuts the stop token off what it returns.
        return [len(tokens) + work.ragged for tokens in output.tokens]

    return worker.Engine(
        versions={
            name: importlib.metadata.version(name) for name in ("google-tunix", "jax")
        },
        runs={"": worker.generating(lengths, work)},
    )


def _model(shapes: workload.Model) -> qwen2.Qwen2:
    """Matrices are normal with the workload's spread; the rest is as Tunix has it."""
    config = qwen2.ModelConfig(
        num_layers=shapes.layers,
        vocab_size=shapes.vocab,
        embed_dim=shapes.d_model,
        hidden_dim=shapes.d_ff,
        num_heads=shapes.heads,
        head_dim=shapes.head_dim,
        num_kv_heads=shapes.kv_heads,
        rope_theta=int(shapes.rope_theta),
        norm_eps=shapes.rms_eps,
        use_tied_embedding=shapes.tied,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
    )
    model = qwen2.Qwen2(config, rngs=nnx.Rngs(params=0))
    leaves, tree = jax.tree.flatten(nnx.state(model, nnx.Param))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    leaves = [
        shapes.init_std * jax.random.normal(key, leaf.shape) if leaf.ndim > 1 else leaf
        for key, leaf in zip(keys, leaves)
    ]
    nnx.update(model, jax.tree.unflatten(tree, leaves))
    return model


if __name__ == "__main__":
    worker.serve(build)
