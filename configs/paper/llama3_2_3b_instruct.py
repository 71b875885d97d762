"""Llama-3.2-3B-Instruct as in the paper (arXiv 2509.16591); `:method=dapo` for DAPO.

    hapo-train --config=configs/paper/llama3_2_3b_instruct.py:data=DATA \\
        --config.model.path=/models/Llama-3.2-3B-Instruct --workdir=runs/a
    hapo-plan --config=configs/paper/llama3_2_3b_instruct.py --topology=v5e:8x8 \\
        --completion_tokens=1024

It fits on v5e:8x8: at most 6.2 of 15.75 GiB per chip, says that plan, and 218 s per
step at the chips' full speed if completions have 1,024 tokens on average
(`benchmarks/results/plans/llama3_2_3b_instruct-v5e-8x8.json`).

The paper's result: accuracy 22.99 % with DAPO, 27.42 % with HAPO (average).
"""

from hapo_jax.config import paper

SIZES = dict(
    model_type="llama",
    vocab_size=128256,
    hidden_size=3072,
    intermediate_size=8192,
    num_hidden_layers=28,
    num_attention_heads=24,
    num_key_value_heads=8,
    head_dim=128,
    max_position_embeddings=131072,
    rms_norm_eps=1e-05,
    rope_theta=500000.0,
    rope_scaling={
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    tie_word_embeddings=True,
)


def get_config(arg=None):
    return paper.get_config(
        arg,
        sizes=SIZES,
        max_completion_tokens=4096,
        overlong_buffer_tokens=0,
        tensor=4,
    )
