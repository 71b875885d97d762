"""Warm start of the Countdown demo: imitate a player that tries at random.

    hapo-sft --config=configs/countdown_sft.py --workdir=runs/warm

The committed `configs/countdown_warm` is the `hf/` folder of this run.
"""

from hapo_jax import config


def get_config(arg=None):
    config.parse_arg(arg)
    c = config.default_sft()
    c.num_steps = 2500

    c.task.name = "countdown"
    game = dict(numbers=3, max_number=9, operators="+-*", operations=1)
    played = dict(num_problems=10_000, give_up=0.25, max_attempts=8, **game)
    c.task.train = dict(split="train", size=100_000, seed=0, **played)
    c.task.test = dict(split="test", size=1_000, seed=0, **played)
    c.task.words = dict(max_number=9, operations=1)

    c.max_prompt_tokens = 7
    c.max_completion_tokens = 50
    c.learner.batch_rows = 128
    c.learner.learning_rate = 3e-3
    c.learner.warmup_steps = 100
    c.learner.schedule = "cosine"

    c.model.init = dict(
        model_type="qwen3",
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        rms_norm_eps=1e-6,
        rope_theta=1000.0,
        tie_word_embeddings=True,
        initializer_range=0.05,
    )
    return c.lock()
