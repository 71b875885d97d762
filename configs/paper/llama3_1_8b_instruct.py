"""Llama-3.1-8B-Instruct as in the paper (arXiv 2509.16591); `:method=dapo` for DAPO.

    hapo-train --config=configs/paper/llama3_1_8b_instruct.py:data=DATA \\
        --config.model.path=/models/Llama-3.1-8B-Instruct --workdir=runs/a
    hapo-plan --config=configs/paper/llama3_1_8b_instruct.py --topology=v6e:8x8 \\
        --completion_tokens=1024

It fits on v6e:8x8: at most 17.3 of 31.25 GiB per chip, says that plan, and 124 s per
step at the chips' full speed if completions have 1,024 tokens on average
(`benchmarks/results/plans/llama3_1_8b_instruct-v6e-8x8.json`).

HAPO's recipe for it is published with the paper; no result is quoted here.
"""

from hapo_jax.config import paper

SIZES = dict(
    model_type="llama",
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=131072,
    rms_norm_eps=1e-05,
    rope_theta=500000.0,
    rope_scaling={
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    tie_word_embeddings=False,
)


def get_config(arg=None):
    return paper.get_config(
        arg,
        sizes=SIZES,
        max_completion_tokens=4096,
        overlong_buffer_tokens=0,
        tensor=4,
    )
