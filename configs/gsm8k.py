"""HAPO on GSM8K, from any Hugging Face checkpoint of a supported family.

    hapo-train --config=configs/gsm8k.py:data=DATA \\
        --config.model.path=/models/Qwen2.5-Math-1.5B --workdir=runs/gsm8k

`data` is a folder with gsm8k_train.jsonl.gz and gsm8k_test.jsonl (lines of
`id, problem, answer`). For a checkpoint of gsm8k_sft.py add `,prompt=hashes`, which
asks as that did. Sizes are for one accelerator of 80 GB and a model of 1.5B.
"""

import pathlib

from hapo_jax import config
from hapo_jax.system.errors import Refused

PROMPTS = {
    "boxed": "{problem}\nPlease reason step by step, and put your final answer within "
    "\\boxed{}.",
    # The data set's own form of an answer; the same text as in gsm8k_sft.py.
    "hashes": "{problem}\nPlease reason step by step, and write your final answer "
    "behind #### on the last line.",
}


def get_config(arg=None):
    args = config.parse_arg(arg, method="hapo", seed=0, data="data", prompt="boxed")
    if args.prompt not in PROMPTS:
        raise Refused(f"prompt={args.prompt!r} must be one of {', '.join(PROMPTS)}.")
    c = config.default()
    c.seed = args.seed
    c.num_steps = 200

    data = pathlib.Path(args.data)
    c.task.name = "math"
    c.task.train = dict(
        split="train",
        path=str(data / "gsm8k_train.jsonl.gz"),
        prompt_template=PROMPTS[args.prompt],
    )
    c.task.test = dict(
        split="test",
        path=str(data / "gsm8k_test.jsonl"),
        prompt_template=PROMPTS[args.prompt],
    )

    c.rollout.batch_prompts = 128
    c.rollout.group_size = 8
    c.rollout.max_prompt_tokens = 512
    c.rollout.max_completion_tokens = 1024
    c.rollout.chunk_tokens = 64
    c.reward.overlong_buffer_share = 0.25

    c.learner.minibatch_prompts = 32
    c.learner.learning_rate = 1e-6

    c.eval.every_steps = 20
    c.eval.num_problems = 256
    c.eval.k = 4
    return config.apply_method(c, args.method).lock()
