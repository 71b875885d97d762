"""Forks: does it help to treat tokens by their entropy, and does it the more, the more
they differ?

hapo-train --config=configs/forks.py --workdir=runs/forks
hapo-train --config=configs/forks.py:method=dapo,forced=0.25 --workdir=runs/forks_dapo
"""

import pathlib

from hapo_jax import config


def get_config(arg=None):
    args = config.parse_arg(arg, method="hapo", seed=0, forced=0.75)
    c = config.default()
    c.seed = args.seed
    c.num_steps = 60

    c.task.name = "forks"
    road = dict(columns=24, exits=2, luck=0.1)
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
    c.learner.learning_rate = 2e-4
    c.learner.warmup_steps = 5
    c.learner.schedule = "constant"
    c.learner.weight_decay = 0.01

    c.eval.every_steps = 20
    c.eval.num_problems = 256
    return config.apply_method(c, args.method).lock()
