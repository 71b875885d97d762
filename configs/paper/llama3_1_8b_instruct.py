"""Llama-3.1-8B-Instruct as in the paper (arXiv 2509.16591); `:method=dapo` for DAPO.

    hapo-train --config=configs/paper/llama3_1_8b_instruct.py:data=DATA \\
        --config.model.path=/models/Llama-3.1-8B-Instruct --workdir=runs/a
    hapo-plan --config=configs/paper/llama3_1_8b_instruct.py --topology=v6e:8x8 \\
        --completion_tokens=1024

No plan has been kept for this one: run the second command before renting, and choose
the slice by it.

HAPO's recipe for it is published with the paper; no result is quoted here.
"""

from hapo_jax import paper

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
