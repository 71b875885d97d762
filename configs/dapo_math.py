"""HAPO on DAPO-Math-17k with the paper's settings, evaluated on AIME 2024.

    hapo-train --config=configs/dapo_math.py:data=DATA \\
        --config.model.path=/models/Qwen2.5-Math-7B --workdir=runs/dapo_math

`data` is a folder with dapo_math_17k.jsonl.gz and aime24.jsonl (lines of
`id, problem, answer`); verl's parquet files work as well, without a template since
they hold whole messages:

    --config.task.train.path=dapo-math-17k.parquet --config.task.train.prompt_template=

Repeated, contradictory and broken problems, and those that evaluation sets share, stay
in as in the paper; a flag file leaves them out:

    --config.data.exclude_ids=DATA/dapo_math_17k_flags.json

512 prompts × 16 completions of up to 10,240 + 4,096 tokens: for a pod.
"""

import pathlib

from hapo_jax import config
from hapo_jax.config import paper


def get_config(arg=None):
    args = config.parse_arg(arg, method="hapo", seed=0, data="data")
    c = config.default()
    c.seed = args.seed
    c.num_steps = 300

    data = pathlib.Path(args.data)
    c.task.name = "math"
    c.task.train = dict(
        split="train",
        path=str(data / "dapo_math_17k.jsonl.gz"),
        prompt_template=paper.PROMPT,
        grading="hapo",  # the published code's decision; see tasks/math.py
    )
    c.task.test = dict(
        split="test",
        path=str(data / "aime24.jsonl"),
        prompt_template=paper.PROMPT,
        grading="hapo",
    )

    c.rollout.batch_prompts = 512
    c.rollout.group_size = 16
    c.rollout.max_prompt_tokens = 1024
    c.rollout.overlong_prompts = "truncate"
    c.rollout.max_completion_tokens = 14336
    c.rollout.chunk_tokens = 128
    c.reward.overlong_buffer_tokens = 4096

    c.learner.minibatch_prompts = 32
    c.learner.learning_rate = 1e-6
    c.learner.warmup_steps = 10  # rollouts, each of 16 updates, as in the recipe
    c.learner.weight_decay = 0.1

    c.mesh.data = 1
    c.mesh.fsdp = -1

    c.eval.every_steps = 10
    c.eval.num_problems = 0
    c.eval.k = 8
    c.eval.temperature = 0.5
    c.eval.top_p = 0.7
    return config.apply_method(c, args.method).lock()
