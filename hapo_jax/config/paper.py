"""The settings that the paper's models have in common (arXiv 2509.16591).

`configs/paper/` has one file per model, which says what is particular to it. Where the
paper's text and its published recipes differ, the clip range (0.2/0.28) and the
temperature's strength (0.1) are the text's, and the lengths are the recipes'.
"""

import pathlib

from ml_collections import ConfigDict

from hapo_jax.config import arguments, defaults, presets

# The prompt of the published DAPO-Math-17k.
PROMPT = (
    "Solve the following math problem step by step. The last line of your response "
    "should be of the form Answer: $Answer (without quotes) where $Answer is the "
    "answer to the problem.\n\n{problem}\n\nRemember to put your answer on its own "
    'line after "Answer:".'
)


def get_config(
    arg: str | None,
    *,
    sizes: dict,
    max_completion_tokens: int,
    overlong_buffer_tokens: int,
    tensor: int,
) -> ConfigDict:
    """The config of one model.

    Args:
      arg: `method=dapo`, `seed=3`, `data=FOLDER` with dapo_math_17k.jsonl.gz and
        aime24.jsonl.
      sizes: fields of its config.json, for `hapo-plan` without the checkpoint.
      max_completion_tokens, overlong_buffer_tokens: of the recipe; 0 switches the
        penalty off.
      tensor: chips of a host that share a copy of the weights.

    Returns:
      The locked config.
    """
    args = arguments.parse_arg(arg, method="hapo", seed=0, data="data")
    c = defaults.default()
    c.seed = args.seed
    c.num_steps = 300
    c.model.sizes = sizes

    data = pathlib.Path(args.data)
    c.task.name = "math"
    c.task.train = dict(
        split="train",
        path=str(data / "dapo_math_17k.jsonl.gz"),
        prompt_template=PROMPT,
        grading="hapo",
    )
    c.task.test = dict(
        split="test",
        path=str(data / "aime24.jsonl"),
        prompt_template=PROMPT,
        grading="hapo",
    )

    c.rollout.batch_prompts = 512
    c.rollout.max_rounds = 16
    c.rollout.group_size = 16
    c.rollout.max_prompt_tokens = 1024
    c.rollout.overlong_prompts = "truncate"
    c.rollout.max_completion_tokens = max_completion_tokens
    c.rollout.chunk_tokens = 128
    c.rollout.memory_fraction = 0.5
    c.reward.overlong_buffer_tokens = overlong_buffer_tokens
    c.grading.workers = 16

    c.learner.minibatch_prompts = 32
    c.learner.learning_rate = 1e-6
    c.learner.warmup_steps = 10  # rollouts, each of 16 updates, as in the recipe
    c.learner.weight_decay = 0.1
    c.learner.remat = "full"
    # Per device. The unembedding is gathered, and its gradient read and written, once
    # per chunk: few, large ones.
    c.learner.chunk_tokens = 512 * tensor

    c.mesh.data = 1
    c.mesh.fsdp = -1
    c.mesh.tensor = tensor

    c.eval.every_steps = 10
    c.eval.num_problems = 0
    c.eval.k = 8
    c.eval.temperature = 0.5
    c.eval.top_p = 0.7
    return presets.apply_method(c, args.method).lock()
