"""What HAPO costs over DAPO: the time of one step of each, at equal shapes.

    python -m benchmarks.overhead            # prints JSON lines; goal: ratio <= 1.02

Both methods run the same sampler, scoring and update on random weights and prompts;
no token stops a completion, so both do the same work. Steps alternate, and the figure
is the median of the ratios of neighbours, since a machine's speed drifts.
"""

import argparse
import json
import statistics

import jax
import numpy as np

from benchmarks import workload
from benchmarks.ours import parts
from hapo_jax.config import defaults, presets
from hapo_jax.model import policy as policy_lib
from hapo_jax.model import sharding

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
    if args.prompts < 2 or args.prompts % 2:
        parser.error(f"--prompts={args.prompts} must be even, for two updates a step.")

    mesh = sharding.make_mesh()
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
    config = presets.apply_method(defaults.default(), method)
    config.rollout.group_size = args.group_size
    config.rollout.max_prompt_tokens = args.prompt_tokens
    config.rollout.max_completion_tokens = args.completion_tokens
    config.rollout.share_prompts_from = 0
    config.learner.minibatch_prompts = args.prompts // 2
    config.learner.micro_rows = min(
        config.learner.minibatch_prompts * args.group_size, 16
    )
    config.learner.warmup_steps = 0
    shapes = parts.model_config(workload.model("tiny"))
    policy = policy_lib.make(shapes, parts.NumberTokenizer(), "", "auto", mesh)
    prompts = np.random.default_rng(0).integers(
        1, shapes.vocab_size, (args.prompts, args.prompt_tokens)
    )
    params = parts.random_params(policy, policy.train_shardings)
    whole_step = parts.make_step(config, policy, params, prompts.astype(np.int32))

    def step(i: int) -> tuple[float, float, float]:
        done = whole_step(i)
        return done.rollout_s, done.update_s, done.rollout_s + done.update_s

    return step


if __name__ == "__main__":
    main()
