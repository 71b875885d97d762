"""Qwen3-8B-Base as in the paper (arXiv 2509.16591); `:method=dapo` for DAPO.

    hapo-train --config=configs/paper/qwen3_8b.py:data=DATA \\
        --config.model.path=/models/Qwen3-8B-Base --workdir=runs/a
    hapo-plan --config=configs/paper/qwen3_8b.py --topology=v5p:4x4x4 \\
        --completion_tokens=6144

It fits on v5p:4x4x4: at most 26.8 of 95.74 GiB per chip, says that plan, and 1200 s per
step at the chips' full speed if completions have 6,144 tokens on average
(`benchmarks/results/plans/qwen3_8b-v5p-4x4x4.json`).

The paper's result: accuracy 50.00 % with DAPO, 51.97 % with HAPO (average of six
sets).
"""

from hapo_jax.config import paper

SIZES = dict(
    model_type="qwen3",
    vocab_size=151936,
    hidden_size=4096,
    intermediate_size=12288,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    max_position_embeddings=40960,
    rms_norm_eps=1e-06,
    rope_theta=1000000,
    tie_word_embeddings=False,
)


def get_config(arg=None):
    return paper.get_config(
        arg,
        sizes=SIZES,
        max_completion_tokens=12288,
        overlong_buffer_tokens=4096,
        tensor=4,
    )
