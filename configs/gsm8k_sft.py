"""Warm start on GSM8K: imitate its written solutions, from a Hugging Face checkpoint.

    hapo-sft --config=configs/gsm8k_sft.py:data=DATA \\
        --config.model.path=/models/Qwen2.5-0.5B --workdir=runs/gsm8k_sft
    hapo-train --config=configs/gsm8k.py:data=DATA,prompt=hashes \\
        --config.model.path=runs/gsm8k_sft/hf --workdir=runs/gsm8k

`data` is a folder with gsm8k_train.jsonl.gz and gsm8k_test.jsonl (lines of
`problem, solution`). Solutions keep the data set's calculator marks, `<<48/2=24>>`, and
end in `#### 72`, which the verifier reads. Three epochs of 7,473 solutions; sizes are
for one accelerator of 80 GB and a model of up to 1.5B.
"""

import pathlib

from hapo_jax import config

# The same text as in gsm8k.py.
PROMPT = (
    "{problem}\nPlease reason step by step, and write your final answer behind #### on "
    "the last line."
)


def get_config(arg=None):
    args = config.parse_arg(arg, seed=0, data="data")
    c = config.default_sft()
    c.seed = args.seed
    c.num_steps = 350

    data = pathlib.Path(args.data)
    c.task.name = "math"
    c.task.train = dict(
        split="train",
        path=str(data / "gsm8k_train.jsonl.gz"),
        prompt_template=PROMPT,
        size=0,
    )
    c.task.test = dict(
        split="test",
        path=str(data / "gsm8k_test.jsonl"),
        prompt_template=PROMPT,
        size=512,
    )

    # The longest problem and solution have 235 and 454 tokens of Qwen's.
    c.max_prompt_tokens = 320
    c.max_completion_tokens = 512

    c.learner.batch_rows = 64
    c.learner.learning_rate = 1e-5
    c.learner.warmup_steps = 20
    c.learner.schedule = "cosine"

    c.eval.every_steps = 50
    c.checkpoint.every_steps = 100
    return c.lock()
