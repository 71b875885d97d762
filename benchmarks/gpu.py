"""The rollout engine on a GPU: tokens per second against the bandwidth limit.

    python -m benchmarks.gpu            # Qwen2.5-1.5B shapes, bfloat16
    python -m benchmarks.gpu --smoke    # tiny shapes on any device, to try the script

Random weights; prompts of 512 tokens in groups of 8, 1,024 new tokens, 64 and 256
rows. A decode step must read all weights and the keys and values in use once; the
limit is the rows of a step over those bytes divided by the copy bandwidth measured
here. With torch and a GPU that it can use, `transformers` generates the same work in
turn. Lines are appended to benchmarks/results/gpu.jsonl.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.ours import parts
from hapo_jax import assembly
from hapo_jax.config import defaults
from hapo_jax.model import policy as policy_lib
from hapo_jax.model import sharding
from hapo_jax.model.config import ModelConfig
from hapo_jax.rollout import schedule
from hapo_jax.rollout.requests import Request

RESULTS = pathlib.Path(__file__).parent / "results" / "gpu.jsonl"
GROUP = 8
QWEN2_5_1_5B = ModelConfig(
    model_type="qwen2",
    vocab_size=151_936,
    d_model=1536,
    d_ff=8960,
    num_layers=28,
    num_heads=12,
    num_kv_heads=2,
    head_dim=128,
    max_positions=4096,
    rope_theta=1e6,
    qkv_bias=True,
    tie_embeddings=True,
)
SMOKE = ModelConfig(
    model_type="qwen2",
    vocab_size=512,
    d_model=64,
    d_ff=128,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    max_positions=256,
    qkv_bias=True,
    tie_embeddings=True,
)


def main() -> None:
    """Measures, prints and keeps one line per engine and number of rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--rows", type=int, nargs="*", default=[64, 256])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if jax.default_backend() == "cpu" and not args.smoke:
        parser.exit(0, "no accelerator here: nothing measured (see --smoke)\n")
    model = SMOKE if args.smoke else QWEN2_5_1_5B
    prompt, new = (16, 32) if args.smoke else (512, 1024)
    bandwidth = copy_bandwidth(2**22 if args.smoke else 2**31)
    for rows in args.rows:
        ours = make_engine_run(model, rows, prompt, new)
        peer = None if args.smoke else make_peer_run(model, rows, prompt, new)
        runs = {"hapo_jax": ours} | ({"transformers": peer} if peer else {})
        first = {name: run() for name, run in runs.items()}
        times = {name: [] for name in runs}
        for _ in range(args.repeats):
            for name, run in runs.items():
                times[name].append(run())
        limit = rows / (bytes_per_step(model, rows, prompt, new) / bandwidth)
        for name, seconds in times.items():
            speed = rows * new / statistics.median(seconds)
            line = {
                "engine": name,
                "rows": rows,
                "prompt_tokens": prompt,
                "new_tokens": new,
                "tok_s": round(speed, 1),
                "tok_s_min": round(rows * new / max(seconds), 1),
                "tok_s_max": round(rows * new / min(seconds), 1),
                "limit_tok_s": round(limit, 1),
                "of_limit": round(speed / limit, 3),
                "copy_gb_s": round(bandwidth / 1e9, 1),
                "first_run_s": round(first[name], 1),
                "repeats": args.repeats,
                "device": jax.devices()[0].device_kind,
                "jax": jax.__version__,
                "date": datetime.date.today().isoformat(),
            }
            print(json.dumps(line), flush=True)
            if not args.smoke:
                RESULTS.parent.mkdir(exist_ok=True)
                with RESULTS.open("a") as file:
                    file.write(json.dumps(line) + "\n")


def bytes_per_step(model: ModelConfig, rows: int, prompt: int, new: int) -> float:
    """Bytes that a decode step cannot do without, on average: weights, and the keys
    and values in use (a group's prompt once), in bfloat16."""
    heads = model.num_heads + 2 * model.num_kv_heads
    layer = model.d_model * model.head_dim * (heads + model.num_heads)
    layer += 3 * model.d_model * model.d_ff
    weights = model.num_layers * layer + model.vocab_size * model.d_model
    column = 2 * model.num_layers * model.num_kv_heads * model.head_dim
    columns = rows / GROUP * prompt + rows * new / 2
    return 2.0 * (weights + column * columns)


def copy_bandwidth(size: int) -> float:
    """Bytes per second read and written by copying `size` bytes, the best of ten."""
    copy = jax.jit(lambda x: x + 1)
    x = jnp.zeros(size // 4, jnp.float32)
    copy(x).block_until_ready()
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        copy(x).block_until_ready()
        best = min(best, time.perf_counter() - started)
    return 2 * size / best


def make_engine_run(model: ModelConfig, rows: int, prompt: int, new: int):
    """A function that completes `rows` requests and returns the seconds."""
    mesh = sharding.make_mesh()
    policy = policy_lib.make(model, None, "", "bfloat16", mesh)
    programs = parts.make_programs(
        policy,
        assembly.make_method(defaults.default()),
        slots=rows,
        rows_per_lane=GROUP,
        prompt_tokens=prompt,
        completion_tokens=new,
        chunk_tokens=64 if new > 64 else 16,
    )
    stats = parts.statistics(model.vocab_size)
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, model.vocab_size, (rows // GROUP, prompt)).astype(np.int32)
    requests = [
        Request(prompt_id=n, prompt_tokens=tokens[n], sample_id=g, max_tokens=new)
        for n in range(len(tokens))
        for g in range(GROUP)
    ]
    params = parts.random_params(policy, policy.sample_shardings, policy.dtype)

    def run() -> float:
        started = time.perf_counter()
        with jax.set_mesh(mesh):
            done = list(
                schedule.run(
                    programs,
                    params,
                    requests,
                    seed=0,
                    step=0,
                    method_state=stats,
                )
            )
        assert sum(len(c.tokens) for c in done) == rows * new
        return time.perf_counter() - started

    return run


def make_peer_run(model: ModelConfig, rows: int, prompt: int, new: int):
    """The same work by `transformers` on the same GPU; None where it cannot run."""
    if importlib.util.find_spec("torch") is None:
        print("no torch here: transformers is not measured")
        return None
    import torch
    import transformers

    if not torch.cuda.is_available():
        print("torch has no GPU here: transformers is not measured")
        return None
    config = transformers.Qwen2Config(
        **{k: v for k, v in model.to_hf().items() if k != "architectures"}
    )
    with torch.device("cuda"):
        peer = transformers.AutoModelForCausalLM.from_config(config)
    peer = peer.to(torch.bfloat16).eval()
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, model.vocab_size, (rows // GROUP, prompt))
    tokens = torch.tensor(np.repeat(tokens, GROUP, axis=0), device="cuda")
    print("transformers", importlib.metadata.version("transformers"))

    def run() -> float:
        started = time.perf_counter()
        with torch.no_grad():
            peer.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=True,
                min_new_tokens=new,
                max_new_tokens=new,
                pad_token_id=0,
            )
        torch.cuda.synchronize()
        return time.perf_counter() - started

    return run


if __name__ == "__main__":
    main()
