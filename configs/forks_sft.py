"""Warm start of the forks: imitate a walker who keeps to the road and picks at random.

    hapo-sft --config=configs/forks_sft.py --workdir=runs/forks_warm

The committed `configs/forks_warm` is the `hf/` folder of this run. It is the same for
every share of forced words.
"""

from hapo_jax import config


def get_config(arg=None):
    config.parse_arg(arg)
    c = config.default_sft()
    c.num_steps = 1500

    c.task.name = "forks"
    road = dict(columns=24, exits=2, luck=0.1, senses=("over", "under"))
    walked = dict(shares=(0.0, 0.25, 0.5, 0.75), skill=0.5, **road)
    c.task.train = dict(
        split="train", size=50_000, seed=0, num_problems=2_500, **walked
    )
    c.task.test = dict(split="test", size=1_000, seed=0, num_problems=250, **walked)
    c.task.words = dict(columns=24)

    c.max_prompt_tokens = 52
    c.max_completion_tokens = 25
    c.learner.batch_rows = 32
    c.learner.learning_rate = 3e-3
    c.learner.warmup_steps = 100
    c.learner.schedule = "cosine"

    c.model.init = dict(
        model_type="qwen3",
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
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
