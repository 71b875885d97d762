"""Tunix's own sampler (`tunix.generate.sampler`) as a worker of `rollout.py`.

As its GRPO learner uses it: prompts repeated for the group, log-probs returned. The
loop is Tunix's; where planned lengths differ, only the drawn token is replaced, by the
stop token at the planned position and by another one before it.
"""

import dataclasses
import importlib.metadata

import jax
import jax.numpy as jnp
from tunix.generate import sampler as sampler_lib
from tunix.models.qwen2 import model as qwen2
from tunix.models.qwen2 import params

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
    """The sampler around Qwen2 with the job's weights."""
    shapes, work = job.load()
    prompt_tokens = work.prompts.shape[1]
    cache = sampler_lib.CacheConfig(
        cache_size=prompt_tokens + work.max_tokens,
        num_layers=shapes.layers,
        num_kv_heads=shapes.kv_heads,
        head_dim=shapes.head_dim,
    )
    model, tokenizer = load_model(shapes, job.checkpoint), NumberTokenizer(work)
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


def load_model(
    shapes: workload.Model, checkpoint: str, mesh: jax.sharding.Mesh | None = None
) -> qwen2.Qwen2:
    """Tunix's Qwen2 in float32 from a Hugging Face folder."""
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
    return params.create_model_from_safe_tensors(
        checkpoint, config, mesh, dtype=jnp.float32
    )


if __name__ == "__main__":
    worker.serve(build)
