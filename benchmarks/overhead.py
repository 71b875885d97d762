"""What HAPO costs over DAPO: the time of one step of each, at equal shapes.

    python -m benchmarks.overhead            # prints JSON lines; goal: ratio <= 1.02

Both methods run the same sampler, scoring and update on random weights and prompts;
no token stops a completion, so both do the same work. Steps alternate, and the figure
is the median of the ratios of neighbours, since a machine's speed drifts.
"""

import argparse
import functools
import json
import math
import statistics
import time

import jax
import numpy as np
from flax import nnx

from hapo_jax import config as config_lib
from hapo_jax import policy as policy_lib
from hapo_jax.algo import objective as objective_lib
from hapo_jax.learner import learn as learn_lib
from hapo_jax.learner import optimizer as optimizer_lib
from hapo_jax.learner import packing, train_step
from hapo_jax.model import sharding, transformer
from hapo_jax.model.config import ModelConfig
from hapo_jax.rollout import engine as engine_lib
from hapo_jax.rollout import sampler as sampler_lib
from hapo_jax.rollout.batch import RolloutBatch

# Qwen2.5-style shapes with random weights, 3.8 million parameters.
MODEL = ModelConfig(
    model_type="qwen2",
    vocab_size=4096,
    d_model=256,
    d_ff=688,
    num_layers=4,
    num_heads=8,
    num_kv_heads=2,
    head_dim=32,
    max_positions=2048,
    qkv_bias=True,
    tie_embeddings=True,
)
PHASES = ("rollout", "update", "step")


def main() -> None:
    """Measures and prints one line per phase."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group_size", type=int, default=8)
    parser.add_argument("--prompt_tokens", type=int, default=64)
    parser.add_argument("--completion_tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()

    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        steps = {m: make_step(m, args, mesh) for m in ("hapo", "dapo")}
        for step in steps.values():
            step(0)  # compiles
            step(1)  # with statistics, as every later step
        times = {m: [] for m in steps}
        for i in range(2, 2 + args.repeats):
            order = list(steps) if i % 2 else list(reversed(steps))
            for method in order:
                times[method].append(steps[method](i))
    for k, phase in enumerate(PHASES):
        hapo, dapo = ([t[k] for t in times[m]] for m in ("hapo", "dapo"))
        ratios = [a / b for a, b in zip(hapo, dapo)]
        line = {
            "phase": phase,
            "hapo_over_dapo": round(statistics.median(ratios), 4),
            "ratio_min": round(min(ratios), 4),
            "ratio_max": round(max(ratios), 4),
            "hapo_s": round(statistics.median(hapo), 4),
            "dapo_s": round(statistics.median(dapo), 4),
            "repeats": args.repeats,
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
        }
        print(json.dumps(line), flush=True)


def make_step(method: str, args, mesh):
    """A function step(i) -> seconds of (rollout, update, both), for one method."""
    config = config_lib.apply_method(config_lib.default(), method)
    objective = objective_lib.make_objective(**config_lib.flat(config.algo))
    policy = policy_lib.make(MODEL, None, "", "auto", mesh)
    optimizer = optimizer_lib.make_optimizer(
        learning_rate=1e-6,
        warmup_steps=0,
        decay_steps=0,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        weight_decay=0.1,
        max_grad_norm=1.0,
    )
    abstract = policy.abstract_state(optimizer)
    rows = args.prompts * args.group_size
    learner = train_step.make_learner(
        policy.graphdef,
        objective,
        optimizer,
        mesh,
        jax.tree.map(lambda x: x.sharding, abstract),
        base_temperature=1.0,
        minibatch_rows=rows // 2,
        layout=packing.Layout(
            width=args.prompt_tokens + args.completion_tokens,
            micro_rows=math.gcd(rows // 2, 16),
            shards=1,
            packing=True,
            share_prompts=False,
        ),
        chunk_tokens=4096,
        remat="none",
    )
    engine = engine_lib.Engine(
        policy.graphdef,
        mesh,
        policy.sample_shardings,
        num_slots=rows,
        rows_per_lane=args.group_size,
        max_prompt_tokens=args.prompt_tokens,
        max_completion_tokens=args.completion_tokens,
        chunk_tokens=16,
        stop_ids=(),
        pad_id=0,
        truncation=sampler_lib.Truncation(),
        temperature_fn=lambda entropy, stats, base: objective_lib.temperature(
            objective, entropy, stats, base_temperature=base
        ),
        cache_dtype=policy.dtype,
    )
    to_sampler = policy.to_sampler()
    init = jax.jit(
        lambda key: nnx.state(
            transformer.Transformer(MODEL, rngs=nnx.Rngs(key)), nnx.Param
        ),
        out_shardings=policy.train_shardings,
    )
    state = train_step.place(init(jax.random.key(0)), optimizer, abstract)
    rng = np.random.default_rng(0)
    shape = (args.prompts, args.prompt_tokens)
    prompt_tokens = rng.integers(1, MODEL.vocab_size, shape).astype(np.int32)
    prompt_lengths = np.full(args.prompts, args.prompt_tokens, np.int32)
    rewards = rng.integers(0, 2, rows).astype(np.float32)
    repeat = functools.partial(np.repeat, repeats=args.group_size, axis=0)

    def step(i: int) -> tuple[float, float, float]:
        nonlocal state
        started = time.perf_counter()
        requests = [
            engine_lib.Request(n, prompt_tokens[n], g, args.completion_tokens)
            for n in range(args.prompts)
            for g in range(args.group_size)
        ]
        done = engine.run(
            to_sampler(state.params),
            requests,
            seed=0,
            step=i,
            stats=state.stats,
            base_temperature=1.0,
        )
        done = sorted(done, key=lambda completion: completion.request)
        sampled = time.perf_counter()
        batch = RolloutBatch(
            repeat(prompt_tokens),
            repeat(prompt_lengths),
            np.stack([c.tokens for c in done]),
            np.ones((rows, args.completion_tokens), bool),
            *(
                np.stack([c[field] for c in done])
                for field in range(2, 6)  # entropy, temperature and both log-probs
            ),
            group_ids=repeat(np.arange(args.prompts, dtype=np.int32) * args.group_size),
            prompt_ids=repeat(np.arange(args.prompts)),
            sample_ids=np.arange(rows, dtype=np.int32),
            scores=rewards,
            rewards=rewards,
            truncated=np.ones(rows, bool),
        )
        state, _, _ = learn_lib.learn(learner, state, batch, passes=1)
        jax.block_until_ready(state.params)
        done = time.perf_counter()
        return sampled - started, done - sampled, done - started

    return step


if __name__ == "__main__":
    main()
