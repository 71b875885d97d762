"""The demo: HAPO on Countdown by trial, from a small warm-started policy.

hapo-train --config=configs/countdown.py --workdir=runs/demo
hapo-train --config=configs/countdown.py:method=dapo --workdir=runs/dapo
hapo-sweep --config=configs/countdown.py --workdir=runs/sweep --jobs=2
"""

import pathlib

from hapo_jax import config, sweeps
from hapo_jax.algo.methods import METHODS


def get_config(arg=None):
    args = config.parse_arg(arg, method="hapo", seed=0)
    c = config.default()
    c.seed = args.seed
    c.num_steps = 150

    c.task.name = "countdown"
    game = dict(numbers=3, max_number=9, operators="+-*", operations=1)
    c.task.train = dict(split="train", size=10_000, seed=0, **game)
    c.task.test = dict(split="test", size=10_000, seed=0, **game)
    # Of a player who never gives up, for methods that imitate beside the rollout.
    c.task.demonstrations = dict(
        split="train",
        size=10_000,
        seed=0,
        num_problems=10_000,
        give_up=0.0,
        max_attempts=15,
        **game,
    )
    c.model.path = str(pathlib.Path(__file__).parent / "countdown_warm")

    c.rollout.batch_prompts = 32
    c.rollout.group_size = 8
    c.rollout.max_prompt_tokens = 7
    c.rollout.max_completion_tokens = 96  # 15 attempts
    c.rollout.max_rounds = 2

    c.learner.minibatch_prompts = 16
    c.learner.learning_rate = 2e-4
    c.learner.warmup_steps = 5
    c.learner.schedule = "cosine"
    c.learner.weight_decay = 0.01

    c.eval.every_steps = 30
    c.eval.num_problems = 256
    c.eval.top_p = 0.95
    return config.apply_method(c, args.method).lock()


def sweep(add):
    """HAPO and DAPO, five seeds each."""
    for changes in sweeps.product({":method": ("dapo", "hapo"), "seed": range(5)}):
        add(changes, name=changes[":method"])


def sweep_methods(add):
    """Every method, three seeds each, at equal sampled tokens.

    About 11 hours on two cores. A budget and no number of steps ends a run, so the
    learning rate stays constant.
    """
    budget = {
        "max_sampled_tokens": 2_000_000,  # as many as the demo's 150 steps of HAPO
        "num_steps": 100_000,
        "learner.schedule": "constant",
        "eval.every_steps": 0,
        "checkpoint.export_hf": False,
    }
    for seed in range(3):  # the outer loop, so that there is a whole table early
        for method, row in METHODS.items():
            add({":method": method, "seed": seed, **budget, **row.given}, name=method)
        sampled = {":method": "hapo", "algo.ratio_of": "sampled", "seed": seed}
        add({**sampled, **budget}, name="hapo_ratio_of_sampled")
