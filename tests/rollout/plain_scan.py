"""Sampling as plainly as it can be written, for the engine to be compared with.

One row per completion, one scan from the first token to the longest, no slots.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from hapo_jax.model import decoding, transformer
from hapo_jax.rollout import sampler
from hapo_jax.rollout.slots import Samples


def sample(
    graphdef,
    params,
    prompt_tokens,
    prompt_lengths,
    keys,
    stats,
    base_temperature,
    *,
    max_tokens,
    stop_ids,
    pad_id,
    truncation,
    temperature_fn,
) -> Samples:
    """Completes B prompts [B, P], padded on the left; Samples [B, max_tokens]."""
    model = nnx.merge(graphdef, params)
    B = len(prompt_tokens)
    hidden, prompts = sampler.prefill(model, prompt_tokens, prompt_lengths)
    cache = transformer.KVCache.empty(model.config, B, max_tokens, jnp.float32)
    base_temperature = jnp.broadcast_to(base_temperature, (B,))
    weights = decoding.weights(model)

    def position(carry, t):
        hidden, cache, alive = carry
        uniform = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, t)))
        token, record = sampler.draw(
            decoding.logits(model.config, weights, hidden),
            uniform(keys),
            stats,
            base_temperature,
            truncation=truncation,
            temperature_fn=temperature_fn,
        )
        token = jnp.where(alive, token, pad_id)
        visible = jnp.broadcast_to(jnp.arange(max_tokens) <= t, (B, max_tokens))
        position = prompt_lengths + t
        hidden, cache = decoding.step(
            model.config, weights, token, position, prompts, cache, t, visible
        )
        stopped = (token[:, None] == jnp.array(stop_ids)[None]).any(-1)
        out = token, alive, *(jnp.where(alive, x, 0.0) for x in record)
        return (hidden, cache, alive & ~stopped), out

    carry = hidden, cache, jnp.ones((B,), bool)
    _, out = jax.lax.scan(position, carry, jnp.arange(max_tokens))
    return Samples(*(x.T for x in out))
