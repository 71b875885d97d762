"""HAPO on programs: trained on MBPP, evaluated on HumanEval.

    hapo-train --config=configs/mbpp.py:data=DATA \\
        --config.model.path=/models/Qwen2.5-1.5B-Instruct --workdir=runs/mbpp

`data` is a folder with mbpp.jsonl and humaneval.jsonl, whose rows have tests (see
`hapo_jax/tasks/code.py`). Programs run in a sandbox, on Linux alone. Sizes are for one
accelerator of 80 GB and a model of 1.5B.
"""

import pathlib

from hapo_jax import config

ASK = (
    "{problem}\nYour function should pass tests like this one:\n{example}\n"
    "Put the whole program in one block of Python."
)
COMPLETE = (
    "Complete this function. Put the whole function in one block of Python.\n\n"
    "```python\n{problem}```"
)


def get_config(arg=None):
    args = config.parse_arg(arg, method="hapo", seed=0, data="data")
    c = config.default()
    c.seed = args.seed
    c.num_steps = 100

    data = pathlib.Path(args.data)
    limits = dict(
        test_s=4.0,  # wall clock of one run of a program
        total_s=8.0,  # of all its tests; below grading.timeout_s
        memory_mib=1024,  # address space
    )
    c.task.name = "code"
    c.task.train = dict(
        split="train",
        path=str(data / "mbpp.jsonl"),
        prompt_template=ASK,
        subject="train",
        **limits,
    )
    c.task.test = dict(
        split="test",
        path=str(data / "humaneval.jsonl"),
        prompt_template=COMPLETE,
        subject="",
        **limits,
    )

    c.rollout.batch_prompts = 64
    c.rollout.group_size = 8
    c.rollout.max_prompt_tokens = 768
    c.rollout.max_completion_tokens = 1024
    c.rollout.chunk_tokens = 64

    c.learner.minibatch_prompts = 32
    c.learner.learning_rate = 1e-6

    c.eval.every_steps = 20
    c.eval.num_problems = 0
    c.eval.k = 4
    return config.apply_method(c, args.method).lock()
