"""The shape of a policy, read from a Hugging Face `config.json`.

`ModelConfig.from_hf` is the only place that knows Hugging Face's field names and
the differences between model families; `transformer.py` sees sizes and switches.
"""

import dataclasses
from typing import Any

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
SUPPORTED = tuple(ARCHITECTURES)
# In the order of `RopeScaling`.
_LLAMA3_ROPE = (
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
)


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama-3 frequency scaling (`rope_type: llama3`); all values dimensionless
    but `original_max_positions`, in tokens."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of a dense decoder. Lengths in tokens.

    `unused_ids` are ranges (first, behind the last) of ids that embeddings have room
    for and the tokenizer does not have. The policy gives them probability 0: nobody
    could read them, so they must be neither drawn nor reinforced.
    """

    model_type: str
    vocab_size: int  # V
    d_model: int  # D
    d_ff: int  # F
    num_layers: int  # L
    num_heads: int  # H
    num_kv_heads: int  # K
    head_dim: int  # C
    max_positions: int
    rms_eps: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False
    qk_norm: bool = False
    tie_embeddings: bool = False
    init_std: float = 0.02
    unused_ids: tuple[tuple[int, int], ...] = ()

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_attention_heads={self.num_heads} must be a multiple of "
                f"num_key_value_heads={self.num_kv_heads}; check config.json."
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim={self.head_dim} must be even, since rotary embedding "
                "turns pairs of channels; check config.json."
            )

    @classmethod
    def from_hf(cls, hf: dict[str, Any]) -> "ModelConfig":
        """Reads the fields of a Hugging Face `config.json`.

        Both spellings of the rotary settings are read: `rope_theta` with
        `rope_scaling` (transformers 4) and `rope_parameters` (transformers 5).

        Raises:
          ValueError: an unknown `model_type`, a missing field, or a feature that
            this decoder does not have (named with its value).
        """
        model_type = hf.get("model_type")
        if model_type not in SUPPORTED:
            raise ValueError(
                f"config.json: model_type={model_type!r} is not supported; this "
                f"package reads {', '.join(SUPPORTED)} (dense decoders)."
            )
        missing = [k for k in _REQUIRED if hf.get(k) is None]
        if missing:
            raise ValueError(f"config.json lacks {', '.join(missing)}.")
        _refuse_unsupported(hf)
        rope = dict(hf.get("rope_parameters") or hf.get("rope_scaling") or {})
        theta = rope.get("rope_theta", hf.get("rope_theta", 10_000.0))
        heads = hf["num_attention_heads"]
        return cls(
            model_type=model_type,
            vocab_size=hf["vocab_size"],
            d_model=hf["hidden_size"],
            d_ff=hf["intermediate_size"],
            num_layers=hf["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=hf.get("num_key_value_heads") or heads,
            head_dim=hf.get("head_dim") or hf["hidden_size"] // heads,
            max_positions=hf["max_position_embeddings"],
            rms_eps=hf["rms_norm_eps"],
            rope_theta=float(theta),
            rope_scaling=_rope_scaling(rope),
            # Qwen2 always has the bias, and its config.json does not say so.
            qkv_bias=model_type == "qwen2" or bool(hf.get("attention_bias", False)),
            qk_norm=model_type == "qwen3",
            tie_embeddings=bool(hf.get("tie_word_embeddings", False)),
            init_std=float(hf.get("initializer_range", 0.02)),
        )

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` of a model that came from none.

        Written in the spelling that transformers 4 and 5 both read (`rope_theta` with
        `rope_scaling`). `from_hf` of the result is this config, unless it mixes
        features of several families.
        """
        hf = {
            "architectures": [ARCHITECTURES[self.model_type]],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.d_model,
            "intermediate_size": self.d_ff,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": self.rms_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": None,
            "tie_word_embeddings": self.tie_embeddings,
            "initializer_range": self.init_std,
            "hidden_act": "silu",
            "attention_dropout": 0.0,
            "use_cache": True,
        }
        if self.rope_scaling is not None:
            values = dataclasses.astuple(self.rope_scaling)
            hf["rope_scaling"] = {
                "rope_type": "llama3",
                **dict(zip(_LLAMA3_ROPE, values, strict=True)),
            }
        return hf


_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)


def _refuse_unsupported(hf: dict[str, Any]) -> None:
    """Raises on settings that would silently compute something else."""
    if hf.get("hidden_act", "silu") != "silu":
        raise ValueError(
            f"config.json: hidden_act={hf['hidden_act']!r}; only 'silu' is supported."
        )
    if hf.get("use_sliding_window"):
        raise ValueError(
            "config.json: use_sliding_window=true is not supported; set it to false "
            "if your sequences are shorter than the window."
        )
    if hf.get("mlp_bias"):
        raise ValueError("config.json: mlp_bias=true is not supported.")
    if hf.get("attention_bias") and hf["model_type"] != "qwen2":
        raise ValueError(
            f"config.json: attention_bias=true is not supported for "
            f"model_type={hf['model_type']!r} (it would add an output bias)."
        )


def _rope_scaling(rope: dict[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise ValueError(
            f"config.json: rope_type={kind!r} is not supported; 'default' and "
            "'llama3' are."
        )
    missing = [key for key in _LLAMA3_ROPE if rope.get(key) is None]
    if missing:
        raise ValueError(
            f"config.json: rope_type='llama3' lacks {', '.join(missing)}; copy them "
            "from the original model."
        )
    *factors, positions = (rope[key] for key in _LLAMA3_ROPE)
    return RopeScaling(*map(float, factors), int(positions))
