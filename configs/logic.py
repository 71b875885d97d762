"""HAPO on knights and knaves, drawn as the run needs them: no data files.

    hapo-train --config=configs/logic.py:people=5 \\
        --config.model.path=/models/Qwen2.5-1.5B-Instruct --workdir=runs/logic

Training puzzles have 3 to `people` persons, held-out ones `people`, each puzzle with
exactly one solution. Sizes are for one accelerator of 80 GB and a model of 1.5B.
"""

from hapo_jax import config

PROMPT = (
    "{problem}\nThink step by step. Then give your answer between <answer> and "
    "</answer>, one line per person, such as: Ada is a knight."
)


def get_config(arg=None):
    args = config.parse_arg(arg, method="hapo", seed=0, people=5)
    c = config.default()
    c.seed = args.seed
    c.num_steps = 200

    c.task.name = "logic"
    drawn = dict(path="", prompt_template=PROMPT, seed=0, max_people=args.people)
    c.task.train = dict(
        split="train", size=5_000, min_people=min(3, args.people), **drawn
    )
    c.task.test = dict(split="test", size=500, min_people=args.people, **drawn)

    c.rollout.batch_prompts = 64
    c.rollout.group_size = 8
    c.rollout.max_prompt_tokens = 768
    c.rollout.max_completion_tokens = 1024
    c.rollout.chunk_tokens = 64

    c.learner.minibatch_prompts = 32
    c.learner.learning_rate = 1e-6

    c.eval.every_steps = 20
    c.eval.num_problems = 256
    c.eval.k = 4
    return config.apply_method(c, args.method).lock()
