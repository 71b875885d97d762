"""A tiny policy and settings that several test files share. No files, no network."""

import functools

import jax
import numpy as np
from flax import nnx

from hapo_jax import plain
from hapo_jax.algo import method as method_lib
from hapo_jax.algo import methods
from hapo_jax.algo import settings as settings_lib
from hapo_jax.config import arguments, defaults, presets, resolution
from hapo_jax.learner import packing, scoring
from hapo_jax.model import transformer
from hapo_jax.model.config import ModelConfig
from hapo_jax.rollout import batch as batch_lib

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
    """A fresh copy on the host, for functions that donate."""
    return jax.tree.map(np.array, model(seed)[1])


def prompts(lengths, columns: int, seed: int = 0):
    """Random prompts padded on the left: tokens [N, columns] int32, lengths [N]."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((len(lengths), columns), np.int32)
    for row, n in zip(rows, lengths):
        row[columns - n :] = rng.integers(3, MODEL.vocab_size, n)
    return rows, np.array(lengths, np.int32)


def settings(name: str = "hapo", **changes) -> settings_lib.Settings:
    """The settings of a method of the configs, with some changed.

    `clip_low` is `algo.clip.low`, and so on; a stage is given by its name, or as a dict
    with its options. What a user has to give is given.
    """
    config = presets.apply_method(defaults.default(), name)
    for key, value in methods.METHODS[name].given.items():
        arguments.override(config, key, str(value))
    config, _ = resolution.resolve(config)
    section = config.algo.to_dict()
    keys = {key.removeprefix("algo."): None for key in settings_lib.LEGAL}
    by_name = {key.replace(".", "_"): key for key in keys}
    for change, value in changes.items():
        if change in settings_lib.STAGES:
            section[change] = value if isinstance(value, dict) else {"name": value}
            continue
        *parts, last = by_name[change].split(".")
        holder = functools.reduce(lambda x, part: x[part], parts, section)
        holder[last] = value
    return settings_lib.of(section)


def method(name: str = "hapo", **changes) -> method_lib.Method:
    """A method of the configs, for eight problems; `changes` as in `settings`."""
    return method_lib.make(settings(name, **changes), num_prompts=8)


def batch(num_prompts: int, group_size: int, *, T: int = 12, seed: int = 0):
    """A random RolloutBatch whose log-probs are those of `model(seed=1)`.

    Ragged, with an empty row at the end and a group of equal rewards at the start.
    """
    rng = np.random.default_rng(seed)
    B, P = num_prompts * group_size, 6
    tokens, lengths = prompts(rng.integers(2, P + 1, num_prompts), P, seed)
    completion_lengths = rng.integers(1, T + 1, B)
    completion_lengths[-1] = 0
    mask = np.arange(T)[None] < completion_lengths[:, None]
    rewards = rng.integers(0, 2, B).astype(np.float32)
    rewards[:group_size] = 1.0
    rows = batch_lib.RolloutBatch.of_tokens(
        prompt_tokens=np.repeat(tokens, group_size, 0),
        prompt_lengths=np.repeat(lengths, group_size),
        completion_tokens=rng.integers(3, MODEL.vocab_size, (B, T)).astype(np.int32)
        * mask,
        completion_mask=mask,
        group_size=group_size,
    )._replace(scores=rewards, rewards=rewards)
    logprobs, entropy = teacher_forced(model(seed=1), rows)
    record = batch_lib.TokenRecord(
        entropy=entropy,
        temperature=mask.astype(np.float32),
        cut_logit=np.where(mask, batch_lib.NO_CUT, 0).astype(np.float32),
        behavior_logprobs=logprobs,
        base_logprobs=logprobs,
    )
    return rows._replace(record=record)


def teacher_forced(model, batch: batch_lib.RolloutBatch):
    """Log-probs and entropies [B, T] by `plain.py`, one padded row each."""
    rows = batch.prompt_tokens, batch.prompt_lengths, batch.completion_tokens
    scores = plain.score_tokens(plain_setup(), model[1], *rows, plain.Settings())
    return tuple(np.where(batch.completion_mask, x, 0) for x in scores)


def plain_setup(*, stop_ids=(1, 2), max_tokens=12, optimizer=None) -> plain.Setup:
    """What `plain.py` needs to know of `MODEL`."""
    graphdef, _ = model()
    return plain.Setup(graphdef, optimizer, stop_ids, 0, max_tokens)


def packed_scores(model, batch: batch_lib.RolloutBatch, layout: packing.Layout):
    """Log-probs and entropies [B, T] as the learner makes them, in packed rows."""
    graphdef, params = model
    placement = packing.place(
        layout, batch.prompt_lengths, batch.lengths, batch.group_ids
    )
    packed, index = packing.pack(
        layout,
        placement,
        batch.prompt_tokens,
        batch.completion_tokens,
        num_micros=placement.num_micros(layout),
        pad_targets_to=8,
    )
    score = jax.jit(
        lambda params: scoring.score(
            nnx.merge(graphdef, params),
            packed,
            branches=layout.share_prompts,
            base_temperature=1.0,
            width=8,
        )
    )
    shape = batch.completion_mask.shape
    found = score(params)
    return tuple(
        packing.scatter(index, np.asarray(x), shape)
        for x in (found.logprobs, found.entropy)
    )
