"""Qwen2.5-Math-1.5B as in the paper (arXiv 2509.16591); `:method=dapo` for DAPO.

    hapo-train --config=configs/paper/qwen2_5_math_1_5b.py:data=DATA \\
        --config.model.path=/models/Qwen2.5-Math-1.5B --workdir=runs/a
    hapo-plan --config=configs/paper/qwen2_5_math_1_5b.py --topology=v5e:8x8 \\
        --completion_tokens=4096

It fits on v5e:8x8: at most 6.0 of 15.75 GiB per chip, says that plan, and 433 s per
step at the chips' full speed if completions have 4,096 tokens on average
(`benchmarks/results/plans/qwen2_5_math_1_5b-v5e-8x8.json`).

The checkpoint's config.json must have max_position_embeddings=16384, as the paper's
had.

The paper's result: accuracy 38.34 % with DAPO, 40.62 % with HAPO (average of six
sets).
"""

from hapo_jax.config import paper

SIZES = dict(
    model_type="qwen2",
    vocab_size=151936,
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=28,
    num_attention_heads=12,
    num_key_value_heads=2,
    max_position_embeddings=16384,
    rms_norm_eps=1e-06,
    rope_theta=10000,
    tie_word_embeddings=True,
)


def get_config(arg=None):
    return paper.get_config(
        arg,
        sizes=SIZES,
        max_completion_tokens=10240,
        overlong_buffer_tokens=4096,
        tensor=2,
    )
