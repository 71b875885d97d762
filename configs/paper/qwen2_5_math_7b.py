"""Qwen2.5-Math-7B as in the paper (arXiv 2509.16591); `:method=dapo` for DAPO.

    hapo-train --config=configs/paper/qwen2_5_math_7b.py:data=DATA \\
        --config.model.path=/models/Qwen2.5-Math-7B --workdir=runs/a
    hapo-plan --config=configs/paper/qwen2_5_math_7b.py --topology=v6e:8x8 \\
        --completion_tokens=4096

It fits on v6e:8x8: at most 14.2 of 31.25 GiB per chip, says that plan, and 457 s per
step at the chips' full speed if completions have 4,096 tokens on average
(`benchmarks/results/plans/qwen2_5_math_7b-v6e-8x8.json`).

The checkpoint's config.json must have max_position_embeddings=32768, as the paper's
had.

The paper's result: accuracy 46.97 % with DAPO, 50.04 % with HAPO (average of six
sets).
"""

from hapo_jax.config import paper

SIZES = dict(
    model_type="qwen2",
    vocab_size=152064,
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    max_position_embeddings=32768,
    rms_norm_eps=1e-06,
    rope_theta=10000,
    tie_word_embeddings=False,
)


def get_config(arg=None):
    return paper.get_config(
        arg,
        sizes=SIZES,
        max_completion_tokens=10240,
        overlong_buffer_tokens=4096,
        tensor=4,
    )
