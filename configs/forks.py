"""Forks: does it help to treat tokens by their entropy, and does it the more, the more
they differ?

hapo-train --config=configs/forks.py --workdir=runs/forks
hapo-train --config=configs/forks.py:method=dapo,forced=0.25 --workdir=runs/forks_dapo
hapo-sweep --config=configs/forks.py:sweep=ablation --workdir=runs/ablation --jobs=2
"""

import pathlib

from hapo_jax import config, sweeps
from hapo_jax.tasks import forks

# A budget ends a run, so that methods compare at equal sampled tokens.
BUDGET = {
    "max_sampled_tokens": 220_000,  # as many as 30 steps of DAPO
    "num_steps": 100_000,
    "eval.every_steps": 10,  # for curves; half of the problems pay for them
    "eval.num_problems": 128,
    "log.record_groups": 32,
    "checkpoint.export_hf": False,
}
SEEDS = range(8)
STRENGTHS = {
    "A": "algo.temperature.strength",
    "B": "algo.token_group.strength",
    "C": "algo.redistribution.strength",
    "D": "algo.clip.strength",
}
RATES = (1e-4, 2e-4, 4e-4, 8e-4)


def get_config(arg=None):
    args = config.parse_arg(arg, method="hapo", seed=0, forced=0.75)
    c = config.default()
    c.seed = args.seed
    c.num_steps = 30

    c.task.name = "forks"
    road = dict(columns=24, exits=2, luck=0.1, senses=forks.SENSES)
    c.task.train = dict(split="train", size=5_000, seed=0, forced=args.forced, **road)
    c.task.test = dict(split="test", size=256, seed=0, forced=args.forced, **road)
    # Of a walker who takes the better way, for methods that imitate beside the rollout.
    c.task.demonstrations = dict(
        split="train",
        size=5_000,
        seed=0,
        num_problems=5_000,
        shares=(args.forced,),
        skill=1.0,
        **road,
    )
    c.model.path = str(pathlib.Path(__file__).parent / "forks_warm")

    c.rollout.batch_prompts = 32
    c.rollout.group_size = 8
    c.rollout.max_prompt_tokens = 52
    c.rollout.max_completion_tokens = 25
    c.rollout.max_rounds = 2

    c.learner.minibatch_prompts = 4  # 8 updates a step
    c.learner.learning_rate = 4e-4
    c.learner.warmup_steps = 5
    c.learner.schedule = "constant"
    c.learner.weight_decay = 0.01

    c.eval.every_steps = 20
    c.eval.num_problems = 256
    return config.apply_method(c, args.method).lock()


def sweep(add):
    """Does HAPO gain the more, the more tokens differ, and nothing where none do?"""
    axes = {"seed": SEEDS, ":forced": forks.SHARES, ":method": ("dapo", "hapo")}
    for changes in sweeps.product(axes):
        add({**changes, **BUDGET}, name=f"{changes[':method']}_{changes[':forced']}")


def sweep_ablation(add):
    """Parts of HAPO left out and alone, its rivals, and the controls."""
    hapo, dapo = {":method": "hapo"}, {":method": "dapo"}

    def off(parts):
        return {**hapo, **{STRENGTHS[part]: 0.0 for part in parts}}

    variants = {
        "hapo": hapo,
        **{f"without_{part}": off(part) for part in "ABCD"},
        **{f"only_{part}": off("ABCD".replace(part, "")) for part in "ABCD"},
        "A+B": off("CD"),  # and A+B+C is without_D
        "hapo_public": {":method": "hapo_public"},
        "dapo": dapo,
        "grpo": {":method": "grpo"},
        "forking": {":method": "forking"},
        "oracle": {**dapo, "algo.mask.name": "forks"},
        "shuffled": {**hapo, "algo.entropy.control": "shuffled"},
        "constant": {**hapo, "algo.entropy.control": "constant"},
    }
    for seed in SEEDS:  # the outer loop, so that there is a whole table early
        for name, changes in variants.items():
            add({**changes, "seed": seed, **BUDGET}, name=name)


def sweep_learning_rate(add):
    """Four rates each for DAPO and HAPO: the best of DAPO's is the file's."""
    axes = {
        "seed": SEEDS,
        ":method": ("dapo", "hapo"),
        "learner.learning_rate": RATES,
    }
    for changes in sweeps.product(axes):
        name = f"{changes[':method']}_{changes['learner.learning_rate']:g}"
        add({**changes, **BUDGET}, name=name)


def sweep_sensitivity(add):
    """HAPO with one setting changed at a time; `hapo` is the paper's."""
    variants = {
        "hapo": {},
        **{f"quantile_{q:g}": {"algo.entropy.quantile": q} for q in (0.5, 0.7, 0.9)},
        **{f"tau_{t:g}": {"algo.temperature.strength": t} for t in (0.05, 0.2, 0.4)},
        **{f"floor_{f:g}": {"algo.entropy.floor": f} for f in (1e-6, 1e-4, 1e-2)},
        "public_sign": {"algo.entropy.low_sign": "public"},
        "scaled_temperature": {"algo.temperature.score": "scaled"},
        "current_entropy": {"algo.entropy.source": "current"},
        "micro_statistics": {"algo.entropy.scope": "micro"},
        "ratio_of_sampled": {"algo.ratio_of": "sampled"},
    }
    for seed in SEEDS:
        for name, changes in variants.items():
            add({":method": "hapo", **changes, "seed": seed, **BUDGET}, name=name)
