"""Warm start of the forks, in two runs: the rules of the road, then a hint of taste.

    hapo-sft --config=configs/forks_sft.py --workdir=runs/rules
    hapo-sft --config=configs/forks_sft.py:rules=runs/rules/hf --workdir=runs/hint

The first walker keeps to the road and picks at random. The second takes the better word
in 55 % of the forks, so that the policy has looked at what its choices depend on;
without that it learns by its rewards to like large digits, and half of the problems.
The committed `configs/forks_warm` is the `hf/` folder of the second run. It is the same
for every share of forced words.
"""

from ml_collections import ConfigDict

from hapo_jax import config
from hapo_jax.tasks import forks


def get_config(arg=None):
    args = config.parse_arg(arg, rules="")
    c = config.default_sft()
    c.num_steps = 250 if args.rules else 1500

    c.task.name = "forks"
    road = dict(columns=24, exits=2, luck=0.1, senses=forks.SENSES)
    walked = dict(shares=forks.SHARES, skill=0.55 if args.rules else 0.5, **road)
    train, test = dict(split="train", seed=0), dict(split="test", seed=0)
    if args.rules:
        train |= dict(size=10_000, num_problems=600)
        test |= dict(size=300, num_problems=60)
    else:
        train |= dict(size=50_000, num_problems=2_500)
        test |= dict(size=1_000, num_problems=250)
    c.task.train = {**train, **walked}
    c.task.test = {**test, **walked}

    c.max_prompt_tokens = 52
    c.max_completion_tokens = 25
    c.learner.batch_rows = 32
    c.learner.learning_rate = 1e-3 if args.rules else 3e-3
    c.learner.warmup_steps = 20 if args.rules else 100
    c.learner.schedule = "cosine"

    c.model.path = args.rules
    if not args.rules:
        c.task.words = dict(columns=24)
        c.model.init = _SIZES
    return c.lock()


_SIZES = ConfigDict(
    dict(
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
)
